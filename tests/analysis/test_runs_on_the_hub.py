"""Laws of runs on the Hub: compared by name as the local ones are, a path wins, and mistakes are one line."""

import pytest
from made_reports import make_run, make_runs

from analysis.compare import compare_two
from analysis.comparison import compare_runs
from analysis.runs import find_runs
from fakes.hub import fake_hub
from fakes.hub_client import go_offline, point_client_at
from hf_tti.cli import main
from hf_tti.hub.side_files import side_files
from hf_tti.run_folder import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    make_runs(folder, methods=("baseline", "selectivity"), seeds=(42,))
    return folder


@pytest.fixture(scope="module")
def published(folder):
    """Repository -> what a push leaves there beside the model."""
    found = {}
    for path in folder.iterdir():
        files = side_files(RunFolder(path), f"me/{path.name}")
        found[f"me/{path.name}"] = {name: c if isinstance(c, bytes) else c.read_bytes() for name, c in files.items()}
    return found


@pytest.fixture
def hub(monkeypatch, tmp_path, published):
    with fake_hub() as hub:
        point_client_at(hub, monkeypatch, tmp_path / "cache")
        monkeypatch.chdir(tmp_path)
        for repo, files in published.items():
            hub.store.create(repo).add("main", "push", files)
        yield hub


NAMES = ("me/baseline-seed42", "me/selectivity-seed42")


def one_line(capsys, *argv: str) -> str:
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_a_comparison_is_that_of_the_local_runs(hub, folder):
    ours = compare_two(*(find_runs([folder / name.split("/")[1]]) for name in NAMES), names=NAMES)
    theirs = compare_two(*(find_runs([name], arrays=False) for name in NAMES), names=NAMES)
    for side in ("first", "second"):
        assert getattr(theirs, side).values == getattr(ours, side).values
        assert getattr(theirs, side).differences == getattr(ours, side).differences
    assert (theirs.documents, theirs.notes) == (ours.documents, ours.notes)
    assert not hub.unknown


def test_the_command_compares_two_repositories(hub, capsys):
    assert main(["compare", *NAMES]) == 0
    out = capsys.readouterr().out
    assert "selectivity has" in out and "over 20 shards of documents" in out
    assert not [request for request in hub.requests if "arrays" in request.path and request.method == "GET"]


def test_curves_stories_and_arrays_come_along(hub, folder):
    (ours,), (theirs,) = find_runs([folder / "baseline-seed42"]), find_runs([NAMES[0]])
    assert (theirs.name, theirs.label) == (ours.name, ours.label)
    assert theirs.curves == ours.curves and theirs.stories == ours.stories
    assert set(theirs.report.arrays) == set(ours.report.arrays)
    assert compare_runs([theirs]).values == compare_runs([ours]).values


def test_a_local_and_a_published_run_compare(hub, folder, capsys):
    assert main(["compare", str(folder / "baseline-seed42"), NAMES[1]]) == 0
    assert "selectivity" in capsys.readouterr().out


def test_two_owners_runs_of_one_name_are_told_apart(hub, published, capsys):
    hub.store.create("them/baseline-seed42").add("main", "push", published[NAMES[0]])
    assert main(["compare", NAMES[0], "them/baseline-seed42"]) == 0
    assert "them/baseline-seed42" in capsys.readouterr().out


def test_a_path_that_is_there_wins(hub, folder, tmp_path):
    for name in ("baseline-seed42", "baseline-seed43"):
        make_run(tmp_path / "me" / name, "baseline", int(name[-2:]))
    before = len(hub.requests)
    assert [run.seed for run in find_runs(["me/baseline-seed42", "me/baseline"])] == [42, 43]
    assert len(hub.requests) == before


def test_without_a_network_what_was_fetched_is_compared(hub, monkeypatch, capsys):
    assert main(["compare", *NAMES]) == 0
    online = capsys.readouterr().out
    go_offline(monkeypatch)
    assert main(["compare", *NAMES]) == 0
    assert capsys.readouterr().out == online


def test_mistakes_are_one_line(hub, published, capsys):
    hub.store.create("me/bare").add("main", "push", {"config.json": b"{}"})
    hub.repos["me/bare"].add("step2", "push", {"config.json": b"{}"})
    assert one_line(capsys, "compare", NAMES[0], "me/bare").endswith("hf-tti evaluate me/bare makes one here")
    assert "hf-tti evaluate me/bare --revision step2 makes" in one_line(capsys, "compare", NAMES[0], "me/bare@step2")
    line = one_line(capsys, "compare", NAMES[0], "me/selectivity-seed42@step1")
    assert line == "me/selectivity-seed42: has no revision step1; it has main"
    line = one_line(capsys, "compare", NAMES[0], "me/nothing")
    assert line.startswith("me/nothing: no run and no report here, and not on the Hub either: me/nothing: no such repo")
