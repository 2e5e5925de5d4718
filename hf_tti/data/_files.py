"""Documents of .txt, .jsonl, .json and .parquet files, read one at a time, with errors that say
where.

A .txt file is one document, or several separated by `<|endoftext|>` (the layout of TinyStories' own
text release). A .json file holds an array of objects, or one object a line.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_tti.errors import UserError, did_you_mean
from hf_tti.redaction import masked_forms

SUFFIXES = (".json", ".jsonl", ".parquet", ".txt")
READING = 2  # of the text between the file and the tokenizer; 2: secrets are masked
SEPARATOR = "<|endoftext|>"
_SPLIT_PREFIXES = {
    "train": re.compile(r"train(?![a-z])", re.IGNORECASE),
    "validation": re.compile(r"(validation|valid|val|dev)(?![a-z])", re.IGNORECASE),
    "test": re.compile(r"test(?![a-z])", re.IGNORECASE),
}


def corpus_files(path: Path, *, place: str) -> list[Path]:
    """The files behind a path: itself, or everything readable below the folder, in the order of
    their names.

    Raises:
        UserError: nothing there, nothing readable there, or an unknown suffix. `place` names the
        option.
    """
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{place}: {str(path)!r} is not one of {', '.join(SUFFIXES)}")
        return [path]
    if not path.is_dir():
        nearby = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{place}: no file or folder {str(path)!r}{did_you_mean(path.name, nearby)}")
    found = [p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES]
    found = [p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    if not found:
        raise UserError(f"{place}: no {', '.join(SUFFIXES)} file in the folder {str(path)!r}")
    return sorted(found, key=lambda p: p.relative_to(path).as_posix())


def files_named_for(split: str, files: list[Path]) -> list[Path]:
    """The files whose name starts with the split's: `train.jsonl`, `val-00000.parquet`.

    Validation files are those called validation*, valid*, val* or dev*, else those called test*.
    """
    named = [path for path in files if _SPLIT_PREFIXES[split].match(path.name)]
    return files_named_for("test", files) if split == "validation" and not named else named


def files_fingerprint(files: list[Path]) -> str:
    """sha256 over the suffix and bytes of each file, in order; names and folders do not count."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.suffix.lower()} {content}\n".encode())
    return digest.hexdigest()


def read_documents(files: list[Path], text_field: str) -> Iterator[str]:
    """The stripped, non-empty documents of the files, in order; what has the form of an access token reads `[masked]`.

    So a token that somebody left in a text reaches no tokenizer, no model and no report.

    Raises:
        UserError: a broken line (file:line), a missing or non-text field, bytes that are not UTF-8.
    """
    readers = {
        ".txt": _read_text,
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".parquet": _read_parquet,
    }
    for path in files:
        try:
            for document in readers[path.suffix.lower()](path, text_field):
                if document := document.strip():
                    yield masked_forms(document)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _read_text(path: Path, text_field: str) -> Iterator[str]:
    lines: list[str] = []
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            *ended, rest = line.split(SEPARATOR)
            for piece in ended:
                yield "".join([*lines, piece])
                lines = []
            lines.append(rest)
    yield "".join(lines)


def _read_jsonl(path: Path, text_field: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, too deep
                raise UserError(f"{path}:{number}: not JSON: {error}") from error
            yield _field(row, text_field, f"{path}:{number}")


def _read_json(path: Path, text_field: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        first = next((line.lstrip()[0] for line in file if line.strip()), "")
    if first != "[":
        yield from _read_jsonl(path, text_field)
        return
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from error
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    for number, row in enumerate(rows):
        yield _field(row, text_field, f"{path}: item {number}")


def _read_parquet(path: Path, text_field: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text_field not in names:
                raise _missing_field(text_field, names, str(path))
            number = 0
            for batch in file.iter_batches(columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    yield _text(text, text_field, f"{path}: row {number}")
                    number += 1
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable parquet file: {str(error).splitlines()[0]}") from error


def _field(row: Any, text_field: str, where: str) -> str:
    if not isinstance(row, dict):
        raise UserError(f"{where}: an object with a field {text_field!r} is wanted, not {type(row).__name__}")
    if text_field not in row:
        raise _missing_field(text_field, list(row), where)
    return _text(row[text_field], text_field, where)


def _text(value: Any, text_field: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: field {text_field!r} is not text but {type(value).__name__}")
    return value


def _missing_field(text_field: str, names: list[str], where: str) -> UserError:
    return UserError(
        f"data.text_field: {where} has no field {text_field!r}{did_you_mean(text_field, names)}; "
        f"fields there: {', '.join(map(str, names)) or 'none'}"
    )
