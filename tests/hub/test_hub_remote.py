"""Laws of a push to one branch, with the real client: done twice it changes nothing, a lost reply costs no commit."""

import json
import threading

import pytest
from huggingface_hub import HfApi

from fakes.hub import hang_up, lost_reply, stall, status
from fakes.hub_store import GITATTRIBUTES
from hf_tti.hub.errors import PushError, may_pass, reason_of, retry_after
from hf_tti.hub.remote import Remote

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"\x02\0\0\0\0\0\0\0{}" + b"weights" * 1000,
    "README.md": b"# hello\n",
}
ALL = {".gitattributes": GITATTRIBUTES, **FILES}


@pytest.fixture
def remote(hub) -> Remote:
    return Remote("me/tiny", private=True)


def test_a_branch_holds_the_files_and_begins_at_the_first_commit(hub, remote):
    assert remote.push("main", FILES, "final") == hub.repos["me/tiny"].heads["main"]
    other = {**FILES, "config.json": b"{ }"}
    remote.push("step4", other, "step4")
    repo = hub.repos["me/tiny"]
    assert repo.private
    assert repo.branches == {"main": ALL, "step4": {**ALL, "config.json": b"{ }"}}
    assert [commit.title for commit in repo.history("step4")] == ["step4", "initial commit"]
    assert not hub.unknown


def test_the_same_push_again_makes_no_commit(hub, remote, tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(FILES["model.safetensors"])
    assert remote.push("step4", FILES, "step4") is not None
    assert Remote("me/tiny", private=True).push("step4", {**FILES, "model.safetensors": weights}, "again") is None
    assert len(hub.repos["me/tiny"].history("step4")) == 2
    assert remote.missing("step4", FILES) == []
    assert remote.missing("step4", {**FILES, "config.json": b"[]"}) == ["config.json"]


LOST = {
    "the repository's creation": ("POST", "/repos/create"),
    "the branch's creation": ("POST", "/branch/"),
    "the upload of the weights": ("PUT", "/_lfs/"),
    "the commit": ("POST", "/commit/"),
    "a look at the branch": ("GET", "/tree/"),
}


@pytest.mark.parametrize(("method", "path"), LOST.values(), ids=LOST)
def test_a_lost_reply_makes_nothing_twice(hub, remote, monkeypatch, method, path):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's own backoff
    hub.fail(method, path, lost_reply())
    for _ in range(2):
        try:
            remote.push("step4", FILES, "step4")
        except Exception as error:
            assert may_pass(error)
    assert hub.repos["me/tiny"].branches["step4"] == ALL
    assert len(hub.repos["me/tiny"].history("step4")) == 2


def test_a_commit_that_came_between_is_not_overwritten(hub, remote):
    """The Hub answers 412, which passes: the next try looks again."""
    remote.push("main", FILES, "final")
    seen = []

    def somebody_commits(request):
        if "/preupload/" in request.path and not seen:
            seen.append(hub.repos["me/tiny"].add("main", "theirs", {**ALL, "notes.md": b"theirs"}))

    hub.decide = somebody_commits
    with pytest.raises(Exception) as refused:
        remote.push("main", {**FILES, "config.json": b"[]"}, "final")
    assert may_pass(refused.value) and "412" in reason_of(refused.value)
    remote.push("main", {**FILES, "config.json": b"[]"}, "final")
    assert hub.repos["me/tiny"].branches["main"] == {**ALL, "config.json": b"[]", "notes.md": b"theirs"}


def test_weights_in_more_pieces_than_before_leave_none_of_the_old(hub, remote):
    pieces = {"model-00001-of-00002.safetensors": b"a", "model-00002-of-00002.safetensors": b"b"}
    remote.push("main", {**pieces, "model.safetensors.index.json": b"{}"}, "two")
    remote.push("main", FILES, "one")
    assert hub.repos["me/tiny"].branches["main"] == ALL


def test_nothing_is_sent_of_a_push_that_holds_a_secret(hub, remote):
    with pytest.raises(PushError):
        remote.push("main", {**FILES, "config.json": b"hf_" + b"Canary" * 6}, "final")
    assert hub.requests == []


def test_somebody_elses_repository_is_refused_for_good(hub):
    hub.store.create("them/theirs")
    with pytest.raises(Exception) as refused:
        Remote("them/theirs", private=True).push("main", FILES, "final")
    assert not may_pass(refused.value)
    assert reason_of(refused.value) == "the Hub answered 403, the token may not write there"


@pytest.mark.parametrize(
    ("code", "passes"), [(401, False), (403, False), (400, False), (409, True), (429, True), (503, True)]
)
def test_what_may_pass_is_told_from_what_may_not(hub, remote, code, passes):
    hub.fail("POST", "/repos/create", status(code, retry_after=7))
    with pytest.raises(Exception) as refused:
        HfApi().create_repo("me/other")
    assert may_pass(refused.value) is passes
    assert retry_after(refused.value, now=0.0) == 7
    assert f"the Hub answered {code}" in reason_of(refused.value)


def test_no_answer_may_pass(hub, remote):
    hub.fail("POST", "/repos/create", hang_up())
    with pytest.raises(Exception) as cut:
        HfApi().create_repo("me/other")
    assert may_pass(cut.value) and retry_after(cut.value, now=0.0) == 0
    hub.refuse()
    with pytest.raises(Exception) as refused:
        HfApi().create_repo("me/other")
    assert may_pass(refused.value) and "refused" in reason_of(refused.value)


STALLED = {"the commits": "/commits/", "the branch": "/revision/", "the tree": "/tree/"}


@pytest.mark.parametrize("path", STALLED.values(), ids=STALLED)
def test_a_connection_that_stalls_is_given_up(hub, remote, monkeypatch, path):
    """Also where the client itself asks to wait for ever."""
    monkeypatch.setattr("hf_tti.hub.remote.TIMEOUT_S", 0.2)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.decide = lambda request: stall() if request.method == "GET" and path in request.path else None
    found = []

    def push():
        try:
            remote.push("step4", FILES, "step4")
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=push, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert may_pass(found[0]) and "Timeout" in reason_of(found[0])
    hub.heal()
    assert remote.push("step4", FILES, "step4") is not None
    assert hub.repos["me/tiny"].branches["step4"] == ALL


def test_what_is_wrong_with_the_files_does_not_pass_and_what_is_wrong_with_the_network_does():
    assert not may_pass(ValueError("Invalid metadata in README.md")) and not may_pass(PushError("a secret"))
    assert may_pass(json.JSONDecodeError("a proxy's page", "<html>", 0))
    assert may_pass(RuntimeError("CAS service error")) and may_pass(OSError("gone"))
