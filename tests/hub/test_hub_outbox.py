"""Laws of the ledger and the outbox: a promise outlives rotation and kills; what may pass is tried again, in time."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from fakes.hub import stall, status
from hf_tti.errors import UserError
from hf_tti.hub import PushError, push_run
from hf_tti.hub.ledger import Ledger
from hf_tti.hub.outbox import LONGEST_WAIT_S, Outbox
from hf_tti.hub.queue import PushQueue
from hf_tti.hub.remote import Remote
from hf_tti.hub.training import PushCheckpoints
from hf_tti.pushes import LEDGER
from hf_tti.recipe import load_recipe
from hf_tti.run_folder import RECIPE_FILE, RESULT_FILE, RUN_FILE, RunFolder
from tiny_runs import write_recipe


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _no_backoff_of_the_client(monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A finished run that nobody trained, with two checkpoints."""
    folder = RunFolder(tmp_path / "run")
    recipe = load_recipe(write_recipe(tmp_path, hub={"push": "steps", "repo": "me/tiny"}))
    for name in ("final", "checkpoint-2", "checkpoint-4"):
        place = folder.path / name
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps({"model_type": "gpt2", "name": name}))
        save_file({"weight": np.frombuffer(name.encode() * 100, np.uint8)}, place / "model.safetensors")
        if name != "final":
            (place / "optimizer.safetensors").write_bytes(b"stays here")
    (folder.path / RECIPE_FILE).write_text(recipe.to_yaml())
    (folder.path / RUN_FILE).write_text(json.dumps({"name": "tiny", "digest": recipe.digest(), "versions": {}}))
    (folder.path / RESULT_FILE).write_text(json.dumps({"metrics": {"eval_loss": 3.0, "eval_perplexity": 20.1}}))
    return folder


@pytest.fixture(autouse=True)
def _small_card(monkeypatch):
    monkeypatch.setattr(
        "hf_tti.hub.outbox.card_files", lambda run, repo, **of: {"README.md": f"# {of['revision']}\n".encode()}
    )


def outbox_of(run: RunFolder, **more) -> Outbox:
    return Outbox(run, Remote("me/tiny", private=True), **more)


def weights(run: RunFolder, name: str) -> bytes:
    return (run.path / name / "model.safetensors").read_bytes()


def test_a_promise_outlives_the_rotation_of_its_checkpoint(hub, run):
    expected = weights(run, "checkpoint-2")
    Ledger(run.path, "me/tiny").promise("step2", run.path / "checkpoint-2")
    shutil.rmtree(run.path / "checkpoint-2")
    outbox = outbox_of(run)  # of another session
    assert outbox.ledger.pending() == ["step2"]
    outbox.adopt("step2")
    assert outbox.attempt() == 0 and outbox.attempt() is None
    assert hub.repos["me/tiny"].branches["step2"]["model.safetensors"] == expected
    assert "optimizer.safetensors" not in hub.repos["me/tiny"].branches["step2"]
    assert outbox.ledger.pending() == [] and outbox.ledger.staged_branches() == []


def test_what_arrives_in_one_repository_stays_for_another_that_waits(hub, run):
    expected = weights(run, "checkpoint-2")
    first, second = (Outbox(run, Remote(repo, private=True)) for repo in ("me/tiny", "me/other"))
    first.promise("step2", run.path / "checkpoint-2")
    shutil.rmtree(run.path / "checkpoint-2")
    second.adopt("step2")
    assert second.attempt() == 0 and not second.missing()
    assert first.ledger.pending() == first.ledger.staged_branches() == ["step2"]
    assert first.attempt() == 0 and not first.missing()
    for repo in ("me/tiny", "me/other"):
        assert hub.repos[repo].branches["step2"]["model.safetensors"] == expected
    assert first.ledger.pending() == first.ledger.staged_branches() == []


