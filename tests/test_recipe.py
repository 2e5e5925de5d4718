"""Laws of recipes: what is read is what was written, and every run of a sweep has a name and seeds of its own."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_tti.errors import UserError
from hf_tti.recipe import Recipe, RecipeError, expand_sweep, load_recipe

GOOD = """\
experiment: expt1
question: Does it hold?
model: {n_layer: 2, n_embd: 32, n_head: 2, n_positions: 64}
data: {name: tinystories, block_size: 64}
training:
  learning_rate: 1e-3
  eval_strategy: no
  max_steps: 10
  adam_beta2: .95
objectives:
  orthogonality: {sites: [mlp.out], weight: 1}
  mine: {objective: my_package.losses:Mine, weight: 2.5E-1, anything: {at: [all, 1]}}
metrics:
  correlation:
  sparsity: {metric: activation_sparsity}
callbacks:
  early_stopping: {patience: 3}
sweep:
  seeds: [42, 43]
  grid:
    objectives.orthogonality.weight: [0.001, 1e-2]
"""


def write(folder: Path, text: str, name: str = "orthogonality.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_what_is_written_is_what_is_read(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.name == recipe.run_name == "orthogonality"
    assert recipe.experiment == "expt1" and recipe.question == "Does it hold?"
    assert recipe.training == {"learning_rate": 0.001, "eval_strategy": "no", "max_steps": 10, "adam_beta2": 0.95}
    assert isinstance(recipe.training["max_steps"], int)
    assert recipe.objectives["mine"]["anything"] == {"at": ["all", 1]}
    assert recipe.metrics["correlation"] == {}
    assert recipe.hub == recipe.tracking == {}


def test_errors_of_recipes_are_user_errors(tmp_path):
    with pytest.raises(UserError) as caught:
        load_recipe(write(tmp_path, "modle: {}"))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E3", 1e3), ("+.5", 0.5), ("5.", 5.0), ("010", 10), ("-3", -3), ("0", 0), ("1.5e+2", 150.0)],
)
def test_plain_numbers_are_numbers(tmp_path, text, value):
    recipe = load_recipe(write(tmp_path, f"callbacks: {{a.b:C: {{x: {text}}}}}"))
    read = recipe.callbacks["a.b:C"]["x"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("text", ["no", "on", "yes", "1_000", "1:30", "2024-01-01", "0x10", "nan", "1e", "e3", "."])
def test_what_only_older_yaml_takes_for_a_value_is_text(tmp_path, text):
    assert load_recipe(write(tmp_path, f"callbacks: {{a.b:C: {{x: {text}}}}}")).callbacks["a.b:C"]["x"] == text


def test_a_recipe_survives_its_own_yaml(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD))
    again = load_recipe(write(tmp_path, recipe.to_yaml(), "copy.yaml"))
    assert again.to_dict() == recipe.to_dict()
    assert again.digest() == recipe.digest()
    assert yaml.safe_load(recipe.to_yaml())["training"]["eval_strategy"] == "no"


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\x85  \ufeff"))
numbers = st.one_of(st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False))
awkward = st.sampled_from(["1e-3", "no", "null", "", "~", "0x1", "08", "1:30", ".5", "- a", "a: b", "#", "1e5", ".inf"])
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts, awkward),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(texts, awkward), inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(texts, values, max_size=4))
def test_any_content_survives_its_own_yaml(tmp_path, content):
    recipe = Recipe(path=Path("x.yaml"), name="x", callbacks={"a.b:C": content})
    again = load_recipe(write(tmp_path, recipe.to_yaml()))
    assert again.to_dict() == recipe.to_dict()
    assert again.digest() == recipe.digest()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=80), st.text(alphabet="{}[]:,-?!&*|>'\"%#@ \n\tab1.e~\\xuU", max_size=60)))
def test_any_text_is_a_recipe_or_a_recipe_error(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    _load_or_explain(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(GOOD)), st.integers(0, 3), st.text(alphabet="{}[]:,-?!&*|>'\"%#@ \n\tab1.e~", max_size=4))
def test_a_damaged_recipe_is_a_recipe_or_a_recipe_error(tmp_path, start, length, text):
    _load_or_explain(write(tmp_path, GOOD[:start] + text + GOOD[start + length :]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40), st.sampled_from(["", "training.", "objectives.orthogonality.", "sweep.grid."]))
def test_any_override_is_applied_or_a_recipe_error(tmp_path, text, prefix):
    _load_or_explain(write(tmp_path, GOOD), prefix + text)


def _load_or_explain(path: Path, *overrides: str) -> None:
    try:
        assert isinstance(load_recipe(path, overrides), Recipe)
    except RecipeError as error:
        assert error.problems
        assert all(len(line.splitlines()) == 1 for line in error.problems)


def test_extends_merges_key_by_key(tmp_path):
    write(tmp_path, GOOD, "base.yaml")
    child = "extends: base.yaml\ntraining: {max_steps: 20}\nobjectives:\n  orthogonality: {sites: [resid]}\n"
    recipe, base = load_recipe(write(tmp_path, child)), load_recipe(tmp_path / "base.yaml")
    assert recipe.training == {**base.training, "max_steps": 20}
    assert recipe.objectives["orthogonality"] == {"sites": ["resid"], "weight": 1}
    assert recipe.objectives["mine"] == base.objectives["mine"]
    assert recipe.question == base.question and "extends" not in recipe.to_dict()


def test_errors_point_at_the_file_that_holds_them(tmp_path):
    base = write(tmp_path, "data: {block_size: 0}\ntraining:\n  max_steps: x\n", "base.yaml")
    child = write(tmp_path, "extends: base.yaml\n\ndata: {block_size: 2.5}\n")
    lines = problems_of(child)
    assert lines == [
        f"{child}:3 data.block_size: expected a whole number; found the number 2.5",
        f"{base}:3 training.max_steps: expected a whole number; found the text 'x'",
    ]


@pytest.mark.parametrize(
    ("base", "child", "reason"),
    [
        ("extends: other.yaml\n", "extends: base.yaml\n", "base.yaml:1 extends: a recipe that others extend"),
        (None, "extends: base.yaml\n", "x.yaml:1 extends: 'base.yaml' cannot be read: no such file"),
        ("{}", "extends: /base.yaml\n", "x.yaml:1 extends: '/base.yaml' is absolute"),
        ("{}", "extends: [base.yaml]\n", "x.yaml:1 extends: expected null or text; found a list"),
        ("[]", "extends: base.yaml\n", "base.yaml:1: a recipe is a mapping of sections; found a list"),
        ("{}", "extends: x.yaml\n", "x.yaml:1 extends: a recipe that others extend"),
    ],
)
def test_extends_is_one_level_of_one_file(tmp_path, base, child, reason):
    if base is not None:
        write(tmp_path, base, "base.yaml")
    lines = problems_of(write(tmp_path, child, "x.yaml"))
    assert len(lines) == 1 and lines[0].startswith(f"{tmp_path}/{reason}")


def test_overrides_win_and_make_missing_sections(tmp_path):
    overrides = [
        "training.max_steps=7",
        "objectives={}",
        "objectives.decorrelation.weight=1e-2",
        "metrics.correlation.sites=[mlp.out, resid]",
        "tracking.tags=[a]",
        "data.text_field=no",
        "sweep=",
        "training.seed=1",
    ]
    recipe = load_recipe(write(tmp_path, GOOD), overrides)
    assert recipe.training["max_steps"] == 7 and recipe.training["seed"] == 1
    assert recipe.objectives == {"decorrelation": {"weight": 0.01}}
    assert recipe.metrics["correlation"] == {"sites": ["mlp.out", "resid"]}
    assert recipe.tracking == {"tags": ["a"]} and recipe.data["text_field"] == "no" and recipe.sweep == {}


def test_a_grid_can_be_overridden(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD), ["sweep.grid.training.learning_rate=[1e-3]", "sweep.seeds=[1]"])
    names = [run.run_name for run in expand_sweep(recipe)]
    assert names == [f"orthogonality-weight{w}-learning_rate0.001-seed1" for w in ("0.001", "0.01")]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("training.max_steps=x", "--set training.max_steps: expected a whole number; found the text 'x'"),
        ("training.max_step=1", "--set training.max_step: unknown key (did you mean 'max_steps'?)"),
        ("training.max_steps.x=1", "--set training.max_steps.x: training.max_steps is the number 10, not a mapping"),
        ("training.max_steps", "--set training.max_steps: expected section.key=value"),
        ("training..max_steps=1", "--set training..max_steps: expected section.key=value"),
        ("=1", "--set : expected section.key=value"),
        ("extends=a.yaml", "--set extends: stands in the file only"),
        ("training={max_steps: x}", "--set training training.max_steps: expected a whole number; found the text 'x'"),
        ("data.name=*a", "--set data.name: alias *a is not read; write the value out"),
        ("data.seed=-1", "--set data.seed: out of range: -1 must be at least 0"),
    ],
)
def test_a_bad_override_is_named_as_it_was_typed(tmp_path, override, line):
    assert problems_of(write(tmp_path, GOOD), override) == [line]


def test_the_sweep_is_grid_times_seeds(tmp_path):
    runs = expand_sweep(load_recipe(write(tmp_path, GOOD)))
    assert [run.run_name for run in runs] == [
        "orthogonality-weight0.001-seed42",
        "orthogonality-weight0.001-seed43",
        "orthogonality-weight0.01-seed42",
        "orthogonality-weight0.01-seed43",
    ]
    for run in runs:
        weight, seed = run.objectives["orthogonality"]["weight"], run.training["seed"]
        assert run.run_name == f"orthogonality-weight{weight}-seed{seed}"
        assert run.training["data_seed"] == seed and run.sweep == {}
    assert len({run.digest() for run in runs}) == 4


def test_runs_of_a_sweep_share_nothing_that_can_change(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD))
    before = json.dumps(recipe.to_dict())
    first, second, *_ = expand_sweep(recipe)
    first.objectives["orthogonality"]["sites"].append("resid")
    first.training["max_steps"] = 0
    assert second.objectives["orthogonality"]["sites"] == ["mlp.out"] and second.training["max_steps"] == 10
    assert json.dumps(recipe.to_dict()) == before


def test_without_a_sweep_there_is_one_run_with_the_recipes_seed(tmp_path):
    (run,) = expand_sweep(load_recipe(write(tmp_path, GOOD), ["sweep=", "training.seed=7"]))
    assert run.run_name == "orthogonality-seed7"
    assert run.training["seed"] == run.training["data_seed"] == 7
    (run,) = expand_sweep(load_recipe(write(tmp_path, GOOD), ["sweep=", "training.data_seed=3"]))
    assert run.run_name == "orthogonality-seed42" and run.training["data_seed"] == 3


def test_names_of_runs_tell_keys_apart_and_are_safe(tmp_path):
    text = """
