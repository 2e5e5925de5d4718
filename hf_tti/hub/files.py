"""Which files of a run may leave the machine, and the scan for secrets that each of them passes.

A path in the repository has to fit the allow-list, be a regular file (no link) and hold no secret: nothing of the
forms that `hf_tti.redaction` knows, no value of the environment's secrets or of the Hub's own token, no 40 hex digits
(an old W&B key) but where a commit or a digest is named before them. In the numbers of safetensors only values are
looked for; its header is text.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import get_token

from hf_tti.hub.errors import PushError
from hf_tti.redaction import secret_in, value_in

OBJECTIVES_FILE = "objectives.safetensors"  # as hf_tti.owning writes it
OF_A_MODEL = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    OBJECTIVES_FILE,
)
ALLOWED = (
    *OF_A_MODEL[:-1],
    f"objectives/{OBJECTIVES_FILE}",  # in folders: loaders of models take every *.safetensors beside config.json
    "README.md",
    "recipe.yaml",
    "report/report.json",
    "report/arrays.safetensors",
    "metrics.jsonl",
    "stories.txt",
    "assets/*.png",
    *(f"sae/{'*/' * depth}{name}" for depth in (1, 2, 3) for name in ("cfg.json", "sae_weights.safetensors")),
)
Content = bytes | Path
_CHUNK = 1 << 20  # bytes; one scan of it keeps the interpreter for a few milliseconds
_LONGEST_SECRET = 4096
_FORTY_HEX = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{40}(?![0-9A-Za-z])")
_OF_GIT = re.compile(r"commit|revision|sha|digest", re.IGNORECASE)


def is_allowed(path: str, patterns: tuple[str, ...] = ALLOWED) -> bool:
    """Whether a path in the repository fits one of the patterns, folder by folder."""
    parts = path.split("/")
    return ".." not in parts and any(
        len(parts) == len(pattern.split("/")) and all(map(fnmatchcase, parts, pattern.split("/")))
        for pattern in patterns
    )


def model_files(folder: Path) -> dict[str, Path]:
    """What of a model's folder or a checkpoint is pushed: path in the repository -> file. All else stays here."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    taken = [path for path in found if path.is_file() and is_allowed(path.name, OF_A_MODEL)]
    return {f"objectives/{path.name}" if path.name == OBJECTIVES_FILE else path.name: path for path in taken}


def check_files(files: Mapping[str, Content]) -> None:
    """Nothing leaves that may not.

    Raises:
        PushError: a path outside the allow-list, a link, or a secret; names file and kind, never the secret.
    """
    for path, content in files.items():
        if not is_allowed(path):
            raise PushError(f"{path}: is none of the files that may be pushed; nothing was sent")
        if isinstance(content, Path) and content.is_symlink():
            raise PushError(f"{path}: is a link; nothing was sent")
        what = secret_of(path, content)
        if what is not None:
            raise PushError(f"{path}: holds {what}; nothing was sent: take it out, then push again")


def secret_of(path: str, content: Content) -> str | None:
    """What kind of secret a file holds, in words, or None."""
    token, end_of_text = (get_token() or "").encode(), _end_of_text(path, content)
    for start, chunk in _chunks(content):
        if token and token in chunk:
            return "the Hub's token"
        found = value_in(chunk)
        if found is None and start < end_of_text:
            text = chunk[: end_of_text - start].decode("latin-1")
            found = secret_in(text) or _old_key_in(text)
        if found is not None:
            return found
    return None


def _old_key_in(text: str) -> str | None:
    for match in _FORTY_HEX.finditer(text):
        before = text[max(0, match.start() - 80) : match.start()].rpartition("\n")[2]
        if not _OF_GIT.search(before):
            return "40 hex digits, as a W&B key has"
    return None


def _chunks(content: Content) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes), each beginning with the end of the one before."""
    if isinstance(content, bytes):
        yield 0, content
        return
    with open(content, "rb") as handle:
        start, tail = 0, b""
        while block := handle.read(_CHUNK):
            yield start - len(tail), tail + block
            start, tail = start + len(block), block[-_LONGEST_SECRET:]


def _end_of_text(path: str, content: Content) -> int:
    """Where the numbers of a safetensors file begin; all of another file is text, or may be."""
    if not path.endswith(".safetensors"):
        return sys.maxsize
    if isinstance(content, bytes):
        head = content[:8]
    else:
        with open(content, "rb") as handle:
            head = handle.read(8)
    return 8 + int.from_bytes(head, "little")