def test_a_line_that_a_kill_tore_costs_no_other(run):
    ledger = Ledger(run.path, "me/tiny")
    ledger.promise("step2")
    with open(run.path / LEDGER, "ab") as handle:
        handle.write(b'{"event": "pushed", "bran')
    ledger.promise("step4")
    ledger.promise("main")
    assert Ledger(run.path, "me/tiny").pending() == ["step2", "step4", "main"]
    ledger.pushed("step2", "a" * 40)
    assert Ledger(run.path, "me/tiny").pending() == ["step4", "main"]
    assert Ledger(run.path, "me/other").pending() == [] and not Ledger(run.path, "me/other").has_pushed("step2")


def test_what_may_pass_is_tried_again_after_longer_and_longer_waits(hub, run):
    clock = Clock()
    outbox = outbox_of(run, clock=clock, wall=clock)
    outbox.promise("step4", run.path / "checkpoint-4")
    hub.decide = lambda request: status(503)
    waits = []
    for _ in range(9):
        wait = outbox.attempt()
        waits.append(wait)
        asked = len(hub.requests)
        clock.now += wait / 2
        assert outbox.attempt() == pytest.approx(wait / 2) and len(hub.requests) == asked  # not before its time
        clock.now += wait / 2
    assert waits == [1, 2, 4, 8, 16, 32, LONGEST_WAIT_S, LONGEST_WAIT_S, LONGEST_WAIT_S]
    assert outbox.missing() == [("step4", "the Hub answered 503")] and outbox.is_waiting()
    hub.heal()
    assert outbox.attempt() == 0 and outbox.missing() == []


def test_a_branch_that_keeps_failing_holds_up_no_other(hub, run):
    clock = Clock()
    outbox = outbox_of(run, clock=clock, wall=clock)
    for step in (2, 4):
        outbox.promise(f"step{step}", run.path / f"checkpoint-{step}")
    outbox.promise("main")
    hub.decide = lambda request: status(503) if "step2" in request.path else None
    assert outbox.attempt() == 1
    asked = len(hub.requests)
    assert outbox.attempt() == 1 and len(hub.requests) == asked  # nobody else before its time either
    clock.now += 1
    assert [outbox.attempt(), outbox.attempt(), outbox.attempt()] == [0, 0, 1]
    assert list(outbox.arrived) == ["step4", "main"]
    assert outbox.missing() == [("step2", "the Hub answered 503")]
    hub.heal()
    clock.now += 1
    assert outbox.attempt() == 0 and not outbox.missing()


def test_the_hubs_own_waiting_time_is_kept(hub, run):
    clock = Clock()
    outbox = outbox_of(run, clock=clock, wall=clock)
    outbox.promise("main")
    hub.fail("POST", "/commit/", status(429, retry_after=33))
    assert outbox.attempt() == 33
    clock.now += 33
    assert outbox.attempt() == 0
    assert hub.repos["me/tiny"].branches["main"]["model.safetensors"] == weights(run, "final")


def test_what_may_not_pass_waits_for_the_end_and_holds_up_nothing(hub, run):
    outbox = outbox_of(run)
    outbox.promise("step2", run.path / "checkpoint-2")
    outbox.promise("step4", run.path / "checkpoint-4")
    hub.fail("POST", "/commit/step2", status(401))
    assert [outbox.attempt(), outbox.attempt(), outbox.attempt()] == [0, 0, None]
    assert outbox.missing() == [("step2", "the Hub answered 401, the token is not accepted")]
    assert not outbox.is_waiting() and outbox.ledger.pending() == ["step2"]
    outbox.another_try()
    assert outbox.attempt() == 0
    assert {"step2", "step4"} <= hub.repos["me/tiny"].branches.keys() and not outbox.missing()


def test_a_checkpoint_with_a_secret_stays_and_the_others_go(hub, run):
    secret = "hf_" + "Canary" * 6
    (run.path / "checkpoint-2" / "config.json").write_text(f'{{"_name_or_path": "{secret}"}}')
    outbox = outbox_of(run)
    outbox.promise("step2", run.path / "checkpoint-2")
    outbox.promise("step4", run.path / "checkpoint-4")
    while outbox.attempt() is not None:
        pass
    [(branch, reason)] = outbox.missing()
    assert branch == "step2" and "config.json: holds a Hugging Face token" in reason and secret not in reason
    assert "step2" not in hub.repos["me/tiny"].branches
    assert not any(secret.encode() in request.body for request in hub.requests)


