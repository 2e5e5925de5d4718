"""Generated recipes of every kind: read or refused in lines, never another exception; what is read reads back the same.

`tests/faults/recipes.py` runs 20,000 of them.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_tti.recipe import RecipeError, expand_sweep, load_recipe
from hf_tti.run_folder import default_run_dir
from recipe_cases import KINDS, TOKEN, check_lines, fresh, outcome

QUICK = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_recipe_is_read_or_refused(tmp_path, kind):
    @QUICK
    @given(KINDS[kind])
    def holds(case):
        assert outcome(case, fresh(tmp_path / "recipe")) in ("valid", "refused")

    holds()


@pytest.mark.parametrize(
    "name", ["a\nhub: {push: final}", "a\x1b[31m", "...", "-rf", ".hidden", "\u202egpj", "ü", "a" * 200, "con trol\t"]
)
@pytest.mark.parametrize("text", ["model: {n_layer: 2}\n", "modle: 1\n"])
def test_a_files_name_neither_writes_into_a_run_nor_leads_out_of_its_folder(tmp_path, name, text):
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    try:
        runs = expand_sweep(load_recipe(path))
    except RecipeError as error:
        check_lines(error, tmp_path)
        return
    for run in runs:
        place = (tmp_path / default_run_dir(run)).resolve()
        assert place.parent.parent == tmp_path / "runs"
        assert all(part.isprintable() and part[0] not in ".-" for part in place.parts[-2:])


SECRETS = [TOKEN, "wandb_v1_" + "a1" * 20, "ghp_" + "a1B" * 12, "AKIA" + "A1B2" * 4, "sk-ant-" + "a1" * 20]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("where", ["question: {}\n", "# {}\n", "{}: 1\n", "tracking: {{tags: [a, '{}']}}\n"])
def test_a_secret_in_a_recipe_is_refused_and_not_repeated(tmp_path, secret, where):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {n_layer: 2}\n" + where.format(secret))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}:2: holds a") and secret not in line


@given(st.sampled_from(SECRETS), st.sampled_from(["{}", "{}=1", "question={}", "question='a {} b'", "a.{}.b=1"]))
@settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_a_secret_in_an_override_is_refused_and_not_repeated(tmp_path, secret, form):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {n_layer: 2}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, [form.format(secret)])
    (line,) = caught.value.problems
    assert line.startswith("--set: holds a") and secret not in line


def test_a_secret_of_the_environment_is_known_without_a_form(tmp_path, monkeypatch):
    path = tmp_path / "recipe.yaml"
    path.write_text("question: does correct-horse-battery work?\n")
    load_recipe(path)
    monkeypatch.setenv("SOME_API_KEY", "correct-horse-battery")
    with pytest.raises(RecipeError, match="holds the value of SOME_API_KEY") as caught:
        load_recipe(path)
    assert "horse" not in str(caught.value)
