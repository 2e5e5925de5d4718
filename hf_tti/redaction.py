"""Secrets, known by their form or from the environment: found, refused and masked, never repeated in a message.

The forms are the providers' own (huggingface.co, wandb.ai, modal.com, github.com, aws.amazon.com, …). An address with a
password in it counts, and so does an assignment such as WANDB_API_KEY=… . A secret without a form of its own (an AWS
secret key, an old W&B key of 40 hex digits) is known only where it stands in such an assignment or in this process's
environment.
"""

from __future__ import annotations

import os
import re

MASK = "[masked]"
TOKENS_ELSEWHERE = "tokens come from the environment alone, and whoever reads this has it: make a new one"
_NAMES = (
    "HF_TOKEN|HUGGING_FACE_HUB_TOKEN|WANDB_API_KEY|MODAL_TOKEN_ID|MODAL_TOKEN_SECRET|GITHUB_TOKEN|GH_TOKEN|"
    "AWS_ACCESS_KEY_ID|AWS_SECRET_ACCESS_KEY|AWS_SESSION_TOKEN|OPENAI_API_KEY|ANTHROPIC_API_KEY"
)
# what it is -> (texts of which one is in every secret of the form, the form)
FORMS: dict[str, tuple[tuple[str, ...], str]] = {
    "a Hugging Face token": (("hf_", "api_org_"), r"(?:hf|api_org)_[A-Za-z0-9]{20,}"),
    "a W&B key": (("wandb_v1_", "local-"), r"wandb_v1_[A-Za-z0-9_]{20,}|local-[0-9a-f]{40}"),
    "a Modal token": (("ak-", "as-"), r"a[ks]-[A-Za-z0-9]{20,}"),
    "a GitHub token": (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}",
    ),
    "a GitLab token": (("glpat-",), r"glpat-[A-Za-z0-9_-]{20,}"),
    "an AWS key": (("AKIA", "ASIA"), r"(?:AKIA|ASIA)[A-Z0-9]{16}"),
    "an API key": (("sk-", "AIza"), r"sk-(?:ant|proj|svcacct|or)-[\w-]{20,}|sk-[A-Za-z0-9]{32,}|AIza[\w-]{35}"),
    "a Slack token": (("xox",), r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    "a package index's token": (("npm_", "pypi-AgE"), r"npm_[A-Za-z0-9]{36}|pypi-AgE[\w-]{50,}"),
    "a private key": (("PRIVATE KEY-----",), r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[A-Za-z0-9+/=\s]*"),
    "a JSON web token": (("eyJ",), r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*"),
    "a password in an address": (("://",), r"(?<=://)[^\s/:@]{1,100}:[^\s/@]{1,200}(?=@)"),
    "a secret's assignment": (
        ("TOKEN", "_KEY"),
        rf"(?:{_NAMES})\"?\s{{0,3}}[=:]\s{{0,3}}[\"']?[^\s\"',;$<{{\[]{{12,}}",
    ),
}
_FORMS = {what: (parts, re.compile(rf"(?<![A-Za-z0-9])(?:{form})")) for what, (parts, form) in FORMS.items()}
_SECRET_NAME = re.compile(r"TOKEN(?!IZ|S)|SECRET|PASSW|API_?KEY|ACCESS_?KEY|CREDENTIAL", re.IGNORECASE)
_NOT_THE_SECRET = re.compile(r"(_FILE|_PATH|_DIR|_URL|_URI|_NAME|_HOST|APPLICATION_CREDENTIALS)$", re.IGNORECASE)
_LEAST = 12  # characters of a secret of the environment: `true` and `none` are none


def secret_in(text: str) -> str | None:
    """What a text holds, in words (`a Hugging Face token`, `the value of WANDB_API_KEY`), or None."""
    for what, (parts, form) in _FORMS.items():
        if any(part in text for part in parts) and form.search(text):
            return what
    return next((f"the value of {name}" for name, value in _of_environment() if value in text), None)


def value_in(content: bytes) -> str | None:
    """Which of the environment's secrets stands in some bytes, as `secret_in` says it; forms are not looked for."""
    return next((f"the value of {name}" for name, value in _of_environment() if value.encode() in content), None)


def masked(text: str) -> str:
    """The text with every secret replaced, those of the environment as well."""
    for _, value in _of_environment():
        text = text.replace(value, MASK)
    return masked_forms(text)


def masked_forms(text: str) -> str:
    """The text with everything replaced that has the form of a secret: the same on every machine."""
    for parts, form in _FORMS.values():
        if any(part in text for part in parts):
            text = form.sub(MASK, text)
    return text


def printable(text: str) -> str:
    """The text in one line: control characters, line ends, bidirectional controls and lone surrogates as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _of_environment() -> list[tuple[str, str]]:
    """Name and value of the environment's secrets, the longest first."""
    found = [
        (name, value)
        for name, value in os.environ.items()
        if len(value) >= _LEAST and _SECRET_NAME.search(name) and not _NOT_THE_SECRET.search(name)
    ]
    return sorted(found, key=lambda item: -len(item[1]))
