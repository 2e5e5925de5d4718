"""Laws of collections, with the real client: one of a title, each model in it once, whatever is done again."""

import pytest

from fakes.hub import fake_hub, lost_reply, status
from fakes.hub_client import point_client_at
from hf_tti.errors import UserError
from hf_tti.hub.collections import add_to_collection
from hf_tti.hub.errors import PushError

REPOS = ["me/baseline-seed1", "me/selectivity-seed1"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub() as hub:
        point_client_at(hub, monkeypatch, tmp_path / "cache")
        for repo in [*REPOS, "lab/other"]:
            hub.store.create(repo)
        yield hub


def add(title: str, repos=REPOS, *, private: bool = True, waits: list[float] | None = None) -> str:
    waits = [] if waits is None else waits
    return add_to_collection(title, repos, private=private, sleep=waits.append)


def items(hub, slug: str) -> list[str]:
    return [item["id"] for item in hub.store.collections[slug]["items"]]


def test_doing_it_again_changes_nothing(hub):
    slug = add("A sweep: λ, seeds")
    before = len(hub.requests)
    assert add("A  sweep: λ, seeds") == slug == add(slug)
    assert list(hub.store.collections) == [slug] and items(hub, slug) == REPOS
    assert {request.method for request in hub.requests[before:]} == {"GET"}
    assert hub.store.collections[slug]["private"] and not hub.unknown


def test_models_come_after_those_that_are_in_it(hub):
    slug = add("A sweep", REPOS[1:], private=False)
    assert add("A sweep", [*REPOS, *REPOS]) == slug
    assert items(hub, slug) == REPOS[::-1]
    assert not hub.store.collections[slug]["private"]  # it stays as it was made


def test_a_titles_owner_is_the_models_owner(hub):
    mine, of_lab = add("A sweep"), add("A sweep", ["lab/other"])
    assert (mine.split("/")[0], of_lab.split("/")[0]) == ("me", "lab")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/collections$"), ("POST", "/items$"), ("GET", "/collections"), ("POST", "/items$")]
)
def test_what_passes_is_tried_again(hub, monkeypatch, method, path):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's own backoff
    waits = []
    hub.fail(method, path, *([status(503)] * 2), lost_reply())
    slug = add("A sweep", waits=waits)
    assert items(hub, slug) == REPOS and len(hub.store.collections) == 1
    assert waits == [1.0, 4.0, 16.0][: len(waits)]


def test_what_does_not_pass_is_one_line_and_exit_code_4(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.fail("POST", "/collections$", status(403))
    with pytest.raises(PushError, match="collection A sweep: the Hub answered 403") as error:
        add("A sweep")
    assert error.value.exit_code == 4 and "\n" not in str(error.value)
    hub.fail("GET", "/collections", *[status(503)] * 99)
    waits = []
    with pytest.raises(PushError, match="503"):
        add("A sweep", waits=waits)
    assert waits == [1.0, 4.0, 16.0]


def test_mistakes_are_one_line(hub):
    with pytest.raises(UserError, match="there is none, or not for you"):
        add("me/a-sweep-0123456789abcdef01234567")
    with pytest.raises(UserError, match="no title"):
        add("  ")
    with pytest.raises(UserError, match="no model"):
        add("A sweep", [])
    slug = add("A sweep")
    hub.store.collections["me/twin"] = {**hub.store.collections[slug], "slug": "me/twin-0123456789abcdef01234567"}
    with pytest.raises(UserError, match=f"me has 2 of this title; name one: {slug}, me/twin"):
        add("A sweep")
