"""Which runs a job takes up when their number of processes changes."""

import json

import pytest

from hf_tti.errors import UserError
from hf_tti.run_folder import RECIPE_FILE, RESULT_FILE, RUN_FILE
from modal_jobs import plans
from modal_jobs.plans import BATCH, OTHER, Wanted, plan_on_volume, plan_runs

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

    def copy_records(volume, experiments, records):
        for place, files in held.items():
            (records / place).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (records / place / name).write_text(text)

    monkeypatch.setattr(plans, "check_account", lambda: None)
    monkeypatch.setattr(plans, "checkpoints_volume", lambda: None)
    monkeypatch.setattr(plans, "copy_records", copy_records)

    def put(wanted, *, finished=False):
        (planned,) = plan_runs(wanted, recipe.parent / "records")
        files = {RUN_FILE: json.dumps({"name": planned.name, "digest": planned.run.digest}), RECIPE_FILE: RECIPE}
        if finished:
            files[RESULT_FILE] = json.dumps({"metrics": {}})
        held[f"e/{planned.name}"] = files

    return put


def state_of(wanted, *, elastic):
    ((planned, state),) = plan_on_volume(wanted, elastic=elastic)
    return planned.run.overrides, state


def test_a_run_begun_on_one_gpu_goes_on_on_two_with_elastic_alone(recipe, volume):
    volume(Wanted([recipe], []))
    two = Wanted([recipe], [], num_processes=2)
    assert state_of(two, elastic=True) == ((f"{BATCH}=32",), "unfinished")
    with pytest.raises(UserError) as refused:
        plan_on_volume(two)
    line = str(refused.value)
    hints = [OTHER, "--elastic goes on with it where only the batch is another", "modal volume rm -r"]
    assert sorted(hints, key=line.index) == hints and len(line.splitlines()) == 1


def test_a_run_finished_on_one_gpu_is_not_started_on_two(recipe, volume):
    volume(Wanted([recipe], []), finished=True)
    assert state_of(Wanted([recipe], [], num_processes=2), elastic=True)[1] == "finished"


@pytest.mark.parametrize("override", [f"{BATCH}=16", "training.learning_rate=0.5"])
def test_elastic_leaves_any_other_difference_to_the_container(recipe, volume, override):
    volume(Wanted([recipe], [override]))
    for processes in (1, 2):
        assert state_of(Wanted([recipe], [], num_processes=processes), elastic=True)[1] == OTHER
    with pytest.raises(UserError, match=OTHER):
        plan_on_volume(Wanted([recipe], []))


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
