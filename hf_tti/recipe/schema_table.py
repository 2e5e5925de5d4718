"""The key reference in `recipes/README.md`, as Markdown tables from the schema.

python -m hf_tti.recipe.schema_table recipes/README.md   # rewrites what stands between the two marks
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_tti.recipe.schema import load_schema

BEGIN, END = "<!-- keys: python -m hf_tti.recipe.schema_table recipes/README.md -->", "<!-- end of keys -->"
_TYPES = {"bool": "true, false", "int": "whole number", "float": "number", "str": "text", "dict": "mapping"}
_BOUNDS = {"min": "≥", "exclusive_min": ">", "max": "≤", "exclusive_max": "<"}
_SECTIONS = {
    "head": "Top of the file",
    "model": "`model:` (and the keys of the architecture's HuggingFace configuration class)",
    "data": "`data:`",
    "training": "`training:` (and transformers' `TrainingArguments`)",
    "objective": "Every entry of `objectives:`",
    "metric": "Every entry of `metrics:`",
    "study": "Every entry of `studies:`",
    "evaluation": "`evaluation:`",
    "analysis": "`analysis:`",
    "composite": "Every entry of `analysis.composite:`",
    "tracking": "`tracking:`",
    "hub": "`hub:`",
    "sweep": "`sweep:`",
}
_KINDS = (("objectives", "objective"), ("metrics", "metric"), ("studies", "study"), ("callbacks", "callback"))


def key_tables() -> str:
    """Markdown: one table a section, then one for each kind of component."""
    schema = load_schema()
    own_training = json.loads((Path(__file__).parent / "schemas" / "hf_tti.json").read_text(encoding="utf-8"))
    parts = [table(title, (own_training if name == "training" else schema)[name]) for name, title in _SECTIONS.items()]
    for kind, verb in _KINDS:
        rows = {f"{name}.{key}": spec for name, fields in schema[kind].items() for key, spec in fields.items()}
        bare = [name for name, fields in schema[kind].items() if not fields]
        note = f"\n\nWithout keys of their own: {', '.join(f'`{name}`' for name in bare)}." if bare else ""
        parts.append(table(f"`{kind}:`, by {verb}", rows) + note)
    return "\n\n".join(parts)


def table(title: str, fields: Mapping[str, Mapping[str, Any]]) -> str:
    """One Markdown table of keys."""
    lines = [f"### {title}", "", "| key | default | value | |", "|---|---|---|---|"]
    for name, spec in fields.items():
        default = "required" if spec.get("required") else f"`{json.dumps(spec.get('default'), ensure_ascii=False)}`"
        lines.append(f"| `{name}` | {default} | {value_text(spec)} | {spec.get('help', '')} |")
    return "\n".join(lines)


def value_text(spec: Mapping[str, Any]) -> str:
    """What a key takes, in a few words.

    >>> value_text({"types": ["null", "int"], "min": 1})
    'whole number ≥ 1'
    """
    if "choices" in spec:
        return ", ".join(f"`{choice}`" for choice in spec["choices"])
    if set(spec["types"]) <= {"null", "list"}:
        item = spec.get("items", {"types": ["str"]})
        return "list of sites" if item.get("format") == "site" else f"list of {value_text(item)}"
    words = " or ".join(_TYPES.get(name, name) for name in spec["types"] if name != "null")
    words = "anything" if len(spec["types"]) > 5 else words
    bounds = ", ".join(f"{sign} {spec[name]}" for name, sign in _BOUNDS.items() if name in spec)
    return f"{words} {bounds}".rstrip()


def with_tables(text: str) -> str:
    """The text with the tables between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{key_tables()}\n\n{END}{after}"


def main(arguments: Sequence[str]) -> None:
    """Rewrite each file named."""
    for name in arguments:
        path = Path(name)
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