def test_files_that_are_gone_are_said_to_be(hub, run):
    outbox = outbox_of(run)
    outbox.promise("step6")
    assert outbox.attempt() == 0
    assert outbox.missing()[0][0] == "step6" and "its files are gone" in outbox.missing()[0][1]


def test_a_disk_that_refuses_the_promise_does_not_end_the_training(hub, run, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    outbox = outbox_of(run)
    with monkeypatch.context() as patch:
        patch.setattr("os.link", full)
        patch.setattr("shutil.copyfile", full)
        outbox.promise("step2", run.path / "checkpoint-2")
    assert outbox.missing() == [("step2", "its files could not be kept: No space left on device")]
    outbox.another_try()  # the checkpoint is still there
    assert outbox.attempt() == 0 and not outbox.missing()


def test_a_disk_that_is_nearly_full_is_left_to_the_training(hub, run, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    outbox = outbox_of(run)
    outbox.promise("step2", run.path / "checkpoint-2")
    assert "the disk is nearly full" in outbox.missing()[0][1] and outbox.ledger.staged_branches() == []


def test_a_promise_whose_files_could_not_be_kept_stays_one_after_rotation(hub, run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
        outbox_of(run).promise("step2", run.path / "checkpoint-2")
    shutil.rmtree(run.path / "checkpoint-2")
    for _ in range(2):
        with pytest.raises(PushError, match=r"step2 \(.*its files are gone\); to finish") as lost:
            push_run(run, "me/tiny")
        assert lost.value.exit_code == 4
    assert hub.repos["me/tiny"].branches["main"]["model.safetensors"] == weights(run, "final")


def test_files_that_were_kept_and_not_noted_are_known_to_the_next_session(hub, run):
    """As after a kill between the two."""
    Ledger(run.path, "me/tiny")._stage("step2", run.path / "checkpoint-2")
    assert Ledger(run.path, "me/tiny").pending() == []
    queue = PushQueue(outbox_of(run))
    PushCheckpoints(queue, SimpleNamespace(output_dir=run.path), steps=False).take_up()
    assert queue.finish(60) == [] and "step2" in hub.repos["me/tiny"].branches


def test_without_hard_links_the_files_are_copied(run, monkeypatch):
    def none(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", none)
    ledger = Ledger(run.path, "me/tiny")
    ledger.promise("step2", run.path / "checkpoint-2")
    assert (ledger.staged("step2") / "model.safetensors").read_bytes() == weights(run, "checkpoint-2")


def test_a_branch_promised_anew_while_it_is_pushed_is_pushed_anew(hub, run):
    """As after a resume from an earlier step: the newer files count."""
    outbox = outbox_of(run)
    outbox.promise("step2", run.path / "checkpoint-2")

    def saved_again(request):
        if "/commit/" in request.path and hub.decide is not None:
            hub.decide = None
            outbox.promise("step2", run.path / "checkpoint-4")

    hub.decide = saved_again
    while outbox.attempt() is not None:
        pass
    assert hub.repos["me/tiny"].branches["step2"]["model.safetensors"] == weights(run, "checkpoint-4")
    assert not outbox.ledger.pending()


def test_the_thread_delivers_everything_and_ends(hub, run):
    queue = PushQueue(outbox_of(run))
    for step in (2, 4):
        queue.promise(f"step{step}", run.path / f"checkpoint-{step}")
    queue.promise("main")
    assert queue.finish(60) == []
    queue._thread.join(60)
    assert not queue._thread.is_alive()
    for branch, name in (("step2", "checkpoint-2"), ("step4", "checkpoint-4"), ("main", "final")):
        assert hub.repos["me/tiny"].branches[branch]["model.safetensors"] == weights(run, name)
        assert len(hub.repos["me/tiny"].history(branch)) == 2


def test_the_end_waits_no_longer_than_it_was_told(hub, run):
    hub.refuse()
    queue = PushQueue(outbox_of(run))
    queue.promise("main")
    [(branch, reason)] = queue.finish(0.0)
    assert branch == "main" and reason
    queue._thread.join(60)
    assert not queue._thread.is_alive()


class Ticking(Clock):
    """Four seconds pass whenever somebody looks."""

    def __call__(self) -> float:
        self.now += 4
        return self.now


def queue_of(run: RunFolder, clock: Clock) -> PushQueue:
    queue = PushQueue(outbox_of(run, clock=clock, wall=clock))
    for branch in ("step2", "step4", "main"):
        queue.adopt(branch)
    return queue


def test_a_push_that_makes_progress_is_not_cut(hub, run):
    """Each request takes 5 of the 8 seconds that are waited without one."""
    clock = Clock()

    def slow(request):
        clock.now += 5

    hub.decide = slow
    assert queue_of(run, clock).finish(8) == []
    assert clock.now > 150 and set(hub.repos["me/tiny"].heads) == {"step2", "step4", "main"}


def test_requests_that_are_granted_do_not_keep_alive_what_never_arrives(hub, run):
    hub.decide = lambda request: status(503) if "/commit/step2" in request.path else None
    missing = queue_of(run, Ticking()).finish(60)
    assert missing == [("step2", "the Hub answered 503")] and {"step4", "main"} <= hub.repos["me/tiny"].heads.keys()


def test_with_no_time_each_branch_is_tried_once(hub, run, capsys):
    hub.decide = lambda request: status(503) if "/commit/step" in request.path else None
    missing = queue_of(run, Clock()).finish(0)
    assert missing == [("step2", "the Hub answered 503"), ("step4", "the Hub answered 503")]
    assert len(hub.repos["me/tiny"].history("main")) == 2
    commits = [request.path.rpartition("/")[2] for request in hub.requests if "/commit/" in request.path]
    assert sorted(commits) == ["main", "step2", "step4"]
    assert "waiting" not in capsys.readouterr().out


def test_where_nobody_answers_the_others_are_not_tried(hub, run):
    hub.refuse()
    missing = queue_of(run, Clock()).finish(0)
    assert len(missing) == 3 and len({reason for _, reason in missing}) == 1 and "not tried" not in missing[0][1]


def test_waiting_is_said_of_the_hub_and_not_of_a_card_that_is_drawn(hub, run, capsys, monkeypatch):
    clock = Clock()

    def drawn(run, repo, **of):
        clock.now += 100
        return {"README.md": b"#"}

    monkeypatch.setattr("hf_tti.hub.outbox.card_files", drawn)
    assert queue_of(run, clock).finish(50) == [] and not capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "limit"), [(600.0, "10 min"), (10.0, "10 s")])
def test_a_hub_that_does_not_answer_is_waited_for_aloud(capsys, seconds, limit):
    quiet = iter([1.0, 5.0, 6.0])
    outbox = SimpleNamespace(
        is_waiting=iter([True, True, True, False]).__next__,
        quiet_s=quiet.__next__,
        missing=lambda: [("step2", "down"), ("main", "down")],
        remote=SimpleNamespace(repo="me/tiny"),
    )
    queue = PushQueue(outbox)
    queue._condition.wait = lambda seconds: None
    queue._wait(seconds)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"waiting for pushes to me/tiny, up to {limit} without progress: step2, main"


def test_a_leaving_run_has_its_seconds_and_no_more(hub, run):
    queue = queue_of(run, Clock())
    hub.decide = lambda request: stall()
    assert len(queue.finish(0.0, at_most=True)) == 3


def test_a_damaged_report_is_said_once_and_asks_nobody(hub, run, monkeypatch):
    def damaged(run, repo, **of):
        raise UserError("report.json: cut off")

    monkeypatch.setattr("hf_tti.hub.outbox.card_files", damaged)
    with pytest.raises(UserError, match="^report.json: cut off$") as error:
        push_run(run, "me/tiny")
    assert error.value.exit_code == 2 and not hub.requests


def test_a_damaged_model_is_not_pushed(hub, run):
    weights = run.final / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(UserError, match="model.safetensors") as error:
        push_run(run, "me/tiny")
    assert error.value.exit_code == 2 and not hub.requests
