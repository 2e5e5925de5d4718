"""Mistakes are one line and exit code 2, and nothing is started: no app, no image, no function, no call."""

import io
import json
import re
import shlex
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_tti.errors import UserError
from modal_jobs import data, evaluate, report, sweep, train
from modal_jobs.app import gpu_list, training_resources
from modal_jobs.invocation import NothingToDo, confirm
from modal_jobs.options import extra_options
from modal_jobs.plans import check_budget

ROOT = Path(__file__).resolve().parents[2]

QUICKSTART = "recipes/quickstart/baseline.yaml"


def test_no_token(refused, tmp_path):
    without = {"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": "", "MODAL_CONFIG_PATH": str(tmp_path / "none")}
    line = refused("train", "--recipe", QUICKSTART, **without)
    assert line == "Modal: no valid token here (Token missing); run: modal setup"


def test_a_missing_secret(refused, cloud):
    del cloud.secrets["wandb-secret"]
    line = refused("data")
    assert "wandb-secret" in line and line.endswith("make it: modal secret create wandb-secret WANDB_API_KEY=...")


def test_a_secret_without_its_key(refused, cloud):
    cloud.secrets["huggingface-secret"] = {"TOKEN"}
    assert "HF_TOKEN" in refused("data")


def test_an_unknown_gpu(refused):
    line = refused("train", "--recipe", QUICKSTART, "--gpu", "H100,A10O")
    assert line.startswith("--gpu A10O: unknown (did you mean 'A10'?); choices: ")


def test_a_recipe_outside_the_image(refused, tmp_path):
    (tmp_path / "mine.yaml").write_text("question: Is it there?\n")
    line = refused("train", "--recipe", str(tmp_path / "mine.yaml"))
    assert line.startswith(f"{tmp_path / 'mine.yaml'}: not in the image, which holds ")


def test_a_folder_with_another_recipes_run(refused, cloud):
    run = cloud.volume("tti-checkpoints").committed / "runs/quickstart/baseline-seed42"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"name": "baseline-seed42", "digest": "another"}))
    line = refused("train", "--recipe", QUICKSTART)
    assert "runs/quickstart/baseline-seed42 on the Volume was begun with another recipe; modal volume rm" in line


@pytest.mark.parametrize(
    ("costs", "limit", "line"),
    [
        ([0.6, 0.6], 1.0, "--max-usd 1: about $1.20 for 2 runs is more; nothing is started"),
        ([0.6, None], 5.0, "--max-usd 5: there is no price of a CPU container to compare with; leave it out"),
    ],
)
def test_a_budget_is_held_or_cannot_be(costs, limit, line):
    costs = [cost and SimpleNamespace(dollars=cost) for cost in costs]
    with pytest.raises(UserError, match=re.escape(line)):
        check_budget(costs, limit)
    check_budget(costs, None)
    check_budget(costs[:1], 0.6)


