"""What is wrong with a push before anything is started: no repository, no token, somebody else's namespace."""

from __future__ import annotations

import dataclasses
import re
import threading
from typing import Any

from huggingface_hub import HfApi, constants, get_session, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_tti.console import complain
from hf_tti.errors import UserError, did_you_mean
from hf_tti.hub.errors import reason_of, response_of
from hf_tti.hub.licenses import LICENSES
from hf_tti.recipe import Recipe
from hf_tti.recipe.sections import HubSection

_LISTED_AT = "https://huggingface.co/docs/hub/repositories-licenses"
ANSWER_S = 5.0  # to say who we are; a Hub that takes longer is taken for one that is down


def check_hub(section: HubSection) -> None:
    """Before training. A Hub that does not answer is no mistake: it is said, and the run starts.

    Raises:
        UserError: a push that cannot succeed.
    """
    check_license(section.license)
    if section.push == "none":
        return
    if not section.repo:
        raise UserError(f"hub.repo: missing; hub.push: {section.push} needs owner/name")
    _check(section.repo, "hub.repo", f"hub.push: {section.push}", ", or set hub.push=none")


def check_target(repo: str, *, ask: bool = True) -> None:
    """The same for `hf-tti push --repo`; without `ask` only what needs no answer of the Hub."""
    _check(repo, "--repo", "a push", "", ask=ask)


def check_license(name: str | None, place: str = "hub.license") -> None:
    """Raises UserError where the Hub would refuse the card for its licence."""
    if name is not None and name not in LICENSES:
        guess = did_you_mean(name, sorted(LICENSES)) or ", or write other"
        raise UserError(f"{place}: {name!r} is no licence that the Hub knows{guess}; see {_LISTED_AT}")


def _check(repo: str, place: str, what: str, otherwise: str, *, ask: bool = True) -> None:
    try:
        validate_repo_id(repo)
        named = re.fullmatch(r"[^/]+/[^/]+", repo) is not None
    except HFValidationError:
        named = False
    if not named:
        raise UserError(f"{place}: {repo!r} is no name of a repository; write owner/name")
    if get_token() is None:
        raise UserError(f"{what} needs a token; set HF_TOKEN, log in with hf auth login{otherwise}")
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{what} needs the Hub, and HF_HUB_OFFLINE is set; unset it{otherwise}")
    if not ask:
        return
    me, error = _whoami()
    if me is not None:
        _check_access(me, repo, place)
        return
    response = error and response_of(error)
    if response is not None and response.status_code == 401:
        raise UserError(f"{what}: the Hub does not accept the token; set another HF_TOKEN, or hf auth login again")
    reason = reason_of(error) if error else f"no answer in {ANSWER_S:.0f} s"
    complain(f"the Hub cannot be asked whether {repo} is yours ({reason}); going on, pushes wait until it answers")


def _check_access(me: dict[str, Any], repo: str, place: str) -> None:
    owner = repo.partition("/")[0]
    ours = [me["name"], *(org["name"] for org in me.get("orgs", []))]
    if owner not in ours:
        guess = next((f" (did you mean {name!r}?)" for name in ours if name.lower() == owner.lower()), "")
        raise UserError(f"{place}: {repo} belongs to somebody else{guess}; the token is of {', '.join(ours)}")
    role = ((me.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise UserError(f"{place}: the token of {me['name']} may only read; make one that may write to {owner}")


def _whoami() -> tuple[dict[str, Any] | None, Exception | None]:
    """Who the token belongs to, or what went wrong, or neither where the Hub took too long."""
    found: list[Any] = [None, None]

    def ask() -> None:
        try:
            get_session().timeout = ANSWER_S
            found[0] = HfApi().whoami()
        except Exception as error:  # of any kind: what it means is decided above
            found[1] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    return found[0], found[1]


def section_of(recipe: Recipe) -> HubSection:
    """The recipe's `hub:` section, with `{run}` in the repository's name filled in."""
    section = HubSection(**recipe.hub)
    if section.repo is None:
        return section
    return dataclasses.replace(section, repo=section.repo.replace("{run}", recipe.run_name))
