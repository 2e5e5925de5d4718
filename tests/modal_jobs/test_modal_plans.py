"""Which runs a job takes up when their number of processes changes."""

import json

import pytest

from hf_tti.errors import UserError
from hf_tti.run_folder import RECIPE_FILE, RESULT_FILE, RUN_FILE
from modal_jobs import plans
from modal_jobs.plans import BATCH, Wanted, plan_on_volume, plan_runs

RECIPE = """\
experiment: e
question: Is it there?
model: {model_type: gpt2}
data: {name: text_files, train: words.txt}
training: {max_steps: 1, per_device_train_batch_size: 64}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe below a checkout's recipes/."""
    path = tmp_path / "checkout" / "recipes" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.with_name("words.txt").write_text("a b c")
    path.write_text(RECIPE)
    monkeypatch.setattr(plans, "ROOT", path.parents[1])
    return path


@pytest.fixture
def volume(recipe, monkeypatch):
    """Puts a run on the Volume: as `wanted` plans it, finished or not."""
    held = {}

    def copy_records(volume, places, records):
        for place, files in held.items():
            (records / place).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (records / place / name).write_text(text)

    monkeypatch.setattr(plans, "check_account", lambda: None)
    monkeypatch.setattr(plans, "checkpoints_volume", lambda: None)
    monkeypatch.setattr(plans, "copy_records", copy_records)

    def put(wanted, *, finished=False, text=""):
        (planned,) = plan_runs(wanted, recipe.parent / "records")
        files = {
            RUN_FILE: json.dumps({"name": planned.name, "digest": planned.run.digest}),
            RECIPE_FILE: planned.run.recipe.to_yaml(),
        }
        if text is None:
            del files[RECIPE_FILE]
        elif text:
            files[RECIPE_FILE] = text
        if finished:
            files[RESULT_FILE] = json.dumps({"metrics": {}})
        held[f"e/{planned.name}"] = files

    return put


def state_of(wanted, *, elastic):
    ((planned, state),) = plan_on_volume(wanted, elastic=elastic)
    return planned.run.overrides, state


@pytest.mark.parametrize(("was", "now"), [(1, 2), (2, 1), (2, 4)])
def test_a_run_begun_on_other_gpus_goes_on_with_elastic_alone(recipe, volume, was, now):
    volume(Wanted([recipe], [], num_processes=was))
    wanted = Wanted([recipe], [], num_processes=now)
    assert state_of(wanted, elastic=True) == ((f"{BATCH}={64 // now}",) if now > 1 else (), "unfinished")
    with pytest.raises(UserError) as refused:
        plan_on_volume(wanted)
    line = str(refused.value)
    hints = ["begun with another batch; ", "--extra --elastic goes on with it; ", "modal volume rm -r"]
    assert sorted(hints, key=line.index) == hints and len(line.splitlines()) == 1


@pytest.mark.parametrize(("was", "now"), [(1, 2), (2, 1), (2, 4)])
def test_a_run_finished_on_other_gpus_is_not_started_again(recipe, volume, was, now):
    volume(Wanted([recipe], [], num_processes=was), finished=True)
    assert state_of(Wanted([recipe], [], num_processes=now), elastic=True)[1] == "finished"


def test_whether_the_global_batch_is_the_same_is_for_the_container_to_say(recipe, volume):
    volume(Wanted([recipe], [f"{BATCH}=16"]))
    assert state_of(Wanted([recipe], [], num_processes=2), elastic=True)[1] == "unfinished"


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("was", [["training.learning_rate=0.5"], ["training.learning_rate=0.5", f"{BATCH}=16"]])
def test_any_other_difference_is_named_before_anything_starts(recipe, volume, elastic, was):
    volume(Wanted([recipe], was))
    with pytest.raises(UserError, match="begun with training.learning_rate 0.5, which is None now; modal volume rm"):
        plan_on_volume(Wanted([recipe], []), elastic=elastic)


@pytest.mark.parametrize("text", ["changed since", "spoiled", None])
def test_a_run_whose_recorded_recipe_does_not_say_what_differs_is_of_another(recipe, volume, tmp_path, text):
    if text == "changed since":
        text = plan_runs(Wanted([recipe], []), tmp_path)[0].run.recipe.to_yaml()
    volume(Wanted([recipe], ["training.learning_rate=0.5"]), text=text)
    with pytest.raises(UserError, match="begun with another recipe; modal volume rm"):
        plan_on_volume(Wanted([recipe], []), elastic=True)


@pytest.mark.parametrize("overrides", [[], [f"{BATCH}=8"]])
def test_a_batch_in_the_grid_is_for_one_process(recipe, overrides, tmp_path):
    recipe.write_text(f"{RECIPE}sweep: {{grid: {{{BATCH}: [16, 32]}}}}\n")
    batches = [
        run.run.recipe.training["per_device_train_batch_size"] for run in plan_runs(Wanted([recipe], []), tmp_path)
    ]
    assert batches == [16, 32]
    for several in ({"num_processes": 2}, {"num_nodes": 2}):
        with pytest.raises(UserError, match=f"sweep.grid sets {BATCH} for each of 2 processes") as refused:
            plan_runs(Wanted([recipe], overrides, **several), tmp_path)
        assert len(str(refused.value).splitlines()) == 1
