"""Laws of pushing while a run trains: every promised branch arrives, and training does not notice."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from transformers import TrainerState

from fakes.hub import TOKEN, FakeHub, status
from hf_tti.errors import UserError
from hf_tti.hub import PushError, check_hub, push_run, section_of
from hf_tti.hub.training import is_scheduled
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.recipe.sections import HubSection
from hf_tti.run import train_run
from hf_tti.run_folder import RunFolder
from hf_tti.signals import Stopped
from hf_tti.trainer import InterpTrainer
from tiny_runs import write_recipe

STEPS = ("hub.push=steps", "hub.repo=me/tiny")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pushed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TTI_CACHE", str(folder / "cache"))
        training = {"save_total_limit": 2, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 2}
        yield write_recipe(folder, training=training)


def run_of(recipe, *overrides):
    return expand_sweep(load_recipe(recipe, ["model.resid_pdrop=0.1", *overrides]))[0]


@pytest.fixture(scope="module")
def silent(recipe, tmp_path_factory) -> RunFolder:
    """The run that pushes nothing, all its checkpoints kept."""
    run = RunFolder(tmp_path_factory.mktemp("silent") / "run")
    train_run(run_of(recipe, "training.save_total_limit=null"), run.path)
    return run


def assert_holds(hub: FakeHub, silent: RunFolder, *steps: int) -> None:
    """Branches of these steps, and main, hold what the silent run has, each after one commit."""
    repo = hub.repos["me/tiny"]
    assert set(repo.heads) == {"main", *(f"step{step}" for step in steps)}
    for branch in repo.heads:
        folder = silent.final if branch == "main" else silent.path / f"checkpoint-{branch[4:]}"
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            assert repo.branches[branch][name] == (folder / name).read_bytes(), (branch, name)
        assert b"# tiny" in repo.branches[branch]["README.md"] and "recipe.yaml" in repo.branches[branch]
        assert len(repo.history(branch)) == 2


def history(run: RunFolder) -> list[dict]:
    """The ledger of losses, without what depends on the clock."""
    lines = json.loads((run.path / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    return [{key: value for key, value in line.items() if "per_second" not in key} for line in lines]


def test_every_checkpoint_is_a_branch_and_training_is_bitwise_as_if_nothing_were_pushed(hub, recipe, silent, tmp_path):
    run = RunFolder(tmp_path / "run")
    train_run(run_of(recipe, *STEPS), run.path)
    assert_holds(hub, silent, 2, 4, 6)
    assert not hub.unknown
    assert history(run) == history(silent)
    assert not any(TOKEN.encode() in request.body for request in hub.requests)
    assert not any(TOKEN.encode() in path.read_bytes() for path in run.path.rglob("*") if path.is_file())
    rng = "rng_state_0.safetensors"
    assert (run.path / "checkpoint-6" / rng).read_bytes() == (silent.path / "checkpoint-6" / rng).read_bytes()
    asked = len(hub.requests)
    train_run(run_of(recipe, *STEPS), run.path)  # finished, and all of it arrived
    assert len(hub.requests) == asked
    assert push_run(run, "me/tiny").branches == {"step4": None, "step6": None, "main": None}  # what rotation left


def test_final_alone_goes_to_main(hub, recipe, silent, tmp_path):
    train_run(run_of(recipe, "hub.push=final", "hub.repo=lab/{run}"), tmp_path / "run")
    [name] = hub.repos
    assert name == "lab/tiny-seed7" and set(hub.repos[name].heads) == {"main"}
    assert hub.repos[name].branches["main"]["model.safetensors"] == (silent.final / "model.safetensors").read_bytes()


def test_a_run_that_is_stopped_while_the_hub_is_down_delivers_everything_once_it_resumes(
    hub, recipe, silent, tmp_path, monkeypatch
):
    monkeypatch.setattr("hf_tti.hub.training.LEAVING_S", 0.0)
    run, calls, original = RunFolder(tmp_path / "run"), [], InterpTrainer.compute_loss

    def stopping(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    hub.refuse()
    with monkeypatch.context() as patch:
        patch.setattr(InterpTrainer, "compute_loss", stopping)
        with pytest.raises(Stopped):
            train_run(run_of(recipe, *STEPS), run.path)
    assert sorted(path.name for path in (run.path / ".push").iterdir()) == ["step2", "step4"]
    assert (run.path / "checkpoint-5").is_dir()  # of the signal, not of the schedule: no branch
    hub.accept()
    train_run(run_of(recipe, *STEPS), run.path, resume=True)
    assert_holds(hub, silent, 2, 4, 6)
    assert list((run.path / ".push").iterdir()) == []


def test_a_checkpoint_that_a_kill_left_unpromised_is_pushed_by_the_run_that_resumes(hub, recipe, silent, tmp_path):
    run = RunFolder(tmp_path / "run")
    train_run(run_of(recipe), run.path)
    for name in ("result.json", "pushes.jsonl"):
        (run.path / name).unlink(missing_ok=True)
    train_run(run_of(recipe, *STEPS), run.path, resume=True)
    assert_holds(hub, silent, 4, 6)  # what rotation left


def test_what_has_not_arrived_is_exit_code_4_with_the_list_and_the_command(hub, recipe, silent, tmp_path, monkeypatch):
    hub.decide = lambda request: status(403) if "step4" in request.path else None
    run = RunFolder(tmp_path / "run")
    with pytest.raises(PushError) as left:
        train_run(run_of(recipe, *STEPS), run.path)
    assert left.value.exit_code == 4
    assert "not on the Hub in me/tiny: step4 (the Hub answered 403" in str(left.value)
    assert str(left.value).endswith(f"hf-tti push {run.path} --repo me/tiny")
    assert run.result() is not None
    hub.heal()
    train_run(run_of(recipe, *STEPS), run.path)  # the same command does the rest
    assert_holds(hub, silent, 2, 4, 6)


def test_a_hub_that_is_down_does_not_keep_a_run_from_starting(hub, recipe, tmp_path):
    hub.refuse()
    with pytest.raises(PushError, match="not on the Hub in me/tiny: main"):
        train_run(run_of(recipe, "hub.push=final", "hub.repo=me/tiny", "hub.wait_minutes=0"), tmp_path / "run")
    assert RunFolder(tmp_path / "run").result() is not None


MISTAKES = {
    "no repository": (["hub.push=final"], "hub.repo: missing; hub.push: final needs owner/name"),
    "no owner": (["hub.push=steps", "hub.repo=tiny"], "hub.repo: 'tiny' is no name of a repository"),
    "a path": (["hub.push=steps", "hub.repo=../me/tiny"], "hub.repo: '../me/tiny' is no name of a repository"),
    "somebody else's": (["hub.push=steps", "hub.repo=them/tiny"], "them/tiny belongs to somebody else; .* of me, lab"),
}


@pytest.mark.parametrize(("overrides", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_started(hub, recipe, tmp_path, overrides, said):
    with pytest.raises(UserError, match=said) as caught:
        train_run(run_of(recipe, *overrides), tmp_path / "run")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert not hub.repos and not (tmp_path / "run" / "run.json").exists()


def test_no_token_or_one_that_the_hub_does_not_know_is_a_mistake(hub, monkeypatch):
    section = HubSection(push="steps", repo="me/tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "unknown" * 5)
    with pytest.raises(UserError, match="the Hub does not accept the token"):
        check_hub(section)
    monkeypatch.setattr("hf_tti.hub.check.get_token", lambda: None)
    with pytest.raises(UserError, match="hub.push: steps needs a token"):
        check_hub(section)


def test_offline_and_pushing_contradict_one_another(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        check_hub(HubSection(push="final", repo="me/tiny"))


@pytest.mark.parametrize("answer", [status(503), status(429)])
def test_a_hub_that_cannot_say_who_we_are_is_no_mistake(hub, capsys, answer):
    hub.decide = lambda request: answer
    check_hub(HubSection(push="final", repo="them/tiny"))
    assert "cannot be asked whether them/tiny is yours" in capsys.readouterr().err


def test_the_schedules_checkpoints_are_told_from_a_signals():
    def at(step, **more):
        return TrainerState(global_step=step, max_steps=10, save_steps=4, **more)

    assert [step for step in range(1, 11) if is_scheduled("steps", at(step))] == [4, 8, 10]
    assert is_scheduled("epoch", at(5, epoch=1.0)) and not is_scheduled("epoch", at(6, epoch=1.2))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([*STEPS, "training.save_strategy=no"], "hub.push: steps pushes checkpoints"),
        ([*STEPS, "sweep.seeds=[1, 2]"], "hub.repo: is one repository for several runs; put {run}"),
        ([*STEPS, "sweep.grid={training.learning_rate: [0.1, 0.2]}"], "hub.repo: is one repository for several runs"),
    ],
)
def test_contradictions_are_said_before_anything_is_loaded(recipe, overrides, said):
    with pytest.raises(UserError, match=said.replace("{", r"\{")):
        load_recipe(recipe, overrides)
    load_recipe(recipe, ["hub.push=final", "hub.repo=me/{run}", "sweep.seeds=[1, 2]"])


def test_the_repository_may_carry_the_runs_name(recipe):
    assert section_of(run_of(recipe, "hub.push=final", "hub.repo=me/{run}")).repo == "me/tiny-seed7"


_LOGITS = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], revision=sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], revision=sys.argv[2])
ids = tokenizer("the cat saw Lily", return_tensors="pt").input_ids
with torch.no_grad():
    torch.save({"ids": ids, "logits": model.eval()(ids).logits}, sys.argv[3])
"""


