"""Laws of `hf-tti push`: it pushes what is missing and says what was there; a mistake is one line."""

import shlex
import shutil

import huggingface_hub
import pytest

from fakes import hub_routes
from fakes.hub import status
from fakes.hub_store import Answer
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
    (run.final / "manifest.json").unlink()  # as of an earlier version
    for more in ([], ["--dry-run"]):
        code, said, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny", *more)
        assert code == 4 and "tokenizer_config.json: holds a Hugging Face token" in complaints[-1]
        assert secret not in " ".join([*said, *complaints])
    assert not any(secret.encode() in request.body for request in hub.requests)


MISTAKES = {
    "other case": (
        ["--repo", "ME/tiny"],
        "--repo: ME/tiny belongs to somebody else (did you mean 'me'?); the",
    ),
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


def test_the_command_that_finishes_brings_the_checkpoints_and_the_collection(hub, run, capsys):
    hub.fail("POST", "/commit/step4", status(403), status(403))
    code, _, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny", "--steps", "--collection", "A sweep")
    assert code == 4 and Ledger(run.path, "me/tiny").pending() == ["step4"]
    command = shlex.split(complaints[-1].partition("; to finish: hf-tti ")[2])
    hub.heal()
    code, said, _ = typed(capsys, *command)
    assert code == 0 and said[0].startswith("step4: pushed") and "/collections/" in said[-1]
    assert "model.safetensors" in hub.repos["me/tiny"].branches["step4"] and len(hub.store.collections) == 1
    assert typed(capsys, "push", run.path, "--repo", "me/tiny")[1][0].startswith("main: already there")


def test_a_collection_is_as_private_as_its_models(hub, run, capsys):
    recipe = run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "hub:\n  private: false\n")
    assert typed(capsys, "push", run.path, "--repo", "me/tiny", "--collection", "Open")[0] == 0
    (collection,) = hub.store.collections.values()
    assert not hub.repos["me/tiny"].private and not collection["private"]


def test_a_collection_without_a_title_is_refused_before_anything_is_sent(hub, run, capsys):
    code, _, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny", "--collection", " ")
    assert code == 2 and complaints == ["collection ' ': no title"] and not hub.requests


def test_a_run_named_twice_is_one_line(hub, run, capsys):
    code, _, complaints = typed(capsys, "push", run.path, run.path, "--repo", "me/{run}")
    assert code == 2 and complaints == [f"{run.path}: named twice; name it once"]


def test_a_damaged_model_or_report_is_one_line_and_asks_nobody(hub, run, capsys):
    report = run.path / "report" / "report.json"
    report.parent.mkdir()
    report.write_text("{")
    code, _, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny")
    assert code == 2 and len(complaints) == 1 and str(report) in complaints[0] and "Error" not in complaints[0]
    shutil.rmtree(report.parent)
    weights = run.final / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    for more in ([], ["--dry-run"]):
        code, _, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny", *more)
        assert code == 2 and len(complaints) == 1 and "model.safetensors" in complaints[0]
    assert not hub.requests


def test_a_licence_that_the_hub_does_not_know_is_one_line(hub, run, capsys):
    recipe = run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "hub:\n  license: apache2\n")
    code, _, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny")
    assert code == 2 and len(complaints) == 1 and not hub.requests
    assert "hub.license: 'apache2' is no licence that the Hub knows (did you mean 'apache-2.0'?)" in complaints[0]


def test_what_the_hub_says_of_a_card_is_said(hub, run, capsys, monkeypatch):
    said = '"base_model" must be a string'
    refuse = Answer(400, {"errors": [{"message": said}], "warnings": []})
    routes = [(m, p, (lambda *_: refuse) if p == "/api/validate-yaml" else f) for m, p, f in hub_routes._ROUTES]
    monkeypatch.setattr(hub_routes, "_ROUTES", routes)
    code, _, complaints = typed(capsys, "push", run.path, "--repo", "me/tiny")
    if int(huggingface_hub.__version__.partition(".")[0]) >= 2:  # before, it asks huggingface.co whatever the endpoint
        assert code == 4 and f"main (the Hub answered 400, {said})" in complaints[-1]
