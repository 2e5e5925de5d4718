"""Collections of the Hub: the models of a sweep on one page.

    add_to_collection("Quickstart of hf_tti", ["me/baseline-seed42", "me/decorrelation-seed42"], private=True)

A collection is named by its slug (`owner/title-<24 hex digits>`), or by its title in the owner's namespace: the one of
that title is used, and made where there is none. Doing it again changes nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from huggingface_hub import HfApi

from hf_tti.errors import UserError
from hf_tti.hub.errors import PushError, may_pass, reason_of, response_of

_SLUG = re.compile(r"[\w.-]+/([\w.-]+-)?[0-9a-f]{24}")
_WAITS_S = (1.0, 4.0, 16.0)


def add_to_collection(
    title_or_slug: str, repos: Sequence[str], *, private: bool, sleep: Callable[[float], None] = time.sleep
) -> str:
    """Puts models into a collection, in this order, after what is in it.

    Args:
        title_or_slug: a slug, or a title; a title's namespace is the owner of the first of `repos`.
        repos: owner/name each; one that is in it already stays where it is.
        private: of a collection that is made; one that exists stays as it is.

    Returns:
        The slug.

    Raises:
        UserError: no such slug, several collections of this title, no title, no models.
        PushError: the Hub refused, or did not answer four times.
    """
    wanted = check_title(title_or_slug)
    if not repos:
        raise UserError(f"collection {title_or_slug!r}: there is no model to put into it")
    for wait in (*_WAITS_S, None):
        try:
            return _add(HfApi(), wanted, repos, private=private)
        except UserError:
            raise
        except Exception as error:  # of huggingface_hub, httpx and the network alike
            if wait is None or not _is_worth_a_try(error):
                reason = reason_of(error)
                raise PushError(f"collection {wanted}: {reason}; the models are pushed, push again with it") from error
            sleep(wait)
    raise AssertionError("the last try returns or raises")


def check_title(title_or_slug: str) -> str:
    """As the Hub gets it: single spaces. Raises UserError where nothing is left."""
    wanted = " ".join(title_or_slug.split())
    if not wanted:
        raise UserError(f"collection {title_or_slug!r}: no title")
    return wanted


def _is_worth_a_try(error: Exception) -> bool:
    response = response_of(error)
    return may_pass(error) and (response is None or response.status_code not in (404, 409))


def _add(api: HfApi, wanted: str, repos: Sequence[str], *, private: bool) -> str:
    slug = wanted if _SLUG.fullmatch(wanted) else _of_title(api, wanted, repos[0].partition("/")[0], private=private)
    try:
        items = api.get_collection(slug).items
    except Exception as error:
        response = response_of(error)
        if response is None or response.status_code != 404:
            raise
        raise UserError(f"collection {slug}: there is none, or not for you; name a title to make one") from error
    known = {item.item_id for item in items if item.item_type == "model"}
    for repo in dict.fromkeys(repos):
        if repo not in known:
            api.add_collection_item(slug, repo, "model", exists_ok=True)
    return slug


def _of_title(api: HfApi, title: str, owner: str, *, private: bool) -> str:
    """The slug of the owner's collection of this title, made where there is none."""
    found = [one.slug for one in api.list_collections(owner=owner) if one.title == title]
    if len(found) > 1:
        raise UserError(f"collection {title!r}: {owner} has {len(found)} of this title; name one: {', '.join(found)}")
    return found[0] if found else api.create_collection(title, namespace=owner, private=private, exists_ok=True).slug