objectives:
  a: {objective: orthogonality, weight: 1}
  b: {objective: decorrelation, weight: 1}
sweep:
  grid:
    objectives.a.weight: [0.1, 0.2]
    objectives.b.weight: [0.1]
    data.seed: [1]
    data.train: ["../x y", "../x/y", null]
    metrics.correlation.sites: [[mlp.out, resid]]
"""
    runs = expand_sweep(load_recipe(write(tmp_path, text, "two.yaml")))
    names = [run.run_name for run in runs]
    assert len(set(names)) == len(runs) == 6
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._+-") for name in names)
    assert names[2] == "two-a.weight0.1-b.weight0.1-data.seed1-trainnone-sitesmlp.out+resid-seed42"


def test_a_long_name_is_cut_and_stays_distinct(tmp_path):
    text = f"sweep: {{grid: {{data.train: [{'a' * 200}b, {'a' * 200}c]}}}}"
    first, second = expand_sweep(load_recipe(write(tmp_path, text)))
    assert first.run_name != second.run_name and len(first.run_name) <= 96


def test_the_digest_is_of_what_determines_the_result(tmp_path):
    def digest(*overrides: str, name: str = "a.yaml") -> str:
        return load_recipe(write(tmp_path, GOOD, name), overrides).digest()

    same = ["question=other", "experiment=other", "tracking.tracker=wandb", "hub.private=false"]
    assert {digest(), digest(name="b.yaml"), *(digest(o) for o in same)} == {digest()}
    assert digest("objectives.orthogonality.weight=1.0") == digest("objectives.orthogonality.weight=1")
    other = ["training.max_steps=11", "model.n_layer=3", "data.seed=1", "metrics={}", "callbacks={}", "objectives={}"]
    assert len({digest(), *(digest(o) for o in other)}) == 7


def test_checking_loads_no_torch_and_is_quick(tmp_path):
    path = write(tmp_path, GOOD)
    code = f"""
