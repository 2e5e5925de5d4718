"""A recipe's tree of nodes: merged, overridden, looked up by dotted keys, made plain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hf_tti.recipe.parse import UNREAD, Node, Unreadable, describe, join, shown


def plain(node: Node) -> Any:
    """The node as Python values."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return None if node.value is UNREAD else node.value


def merge(base: Node, over: Node) -> Node:
    """`over` on top of `base`: mappings merge key by key, everything else is replaced."""
    if not isinstance(base.value, dict) or not (over.value is None or isinstance(over.value, dict)):
        return over
    entries = dict(base.value)
    for key, node in (over.value or {}).items():
        entries[key] = merge(entries[key], node) if key in entries else node
    return replace(over, value=entries)


def split_key(dotted: str) -> list[str]:
    """Parts of a dotted key. What follows `sweep.grid.` is one part: a grid's keys have dots."""
    if dotted.startswith("sweep.grid."):
        return ["sweep", "grid", dotted.removeprefix("sweep.grid.")]
    return dotted.split(".")


def with_value(root: Node, dotted: str, node: Node) -> Node:
    """The tree with one value set; missing sections are made.

    Raises:
        Unreadable: the key leads through something that is no mapping.
    """
    return _with_value(root, split_key(dotted), node, "", dotted)


def _with_value(root: Node, parts: list[str], node: Node, above: str, dotted: str) -> Node:
    if not parts:
        return node
    if root.value is not None and not isinstance(root.value, dict):
        raise Unreadable(node.place, f"{shown(above)} is {describe(root.value)}, not a mapping", dotted)
    child = (root.value or {}).get(parts[0], Node(None, node.place))
    value = _with_value(child, parts[1:], node, join(above, parts[0]), dotted)
    return replace(root, value={**(root.value or {}), parts[0]: value})


def find(root: Node, dotted: str) -> Node:
    """The node under a dotted key, or the nearest one above it."""
    node = root
    for part in split_key(dotted):
        if not isinstance(node.value, dict) or part not in node.value:
            break
        node = node.value[part]
    return node


def canonical(value: Any) -> Any:
    """The value with `3.0` and `3` made one, since they mean the same to a run."""
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
