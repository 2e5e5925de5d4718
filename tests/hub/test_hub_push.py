"""Laws of `hf-tti push`: it pushes what is missing and says what was there; a mistake is one line."""

import pytest

from fakes.hub import status
from hf_tti.cli import main
from hf_tti.hub.ledger import Ledger
from hf_tti.hub.outbox import Outbox
from hf_tti.hub.remote import Remote
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from hf_tti.run_folder import RunFolder
from tiny_runs import write_recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunFolder:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TTI_CACHE", str(folder / "cache"))
        training = {"max_steps": 4, "eval_strategy": "no"}
        recipe = load_recipe(write_recipe(folder, training=training))
        train_run(expand_sweep(recipe)[0], folder / "run")
    return RunFolder(folder / "run")


@pytest.fixture
def run(trained, tmp_path) -> RunFolder:
    """A finished run that has pushed nothing."""
    for path in trained.path.rglob("*"):
        if path.is_file():
            place = tmp_path / "run" / path.relative_to(trained.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return RunFolder(tmp_path / "run")


def typed(capsys, *arguments) -> tuple[int, list[str], list[str]]:
    """Exit code, lines said, lines complained."""
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err.splitlines()


def test_a_push_done_again_commits_nothing_and_says_so(hub, run, capsys):
    code, said, _ = typed(capsys, "push", run.path, "--repo", "me/tiny")
    assert code == 0 and len(said) == 2
    assert said[0] == f"main: pushed, commit {hub.repos['me/tiny'].heads['main'][:10]}"
    assert said[1] == f"{hub.endpoint}/me/tiny" and hub.repos["me/tiny"].private
    commits = len(hub.repos["me/tiny"].commits)
    code, said, _ = typed(capsys, "push", run.path, "--repo", "me/tiny")
    assert code == 0 and said[0] == "main: already there, byte for byte"
    assert len(hub.repos["me/tiny"].commits) == commits and not hub.unknown


def test_checkpoints_go_where_the_recipe_promised_them_or_where_they_are_asked_for(hub, run, capsys):
    typed(capsys, "push", run.path, "--repo", "me/tiny", "--public")
    assert set(hub.repos["me/tiny"].heads) == {"main"} and not hub.repos["me/tiny"].private
    code, said, _ = typed(capsys, "push", run.path, "--repo", "me/tiny", "--steps")
    assert code == 0 and [line.split(":")[0] for line in said[:3]] == ["step2", "step4", "main"]
    for step in (2, 4):
        there = hub.repos["me/tiny"].branches[f"step{step}"]["model.safetensors"]
        assert there == (run.path / f"checkpoint-{step}" / "model.safetensors").read_bytes()


def test_an_unfinished_run_pushes_what_it_promised_alone(hub, run, capsys):
    (run.path / "result.json").unlink()
    code, _, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny")
    assert code == 2 and complaints == [f"{run.path}: is not finished, and has promised no checkpoint; nothing to push"]
    Ledger(run.path, "me/tiny").promise("step2", run.path / "checkpoint-2")
    assert typed(capsys, "push", run.path, "--repo", "me/tiny")[0] == 0
    assert set(hub.repos["me/tiny"].branches["step2"]) > {"README.md", "model.safetensors", "recipe.yaml"}
    assert set(hub.repos["me/tiny"].branches["main"]) == {".gitattributes"}


def test_a_dry_run_lists_what_would_leave_and_asks_nobody(hub, run, capsys):
    code, said, _ = typed(capsys, "push", run.path, "--repo", "me/tiny", "--dry-run")
    assert code == 0 and said[0].startswith("me/tiny main: ") and "model.safetensors" in said[0]
    assert hub.requests == [] and not (run.path / "pushes.jsonl").exists()
    typed(capsys, "push", run.path, "--repo", "me/tiny")
    there = set(hub.repos["me/tiny"].branches["main"]) - {".gitattributes"}
    assert there == set(said[0].rpartition(": ")[2].split(", "))


def test_what_cannot_be_pushed_is_exit_code_4_with_the_list_and_the_same_command(hub, run, capsys):
    hub.fail("POST", "/commit/", status(403), status(403))
    code, _, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny")
    assert code == 4
    assert complaints[-1].startswith("not on the Hub in me/tiny: main (the Hub answered 403")
    assert complaints[-1].endswith(f"; to finish: hf-tti push {run.path} --repo me/tiny")


def test_a_hub_that_is_down_is_waited_for_and_then_given_up(hub, run, capsys, monkeypatch):
    monkeypatch.setattr("hf_tti.hub.push.WAIT_S", 0.0)
    hub.refuse()
    code, _, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny")
    assert code == 4 and "not on the Hub in me/tiny: main" in complaints[-1]


def test_a_secret_in_the_run_stops_the_push(hub, run, capsys):
    secret = "hf_" + "Canary" * 6
    (run.final / "tokenizer_config.json").write_text(f'{{"auth": "{secret}"}}')
    for more in ([], ["--dry-run"]):
        code, said, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny", *more)
        assert code == 4 and "tokenizer_config.json: holds a Hugging Face token" in complaints[-1]
        assert secret not in " ".join([*said, *complaints])
    assert not any(secret.encode() in request.body for request in hub.requests)


MISTAKES = {
    "somebody else's": (["--repo", "them/tiny"], "--repo: them/tiny belongs to somebody else; the token is of me, lab"),
    "no owner": (["--repo", "tiny"], "--repo: 'tiny' is no name of a repository; write owner/name"),
    "none": ([], "--repo: missing, and the recipe of "),
}


@pytest.mark.parametrize(("more", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_pushed(hub, run, capsys, more, said):
    code, _, complaints = typed(capsys, "push", run.path, *more)
    assert code == 2 and len(complaints) == 1 and complaints[0].startswith(said)
    assert not hub.repos


def test_no_token_is_one_line(hub, run, capsys, monkeypatch):
    monkeypatch.setattr("hf_tti.hub.check.get_token", lambda: None)
    code, _, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny")
    assert code == 2 and complaints == ["a push needs a token; set HF_TOKEN, log in with hf auth login"]


def test_a_folder_without_a_run_and_one_that_trains_are_refused(hub, run, capsys, tmp_path):
    code, _, complaints = typed(capsys, "push", tmp_path, "--repo", "me/tiny")
    assert code == 2 and "holds no run" in complaints[0]
    with run.lock():
        code, _, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny")
    assert code == 2 and "another process is training in this folder" in complaints[0]


def test_what_arrived_is_noted_and_its_staging_let_go(hub, run, capsys):
    outbox = Outbox(run, Remote("me/tiny", private=True))
    outbox.promise("step2", run.path / "checkpoint-2")
    assert outbox.ledger.staged_branches() == ["step2"]
    typed(capsys, "push", run.path, "--repo", "me/tiny")
    assert outbox.ledger.staged_branches() == [] and outbox.ledger.pending() == []
    assert outbox.ledger.has_pushed("main") and outbox.ledger.has_pushed("step2")
