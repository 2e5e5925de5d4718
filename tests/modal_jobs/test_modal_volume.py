"""What the Volume holds decides what a sweep trains, what is evaluated, and what a report brings home."""

import json
import re
from pathlib import Path

import pytest

from hf_tti.recipe import expand_sweep, load_recipe
from modal_jobs.places import ROOT
from modal_jobs.plans import Wanted, plan_runs

BASELINE = "recipes/expt1/baseline.yaml"


def finish_run(cloud, recipe: str, name: str) -> None:
    """A finished run of the recipe on the Volume."""
    run = next(run for run in expand_sweep(load_recipe(ROOT / recipe)) if run.run_name == name)
    place = cloud.volume("tti-checkpoints").committed / "runs" / run.experiment / name
    place.mkdir(parents=True)
    (place / "run.json").write_text(json.dumps({"name": name, "digest": run.digest()}))
    (place / "result.json").write_text(json.dumps({"metrics": {"eval_perplexity": 9.0}}))


def rows(text: str) -> dict[str, list[str]]:
    """The printed table, by run."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("runs/")}


def test_a_sweep_skips_finished_runs_and_starts_nothing_over_its_budget(cloud, modal_run):
    finish_run(cloud, BASELINE, "baseline-seed43")
    (cloud.volume("tti-checkpoints").committed / "runs/expt1/other-seed42").mkdir()
    done = modal_run("sweep", "--recipes", BASELINE, "--gpu", "H100,A100-80GB", "--max-usd", "1", "--yes")
    assert done.returncode == 2
    table = rows(done.stdout)
    assert table["runs/expt1/baseline-seed43"] == ["finished", "-", "-"]
    read = {Path(request.path).parent.name for request in cloud.requests("VolumeGetFile2")}
    assert read == {"baseline-seed43"}  # no request for a run that nobody asked for, or that is not there
    new = [table[f"runs/expt1/baseline-seed{seed}"] for seed in (42, 44)]
    assert [row[0] for row in new] == ["new", "new"]
    total = re.search(r"2 of 3 runs to train on 1 x H100,A100-80GB: about \$([0-9.]+)", done.stdout).group(1)
    assert float(total) == pytest.approx(sum(float(row[2]) for row in new), abs=0.02)  # of numbers that were rounded
    assert "MFU" in done.stdout
    assert done.stderr == f"--max-usd 1: about ${total} for 2 runs is more; nothing is started\n"
    assert not {"AppCreate", "ImageGetOrCreate", "FunctionCreate"} & set(cloud.names())


def test_a_sweep_asks_and_then_spawns_every_run_that_is_left(cloud, modal_run):
    finish_run(cloud, BASELINE, "baseline-seed43")
    cloud.answer = lambda *, run_name, **_: {"what": run_name, "exit_code": 0, "line": "", "metrics": {}}
    options = ("--recipes", BASELINE, "--gpu", "cpu", "--max-containers", "2")
    for more, code, end in ((["--dry-run"], 0, "nothing was started"), ([], 2, "terminal to answer on: add --yes")):
        done = modal_run("sweep", *options, *more)
        assert (done.returncode, (done.stdout + done.stderr).splitlines()[-1].endswith(end)) == (code, True)
        assert "AppCreate" not in cloud.names()
    done = modal_run("sweep", *options, "--yes", before=("--detach",))
    assert done.returncode == 0, done.stderr
    cloud.wait()
    over = modal_run("train", "--recipe", BASELINE, "--gpu", "cpu", "--extra", "--run baseline-seed43")
    assert (over.returncode, over.stdout) == (0, "runs/expt1/baseline-seed43 is finished; nothing was started\n")
    assert [call["run_name"] for call in cloud.inputs()] == ["baseline-seed42", "baseline-seed44"]
    assert cloud.function("train").autoscaler_settings.max_containers == 2
    assert [f"baseline-seed{seed}: fc-{number} " in done.stdout for number, seed in enumerate((42, 44))] == [True] * 2


def test_finished_runs_are_evaluated_each_in_a_call_of_its_own(cloud, modal_run):
    for seed in (42, 43):
        finish_run(cloud, BASELINE, f"baseline-seed{seed}")
    (cloud.volume("tti-checkpoints").committed / "runs/expt1/half-way").mkdir()
    cloud.answer = lambda *, what, **_: {"what": what, "exit_code": 0, "line": "", "metrics": {}}
    wrong = modal_run("evaluate", "--run", "expt1/baseline-seed4")
    assert (wrong.returncode, "AppCreate" in cloud.names()) == (2, False)
    assert "not a finished run (did you mean 'baseline-seed4" in wrong.stderr
    done = modal_run("evaluate", "--run", "expt1", "--extra", "--nulls none")
    assert done.returncode == 0, done.stderr
    runs = [f"volume:runs/expt1/baseline-seed{seed}" for seed in (42, 43)]
    assert [call["arguments"] for call in cloud.inputs()] == [["evaluate", run, "--nulls", "none"] for run in runs]


def test_the_report_is_fetched_whole(cloud, modal_run, tmp_path):
    finish_run(cloud, BASELINE, "baseline-seed42")
    page = bytes(range(256)) * 40_000  # more than one block

    def write_page(*, what, arguments, **_):
        assert arguments == ["report", "volume:runs/expt1", "--out", "volume:reports/expt1", "--margin", "0.01"]
        folder = cloud.volume("tti-checkpoints").committed / "reports/expt1"
        (folder / "figures").mkdir(parents=True)
        (folder / "index.html").write_bytes(page)
        (folder / "figures" / "a.svg").write_text("<svg/>")
        (folder / "empty.csv").touch()
        return {"what": what, "exit_code": 0, "line": "", "metrics": {}}

    cloud.answer = write_page
    out = tmp_path / "page"
    done = modal_run("report", "--runs", "expt1", "--out", str(out), "--extra", "--margin 0.01")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "index.html").read_bytes() == page
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["empty.csv", "figures/a.svg", "index.html"]
    assert f"3 files in {out}: open {out / 'index.html'}" in done.stdout
    assert "AppCreate" in cloud.names()


def test_local_files_have_the_containers_names_in_a_runs_digest(tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    (checkout / "recipes").mkdir(parents=True)
    (checkout / "recipes" / "words.txt").write_text("a b c")
    recipe = checkout / "recipes" / "mine.yaml"
    recipe.write_text(
        "experiment: e\nquestion: Is it there?\nmodel: {model_type: gpt2}\n"
        "data: {name: text_files, train: words.txt}\ntraining: {max_steps: 1}\n"
    )
    monkeypatch.setattr("modal_jobs.plans.ROOT", checkout)
    (planned,) = plan_runs(Wanted([recipe], []), Path("runs"))
    assert planned.run.recipe.data["train"] == "/root/recipes/words.txt"
    assert (planned.recipe, planned.place) == ("recipes/mine.yaml", "runs/e/mine-seed42")
    assert planned.run.digest != expand_sweep(load_recipe(recipe))[0].digest()
