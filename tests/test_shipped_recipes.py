"""Every recipe that ships is good, and says of itself what is true."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hf_tti import InterpTrainingArguments
from hf_tti.components import component_names, load_component
from hf_tti.data import DataConfig
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.recipe.sections import HubSection, TrackingSection
from hf_tti.sites import match_site

RECIPES = Path(__file__).parents[1] / "recipes"
FILES = sorted(path for folder in ("quickstart", "expt1") for path in (RECIPES / folder).glob("*.yaml"))
IDS = [f"{path.parent.name}/{path.stem}" for path in FILES]
each_recipe = pytest.mark.parametrize("path", FILES, ids=IDS)

PARAMETERS = {"expt1": (30_142_848, 10_647_552), "quickstart": (None, 595_072)}
TOKENS_PER_STEP = {"expt1": 64 * 512, "quickstart": 16 * 128}
NUM_RUNS = {
    "expt1/baseline": 3,
    "expt1/baseline_short": 6,
    "expt1/orthogonality": 9,
    "expt1/token_entropy": 9,
    "expt1/decorrelation": 12,
    "expt1/selectivity": 12,
}
METRICS = {"sparsity", "polysemanticity", "cosine_similarity", "correlation", "selectivity"}


def build(path: Path):
    """The recipe's model at full size, without memory for its weights."""
    model = dict(load_recipe(path).model)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(model.pop("model_type"), **model))


def test_both_folders_hold_the_same_six():
    stems = ["baseline", "baseline_short", "decorrelation", "orthogonality", "selectivity", "token_entropy"]
    assert IDS == [f"{folder}/{stem}" for folder in ("expt1", "quickstart") for stem in stems]


@each_recipe
def test_a_recipe_is_good_and_expands(path):
    recipe = load_recipe(path)
    runs = expand_sweep(recipe)
    assert recipe.experiment == path.parent.name and recipe.question.endswith("?")
    assert len({run.run_name for run in runs}) == len(runs) == NUM_RUNS.get(f"{path.parent.name}/{path.stem}", 1)
    assert set(recipe.metrics) == METRICS
    assert set(recipe.objectives) == {path.stem} - {"baseline", "baseline_short"}
    assert set(recipe.analysis["composite"]) <= METRICS


@each_recipe
def test_a_recipe_is_read_on_one_screen_and_says_question_batch_and_control(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 60
    assert lines[0].startswith("# ") and "?" in lines[0] and lines[1].startswith("# Control: ")
    batch, block = map(int, re.search(r"global batch (\d+) x (\d+) tokens", lines[0]).groups())
    recipe = load_recipe(path)
    assert batch == recipe.training["per_device_train_batch_size"]
    assert block == recipe.data["block_size"]
    assert batch * block == TOKENS_PER_STEP[path.parent.name]
    runs = re.search(r"(\d+) runs", lines[0])
    assert int(runs[1]) == len(expand_sweep(recipe)) if runs else True


SECTIONS = ("model", "data", "training", "metrics", "studies", "callbacks", "evaluation", "analysis", "tracking", "hub")


@pytest.mark.parametrize("folder", ["quickstart", "expt1"])
def test_the_short_baseline_differs_from_its_control_in_the_steps_alone(folder):
    runs = expand_sweep(load_recipe(RECIPES / folder / "baseline_short.yaml"))
    control = load_recipe(RECIPES / folder / "baseline.yaml")
    for run in runs:
        assert run.training["max_steps"] < control.training["max_steps"]
        same = {**run.training, "max_steps": control.training["max_steps"]}
        assert {k: v for k, v in same.items() if "seed" not in k} == {
            k: v for k, v in control.training.items() if "seed" not in k
        }
        assert all(getattr(run, name) == getattr(control, name) for name in SECTIONS if name != "training")


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "baseline_short"], ids=lambda path: path.stem)
def test_a_recipe_differs_from_its_control_in_the_objective_alone(path):
    recipe, control = load_recipe(path), load_recipe(path.parent / "baseline.yaml")
    for section in SECTIONS:
        assert getattr(recipe, section) == getattr(control, section)
    assert recipe.sweep.get("seeds") == control.sweep.get("seeds")
    assert not control.objectives
    assert set(recipe.sweep.get("grid", {})) <= {f"objectives.{path.stem}.weight"}