import sys
from hf_tti.recipe import expand_sweep, load_recipe
expand_sweep(load_recipe({str(path)!r}))
heavy = {{"torch", "transformers", "numpy", "datasets", "accelerate"}} & set(sys.modules)
sys.exit(f"loaded {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_large_sweep_is_refused(tmp_path):
    grid = f"sweep: {{grid: {{data.seed: {list(range(40))}, training.seed: {list(range(40))}}}}}"
    (line,) = problems_of(write(tmp_path, grid))
    assert "1,600 runs; at most 1,000" in line


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("model: {n_positions: 128}", "model.n_positions", "data.block_size 512 is longer than model.n_positions 128"),
        ("data: {block_size: 4096}", "data.block_size", "4096 is longer than model.n_positions 1024"),
        ("model: {n_embd: 30, n_head: 4}", "model.n_head", "model.n_embd 30 is no multiple of model.n_head 4"),
        ("model: {n_embd: 100}", "model.n_embd", "no multiple of model.n_head 12"),
        (
            "model: {model_type: qwen2, hidden_size: 32, num_attention_heads: 4}",
            "model.num_attention_heads",
            "4 is no multiple of model.num_key_value_heads 32",
        ),
        ("data: {streaming: true}", "data.streaming", "needs training.max_steps"),
        ("data: {tokenizer: a/b, vocab_size: 300}", "data.vocab_size", "remove it or data.tokenizer"),
        ("{model: {vocab_size: 300}, data: {vocab_size: 512}}", "model.vocab_size", "smaller than data.vocab_size 512"),
        ("training: {dataloader_prefetch_factor: 2}", "training.dataloader_prefetch_factor", "dataloader_num_workers"),
        ("sweep: {grid: {data.block_size: [64, 2048]}}", "sweep.grid", "longer than model.n_positions"),
    ],
)
def test_sections_are_checked_against_one_another(tmp_path, text, key, words):
    path = write(tmp_path, text)
    (line,) = problems_of(path)
    assert line.startswith(f"{path}:1 {key}: ") and words in line


