"""The files of a rating: what a rater exports from the page, and the key that says which unit an item is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tti.errors import UserError, did_you_mean

KEY_SCHEMA, RATINGS_SCHEMA, SCHEMA_VERSION = "hf_tti.rating_key", "hf_tti.ratings", 1
RATINGS = ("monosemantic", "polysemantic", "unclear")


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """What one rater exported.

    Attributes:
        path: of the file.
        rater: name.
        page_sha256: which page was rated.
        of_unit: item's id -> one of `RATINGS`.
    """

    path: Path
    rater: str
    page_sha256: str
    of_unit: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Key:
    """Which unit an item of a page is.

    Attributes:
        path: of the file.
        page_sha256: of the page.
        items: id -> run, method, site, layer, unit.
    """

    path: Path
    page_sha256: str
    items: Mapping[str, Mapping[str, Any]]


def read_ratings(path: str | Path) -> Ratings:
    """A file that the rating page exported.

    Raises:
        UserError: no such file, not JSON, not such an export, another schema version, no rater's name, a rating that
            is none, an item rated twice.
    """
    path = Path(path)
    content = _content(path, RATINGS_SCHEMA, "an export of a rating page")
    rater, ratings = content.get("rater"), content.get("ratings")
    if not isinstance(rater, str) or not rater.strip():
        raise UserError(f"{path}: rater: {rater!r}; the rater's name is missing")
    if not isinstance(ratings, list):
        raise UserError(f"{path}: ratings: a list is wanted, not {type(ratings).__name__}")
    of_unit: dict[str, str] = {}
    for place, item in enumerate(ratings):
        unit, rating = (item.get("id"), item.get("rating")) if isinstance(item, dict) else (None, None)
        if not isinstance(unit, str) or rating not in RATINGS:
            close = did_you_mean(rating, RATINGS) if isinstance(rating, str) else ""
            raise UserError(f"{path}: ratings[{place}]: {rating!r} is no rating{close}: {', '.join(RATINGS)}")
        if unit in of_unit:
            raise UserError(f"{path}: ratings[{place}]: item {unit} is rated twice")
        of_unit[unit] = rating
    return Ratings(path=path, rater=rater.strip(), page_sha256=str(content.get("page_sha256")), of_unit=of_unit)


def read_key(path: str | Path) -> Key:
    """The `key.json` beside a rating page.

    Raises:
        UserError: no such file, not JSON, not a key, another schema version.
    """
    path = Path(path)
    content = _content(path, KEY_SCHEMA, "the key of a rating page")
    items = content.get("items")
    if not isinstance(items, dict) or not all(isinstance(item, dict) and "method" in item for item in items.values()):
        raise UserError(f"{path}: items: an object of id -> unit is wanted")
    return Key(path=path, page_sha256=str(content.get("page_sha256")), items=items)


def _content(path: Path, schema: str, what: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:  # bad UTF-8 and bad JSON both are
        raise UserError(f"{path}: not {what}: not JSON") from error
    if not isinstance(content, dict) or content.get("schema") != schema:
        raise UserError(f"{path}: not {what} (schema {schema})")
    if content.get("version") != SCHEMA_VERSION:
        raise UserError(f"{path}: version {content.get('version')!r}; this hf_tti reads {SCHEMA_VERSION}")
    return content