@each_recipe
def test_a_model_has_the_stated_size(path):
    model = build(path)
    total = sum(parameter.numel() for parameter in model.parameters())
    inside = sum(p.numel() for name, p in model.named_parameters() if ".wte." not in name and ".wpe." not in name)
    expected_total, expected_inside = PARAMETERS[path.parent.name]
    assert inside == expected_inside
    assert expected_total is None or total == expected_total
    assert all(parameter.is_meta for parameter in model.parameters())


@each_recipe
def test_every_site_has_one_hookpoint_a_layer(path):
    recipe, model = load_recipe(path), build(path)
    names = [name for name, _ in model.base_model.named_modules() if name]
    for entry in (*recipe.objectives.values(), *recipe.metrics.values()):
        for site in entry["sites"]:
            points = match_site(model.base_model, names, site)
            assert [point.layer for point in points] == list(range(model.config.n_layer))


@each_recipe
def test_every_section_is_taken_by_its_class(path, tmp_path):
    for run in expand_sweep(load_recipe(path)):
        DataConfig(**run.data), TrackingSection(**run.tracking), HubSection(**run.hub)
        training = {key: value for key, value in run.training.items() if key != "precision"}
        arguments = InterpTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], **training)
        assert arguments.seed == arguments.data_seed == run.training["seed"]
        for kind, which, own in (("objectives", "objective", {"weight", "warmup_steps"}), ("metrics", "metric", set())):
            for label, entry in getattr(run, kind).items():
                fields = {key: value for key, value in entry.items() if key not in own | {which}}
                component = load_component(kind, entry.get(which, label))(**fields)
                assert list(component.sites) == entry["sites"]


@each_recipe
def test_a_recipe_can_be_cut_down_to_a_smoke_run(path):
    overrides = ["training.max_steps=2", "training.warmup_steps=0", "data.block_size=16", "model.n_positions=16"]
    overrides += ["model.n_layer=2", "model.n_embd=32", "model.n_head=2", "data.name=synthetic_stories", "sweep="]
    (run,) = expand_sweep(load_recipe(path, overrides))
    assert run.training["max_steps"] == 2 and run.model["n_layer"] == 2


def test_the_calibration_is_the_baseline_with_every_objective_at_next_to_no_weight():
    path = RECIPES / "calibration" / "force_ratios.yaml"
    recipe, baseline = load_recipe(path), load_recipe(RECIPES / "expt1" / "baseline.yaml")
    assert set(recipe.objectives) == set(component_names("objectives"))
    assert all(entry["weight"] <= 1e-6 for entry in recipe.objectives.values())
    for name, entry in recipe.objectives.items():
        assert entry["sites"] == load_recipe(RECIPES / "expt1" / f"{name}.yaml").objectives[name]["sites"]
    for section in ("model", "data", "metrics"):
        assert getattr(recipe, section) == getattr(baseline, section)
    changed = {key for key in recipe.training if recipe.training[key] != baseline.training.get(key)}
    assert changed == {"max_steps", "force_ratio_steps"}
    assert len(expand_sweep(recipe)) == 1


def test_published_terms_keep_the_published_weights():
    for name in ("orthogonality", "token_entropy"):
        recipe = load_recipe(RECIPES / "expt1" / f"{name}.yaml")
        assert recipe.sweep["grid"] == {f"objectives.{name}.weight": [0.001, 0.01, 0.1]}
        assert recipe.objectives[name]["sites"] == ["mlp.out"]


def test_our_terms_sit_at_the_neurons_with_four_rising_weights():
    for name in ("decorrelation", "selectivity"):
        recipe = load_recipe(RECIPES / "expt1" / f"{name}.yaml")
        (weights,) = recipe.sweep["grid"].values()
        assert len(weights) == 4 and weights == sorted(weights) and recipe.objectives[name]["weight"] in weights
        assert recipe.objectives[name]["sites"] == ["mlp.neurons"]


@pytest.mark.parametrize("name", ["single_gpu", "multi_gpu", "cpu"])
def test_accelerate_takes_its_configurations_and_leaves_precision_to_the_recipe(name):
    from accelerate.commands.config.config_args import load_config_from_file

    path = RECIPES / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "no"
    assert config.use_cpu == (name == "cpu")
    assert (config.num_processes > 1) == (name != "single_gpu")
    assert path.read_text().startswith(f"# accelerate launch --config_file recipes/accelerate/{name}.yaml")