def test_without_a_terminal_there_is_no_yes(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(UserError, match="Start 2 runs\\? There is no terminal to answer on: add --yes"):
        confirm("Start 2 runs?", yes=False)
    confirm("Start 2 runs?", yes=True)


@pytest.mark.parametrize(("answer", "starts"), [("y", True), ("YES", True), ("", False), ("n", False)])
def test_a_terminal_is_asked(answer, starts, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    with nullcontext() if starts else pytest.raises(NothingToDo):
        confirm("Start 2 runs?", yes=False)


@pytest.mark.parametrize(
    ("job", "options", "line"),
    [
        (train, "", "--recipe is missing"),
        (train, f"--recipe {QUICKSTART} --gpus 2", "unrecognized arguments: --gpus 2"),
        (train, f"--recipe {QUICKSTART} --timeout-hours 30", "'30' is not between 0 and Modal's 24 hours"),
        (train, f"--recipe {QUICKSTART} --retries 11", "'11' is not a whole number from 0 to 10"),
        (train, f"--recipe {QUICKSTART} --max-usd nan", "'nan' is not a number of dollars"),
        (train, f"--recipe {QUICKSTART} --nodes 2", "add --gpu H100 --num-gpus 8"),
        (train, f"--recipe {QUICKSTART} --num-gpus 3", "is 16, which 3 processes cannot share"),
        (train, f"--recipe {QUICKSTART} --gpu L4,A10 --num-gpus 16", "Modal attaches at most 8 L4 to a container"),
        (train, f"--recipe {QUICKSTART} --gpu A10 --num-gpus 8", "Modal attaches at most 4 A10 to a container"),
        (sweep, f"--recipes {QUICKSTART} --gpu H100! --num-gpus 9", "Modal attaches at most 8 H100! to a container"),
        (train, f"--recipe {QUICKSTART} --gpu A100!", "--gpu A100!: unknown"),
        (train, f"--recipe {QUICKSTART} --extra --resume", "the job itself sets --resume"),
        (train, f"--recipe {QUICKSTART} --extra", "argument --extra: expected one argument"),
        (sweep, f"--recipes {QUICKSTART} --extra --run=a", "--run is one run"),
        (evaluate, "--run a/b --extra --out=x", "leave --out away"),
        (evaluate, "--run a/b --num-gpus 2", "unrecognized arguments: --num-gpus 2"),
        (report, "--runs a --extra --out=x", "name the folder by --out of this job"),
        (train, f"--recipe {QUICKSTART} --extra '--run-dir x'", "the job itself sets --run-dir"),
        (train, f"--recipe {QUICKSTART} --extra '--set training.sed=1'", "training.sed"),
        (train, f"--recipe {QUICKSTART} --extra '--sot a'", "unrecognized arguments: --sot a"),
        (train, "--recipe recipes/nowhere.yaml", "recipes/nowhere.yaml: no such recipe"),
        (train, "--recipe recipes/expt1", "recipes/expt1: a folder"),
        (sweep, f"--recipes {QUICKSTART} --extra '--run a'", "--run is one run"),
        (sweep, "--recipes recipes/nowhere", "recipes/nowhere: no such recipe or folder"),
        (evaluate, "", "--run is missing"),
        (evaluate, "--run a/b --extra '--out x'", "leave --out away"),
        (evaluate, "--run a/b --gpu Z9", "--gpu Z9: unknown"),
        (report, "", "--runs is missing"),
        (data, "--recipe /etc/passwd.yaml", "/etc/passwd.yaml"),
    ],
)
def test_other_mistakes_are_found_before_modal_is_asked(job, options, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("modal.Secret.from_name", None)
    with pytest.raises(UserError) as caught:
        parsed = job.make_parser().parse_args(shlex.split(options))
        parsed.detached = False
        job.prepare(parsed)
    assert line in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_words_for_training_are_split_without_a_shell():
    given = extra_options("--set training.seed=1 --set 'model.name=a b' --elastic", QUICKSTART)
    assert given.overrides == ["training.seed=1", "model.name=a b"] and given.elastic


@pytest.mark.parametrize("job", [train, sweep, evaluate, report])
@pytest.mark.parametrize("value", ["--elastic", "--nulls=none", "--set a.b=1 --elastic", ""])
def test_extra_takes_any_word(job, value):
    for words in (["--extra", value], [f"--extra={value}"]):
        assert job.make_parser().parse_args(words).extra == value


@pytest.mark.parametrize(("hours", "seconds"), [("24", 86400), ("1.5", 5400), ("0.0001", 1)])
def test_no_time_that_is_asked_for_is_rounded_to_no_limit(hours, seconds):
    options = evaluate.make_parser().parse_args(["--timeout-hours", hours])
    assert training_resources(None, options)["timeout"] == seconds


def test_an_evaluation_asks_for_one_gpu():
    options = evaluate.make_parser().parse_args(["--gpu", "H100!,A100-80GB"])
    assert training_resources(gpu_list(options.gpu, options.num_gpus), options)["gpu"] == ["H100!:1", "A100-80GB:1"]