def test_a_downloaded_checkpoint_has_the_logits_of_the_local_one(hub, recipe, silent, tmp_path):
    train_run(run_of(recipe, *STEPS), tmp_path / "run")
    environment = {**os.environ, **hub.environment, "HF_HOME": str(tmp_path / "hf")}
    out = tmp_path / "there.pt"
    command = [sys.executable, "-c", _LOGITS, "me/tiny", "step4", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert any(request.path.endswith("/model.safetensors") for request in hub.requests if request.method == "GET")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(silent.path / "checkpoint-4").eval()
    tokenizer = AutoTokenizer.from_pretrained(silent.path / "checkpoint-4")
    ids = tokenizer("the cat saw Lily", return_tensors="pt").input_ids
    with torch.no_grad():
        here = model(ids).logits
    there = torch.load(out)
    assert torch.equal(there["ids"], ids) and torch.equal(there["logits"], here)


@pytest.mark.parametrize(
    ("name", "guess"), [("banana", ", or write other"), ("apache2.0", " (did you mean 'apache-2.0'?)")]
)
@pytest.mark.parametrize("push", ["none", "final"])
def test_a_licence_that_the_hub_refuses_is_said_before_training(hub, name, guess, push):
    with pytest.raises(
        UserError, match=re.escape(f"hub.license: '{name}' is no licence that the Hub knows{guess}; see")
    ):
        check_hub(HubSection(push=push, repo="me/tiny", license=name))
    assert not hub.requests
    for known in ("apache-2.0", "mit", "other", "cc-by-4.0", None):
        check_hub(HubSection(push="none", license=known))
