"""What recipes/README.md says is so."""

import re
from pathlib import Path

import pytest
import torch

from hf_tti.activations import ForwardPass, Site
from hf_tti.objectives.base import Scope
from hf_tti.recipe import load_recipe, schema_table
from hf_tti.recipe.schema import load_schema

README = Path(__file__).parents[1] / "recipes" / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_key_reference_is_the_schema():
    text = README.read_text()
    assert schema_table.with_tables(text) == text, "run: python -m hf_tti.recipe.schema_table recipes/README.md"
    schema = load_schema()
    entries = ("objective", "metric", "study")
    for section in ("head", "data", "evaluation", "analysis", "tracking", "hub", "sweep", *entries):
        assert all(f"| `{key}` |" in text for key in schema[section])
    for kind in ("objectives", "metrics", "studies", "callbacks"):
        assert all(f"`{name}" in text.partition(schema_table.BEGIN)[2] for name in schema[kind])


def test_every_recipe_has_its_line():
    text = README.read_text()
    for folder in ("quickstart", "expt1", "calibration"):
        for path in (README.parent / folder).glob("*.yaml"):
            assert f"`{folder}/{path.stem}`" in text


@pytest.mark.parametrize("block", blocks("yaml"))
def test_every_yaml_example_is_good(tmp_path, block):
    path = tmp_path / "example.yaml"
    path.write_text(block)
    load_recipe(path, ["objectives.orthogonality.weight=1"])


def test_the_objective_of_ones_own_is_the_mean_square():
    (code,) = blocks("python")
    names = {"__name__": "my_package.losses"}
    exec(code, names)
    a, b = torch.randn(2, 3, 5), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    forward = ForwardPass(torch.zeros(2, 3, dtype=torch.long), mask, {"a": Site(a), "b": Site(b)})
    (term,) = names["SmallNeurons"]().terms(forward, Scope()).values()
    expected = (a[mask].pow(2).mean(1).sum() + b[mask].pow(2).mean(1).sum()) / 2
    torch.testing.assert_close(term.value, expected)
    assert term.kind == "token_sum"


def test_keys_that_the_readme_maps_the_published_ones_to_exist():
    schema = load_schema()
    known = set(schema["training"]) | set(schema["data"]) | set(schema["models"]["gpt2"]["fields"])
    named = set(re.findall(r"`(?:training|data|model)\.(\w+)(?::[^`]*)?`", README.read_text()))
    assert len(named) > 15
    published_only = {"n_layers", "dropout", "bias", "dataset", "max_length", "num_workers"}
    assert named - known == published_only


def test_the_table_names_types_bounds_and_choices():
    assert schema_table.value_text({"types": ["null", "int"], "min": 1}) == "whole number ≥ 1"
    assert schema_table.value_text({"types": ["str"], "choices": ["a", "b"]}) == "`a`, `b`"
    spec = {"types": ["list"], "items": {"types": ["float"], "exclusive_min": 0, "max": 1}}
    assert schema_table.value_text(spec) == "list of number > 0, ≤ 1"
