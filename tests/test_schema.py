"""The schema that ships is what the live dataclasses say, in whatever environment runs."""

import dataclasses
import json
from typing import Any, Literal

import pytest

from hf_tti.components import component_names
from hf_tti.recipe import DEFAULT_SEED, load_recipe, schema_build
from hf_tti.recipe import schema as recipe_schema
from hf_tti.recipe import sections as recipe_sections

REMEDY = "run: python -m hf_tti.recipe.schema_build"


def test_our_part_equals_the_live_dataclasses():
    shipped = json.loads((recipe_schema.SCHEMA_DIR / "hf_tti.json").read_text())
    assert shipped == json.loads(json.dumps(schema_build.build_ours())), REMEDY


def test_transformers_part_equals_the_installed_version():
    shipped = json.loads(recipe_schema.transformers_schema_path().read_text())
    assert shipped == json.loads(json.dumps(schema_build.build_transformers())), REMEDY


def test_the_files_are_as_the_builder_writes_them():
    for name, content in schema_build.build().items():
        path = recipe_schema.SCHEMA_DIR / name
        assert not path.exists() or path.read_text() == schema_build.to_json(content), REMEDY


def test_every_component_of_the_folders_is_described():
    schema = recipe_schema.load_schema()
    for kind in schema_build.COMPONENT_KINDS:
        assert sorted(schema[kind]) == component_names(kind)


def test_a_component_that_is_not_in_the_file_yet_is_read_from_its_class(monkeypatch, tmp_path):
    schema = recipe_schema.load_schema()
    without = {**schema, "objectives": {}}
    monkeypatch.setattr(recipe_schema, "load_schema", lambda: without)
    recipe_schema.component_fields.cache_clear()
    try:
        assert recipe_schema.component_fields("objectives", "orthogonality") == schema["objectives"]["orthogonality"]
    finally:
        recipe_schema.component_fields.cache_clear()


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [("5.17.0", "5.17"), ("5.20.1", "5.17"), ("5.23.0", "5.23"), ("6.0.0.dev0", "5.23"), ("5.1.0", "5.17")],
)
def test_the_newest_file_that_is_not_newer_is_chosen(monkeypatch, installed, chosen):
    monkeypatch.setattr(recipe_schema.importlib.metadata, "version", lambda name: installed)
    assert recipe_schema.transformers_schema_path().name == f"transformers-{chosen}.json"


def test_owned_keys_are_not_in_the_schema_and_the_rest_of_training_arguments_is():
    from hf_tti.arguments import InterpTrainingArguments

    live = {item.name for item in dataclasses.fields(InterpTrainingArguments) if item.init}
    allowed = set(recipe_schema.load_schema()["training"]) - {"precision"}
    owned = set(recipe_schema.OWNED["training"])
    assert not allowed & owned
    assert live == allowed | (owned & live)


def test_the_default_seed_is_that_of_the_training_arguments():
    from hf_tti.arguments import InterpTrainingArguments

    assert InterpTrainingArguments.__dataclass_fields__["seed"].default == DEFAULT_SEED


def test_every_allowed_model_key_is_taken_by_its_configuration_class():
    from transformers import CONFIG_MAPPING

    models = recipe_schema.load_schema()["models"]
    assert tuple(models) == tuple(sorted(recipe_sections.MODEL_TYPES))
    for model_type, described in models.items():
        config = CONFIG_MAPPING[model_type]()
        assert not set(described["fields"]) - set(config.to_dict()) - {"attn_implementation"}
        for own in described["aliases"].values():
            assert own in described["fields"]


def test_limits_are_about_keys_that_exist():
    from hf_tti.recipe.schema_limits import MODEL_LIMITS, TRAINING_LIMITS

    schema = recipe_schema.load_schema()
    assert set(TRAINING_LIMITS) <= set(schema["training"])
    assert set(MODEL_LIMITS) <= {name for described in schema["models"].values() for name in described["fields"]}


def test_every_default_is_within_its_own_limits(tmp_path):
    """A recipe that writes every default out is a good one."""
    schema = recipe_schema.load_schema()

    def defaults(fields: dict) -> dict:
        return {name: spec["default"] for name, spec in fields.items() if spec.get("default") not in (None, "")}

    content = {
        "data": defaults(schema["data"]),
        "training": defaults(schema["training"]),
        "objectives": {name: {"weight": 1, **defaults(f)} for name, f in schema["objectives"].items()},
        "metrics": {name: defaults(fields) for name, fields in schema["metrics"].items()},
        "callbacks": {name: defaults(fields) for name, fields in schema["callbacks"].items()},
        **{section: defaults(schema[section]) for section in ("tracking", "hub", "sweep")},
    }
    for model_type, described in schema["models"].items():
        content["model"] = {"model_type": model_type, **defaults(described["fields"])}
        path = tmp_path / f"{model_type}.yaml"
        path.write_text(json.dumps(content))
        assert load_recipe(path).model == content["model"]


@pytest.mark.parametrize(
    ("hint", "spec"),
    [
        (int, {"types": ["int"]}),
        (float | None, {"types": ["null", "float"]}),
        (list[int] | str, {"types": ["str", "list"], "items": {"types": ["int"]}}),
        (tuple[str, ...], {"types": ["list"], "items": {"types": ["str"]}}),
        (tuple[int, int], {"types": ["list"], "items": {"types": ["int"]}, "min_items": 2, "max_items": 2}),
        (Literal["a", "b"] | None, {"types": ["null", "str"], "choices": ["a", "b"]}),
        (dict[str, Any], {"types": ["dict"]}),
        (complex | int, {"types": ["int"]}),
        (Any, {"types": ["null", "bool", "int", "float", "str", "list", "dict"]}),
    ],
)
def test_a_type_becomes_what_yaml_can_write(hint, spec):
    assert schema_build.describe_type(hint) == spec


def test_the_builder_says_what_is_out_of_date(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(schema_build, "SCHEMA_DIR", tmp_path)
    monkeypatch.setattr(schema_build, "build", lambda: {"a.json": {"x": {"types": ["int"]}}})
    assert schema_build.main(["--check"]) == 1 and not list(tmp_path.iterdir())
    assert schema_build.main([]) == 0 and schema_build.main(["--check"]) == 0
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": {"types": ["int"]}}
    assert capsys.readouterr().out == "a.json out of date\na.json written\nschema is up to date\n"