def test_what_contradicts_only_alone_is_allowed_in_a_sweep_of_both(tmp_path):
    text = "sweep: {grid: {model.n_positions: [2048], data.block_size: [2048]}}"
    assert len(expand_sweep(load_recipe(write(tmp_path, text)))) == 1


def test_a_pretrained_model_brings_its_own_configuration(tmp_path):
    good = "model: {pretrained: gpt2, revision: main, attn_implementation: sdpa}\ndata: {block_size: 4096}"
    assert load_recipe(write(tmp_path, good)).model["pretrained"] == "gpt2"
    (line,) = problems_of(write(tmp_path, "model: {pretrained: gpt2, n_layer: 3}"))
    assert "model.n_layer: cannot stand beside model.pretrained" in line
    (line,) = problems_of(write(tmp_path, "model: {revision: main}"))
    assert "model.revision" in line


@pytest.mark.parametrize(
    ("site", "guess"),
    [
        ("mlp.neuron", "mlp.neurons"),
        ("mpl.out", None),
        ("residual", "resid"),
        ("mlp_out", "mlp.out"),
        ("h.*.x:out", ""),
    ],
)
def test_an_unknown_site_is_named(tmp_path, site, guess):
    path = write(tmp_path, f"metrics:\n  correlation:\n    sites: [{site}]")
    if guess is None:  # looks like a module path: only the model can tell
        assert load_recipe(path).metrics["correlation"]["sites"] == [site]
        return
    (line,) = problems_of(path)
    assert line.startswith(f"{path}:3 metrics.correlation.sites[0]: unknown site")
    assert f"did you mean {guess!r}?" in line or not guess


@pytest.mark.parametrize(
    "site", ["h.*.mlp.c_fc", "h.0.mlp.act:in", "transformer.h.*", "*", "layers.*.mlp.down_proj:in"]
)
def test_a_module_path_is_a_site(tmp_path, site):
    path = write(tmp_path, f"objectives: {{orthogonality: {{weight: 1, sites: ['{site}']}}}}")
    assert load_recipe(path).objectives["orthogonality"]["sites"] == [site]


def test_a_class_of_ones_own_is_neither_imported_nor_checked(tmp_path):
    text = "objectives: {mine: {objective: 'no_such_package:Thing', weight: 1, sites: whatever, foo: {bar: 1}}}"
    assert load_recipe(write(tmp_path, text)).objectives["mine"]["foo"] == {"bar": 1}
    (line,) = problems_of(write(tmp_path, text.replace("weight: 1", "weight: x")))
    assert "objectives.mine.weight: expected a number" in line
    (line,) = problems_of(write(tmp_path, text.replace("package:Thing", "package:")))
    assert "'no_such_package:' is not of the form package.module:Class" in line


def test_a_name_of_another_architecture_is_translated(tmp_path):
    (line,) = problems_of(write(tmp_path, "model: {num_hidden_layers: 2}"))
    assert "unknown key (did you mean 'n_layer'?)" in line
    (line,) = problems_of(write(tmp_path, "model: {model_type: llama, n_embd: 2}"))
    assert "unknown key (did you mean 'hidden_size'?)" in line


def test_a_number_beyond_floats_is_not_finite(tmp_path):
    (line,) = problems_of(write(tmp_path, f"training: {{max_steps: {'9' * 5000}}}"))
    assert "not a finite number" in line and math.isinf(float("9" * 400))
