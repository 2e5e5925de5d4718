"""Laws of `hf-tti report`, `compare` and `rate`: what they write and print, and what goes wrong in one line."""

import argparse
import json
import subprocess
import sys

import pytest
from made_reports import make_runs

from analysis import page
from analysis.commands import COMPARE, RATE, REPORT
from hf_tti.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, methods=("baseline", "selectivity"), seeds=(42, 43), layers=1, units=6)
    return folder


def call(command, *words) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def quick(monkeypatch):
    """The page without its figures."""

    def write(comparison, out, *, progress):
        (out / "index.html").write_text(", ".join(one.name for one in comparison.methods))
        return out / "index.html"

    monkeypatch.setattr(page, "write_report", write)


def test_report_writes_page_markdown_and_tables_and_prints_the_verdicts(folder, tmp_path, capsys):
    assert call(REPORT, folder, "--out", tmp_path / "out") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"index.html", "report.md", "runs.csv", "methods.csv", "layers.csv"}
    printed = capsys.readouterr().out
    assert f"report in {tmp_path / 'out' / 'index.html'}" in printed
    assert "selectivity: undecided; cross-entropy +0.06" in printed or "selectivity: costly" in printed


def test_report_takes_baseline_and_margin(folder, tmp_path, capsys, quick):
    call(REPORT, folder, "--out", tmp_path / "out", "--baseline", "selectivity", "--margin", "0.5")
    assert (tmp_path / "out" / "index.html").read_text() == "selectivity, baseline"
    assert "inside ±0.5" in capsys.readouterr().out


@pytest.mark.parametrize("margin", ["0", "-1", "nan", "inf", "much"])
def test_a_margin_is_a_number_above_zero(folder, tmp_path, margin, capsys):
    with pytest.raises(SystemExit):
        call(REPORT, folder, "--out", tmp_path / "out", "--margin", margin)
    assert "is not a number of nats above 0" in capsys.readouterr().err


def test_a_report_that_fails_leaves_the_old_one(folder, tmp_path, quick, monkeypatch):
    call(REPORT, folder, "--out", tmp_path / "out")
    before = (tmp_path / "out" / "report.md").read_text()

    def fail(comparison, out, *, progress):
        (out / "index.html").write_text("half")
        raise UserError("no")

    monkeypatch.setattr(page, "write_report", fail)
    with pytest.raises(UserError):
        call(REPORT, folder / "baseline", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "report.md").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_report_refuses_to_write_over_runs(folder, quick):
    with pytest.raises(UserError, match="which no report wrote"):
        call(REPORT, folder, "--out", folder)


def test_compare_prints_both_sides(folder, capsys):
    assert call(COMPARE, folder / "baseline", folder / "selectivity") == 0
    head = capsys.readouterr().out.splitlines()[0].split()
    assert head[:3] == ["metric", "baseline", "selectivity"]


def test_rate_writes_a_page_and_its_key_and_counts_what_raters_say(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(RATE, folder, "--out", out, "--neurons", 2) == 0
    assert "not for raters" in capsys.readouterr().out and (out / "rate.html").is_file()
    key = json.loads((out / "key.json").read_text())
    for name in ("ann", "bob"):
        ratings = dict.fromkeys(key["items"], "monosemantic")
        (tmp_path / f"{name}.json").write_text(json.dumps(exported(key, name, ratings)))
    files = [tmp_path / "ann.json", tmp_path / "bob.json"]
    assert call(RATE, "--agreement", *files, "--key", out / "key.json") == 0
    printed = capsys.readouterr().out
    assert "raw agreement: 1.000" in printed and "selectivity" in printed


def exported(key: dict, rater: str, ratings: dict) -> dict:
    head = {"schema": "hf_tti.ratings", "version": key["version"], "page_sha256": key["page_sha256"]}
    return {**head, "rater": rater, "ratings": [{"id": item, "rating": word} for item, word in ratings.items()]}


def test_a_rating_page_is_never_replaced(folder, tmp_path):
    call(RATE, folder, "--out", tmp_path / "out", "--neurons", 2)
    key = (tmp_path / "out" / "key.json").read_bytes()
    with pytest.raises(UserError, match=r"holds key\.json, which is kept"):
        call(RATE, folder, "--out", tmp_path / "out", "--neurons", 2, "--seed", 1)
    assert (tmp_path / "out" / "key.json").read_bytes() == key


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name RUNS and --out for a rating page, or --agreement"),
        (("runs", "--agreement", "a.json"), "name RUNS and --out for a rating page, or --agreement"),
        (("runs",), "--out is missing"),
        (("runs", "--out", "out", "--key", "key.json"), "--key goes with --agreement"),
        (("--agreement", "nothing.json"), "nothing.json"),
    ],
)
def test_rate_says_what_it_needs(words, message):
    with pytest.raises(UserError, match=message):
        call(RATE, *words)


@pytest.mark.parametrize(("module", "words"), [("pandas", "compare a b"), ("scipy", "report a --out b")])
def test_a_missing_library_is_one_line_that_names_the_extra(module, words):
    code = f"""
import sys
sys.modules[{module!r}] = None
import argparse
from analysis.commands import COMPARE, REPORT
from hf_tti.errors import UserError
parser = argparse.ArgumentParser()
command = {{"compare": COMPARE, "report": REPORT}}[{words.split()[0]!r}]
command.add_arguments(parser)
try:
    command.run(parser.parse_args({words.split()[1:]!r}))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    missing = f"{module}, which is not installed"
    assert done.stdout == f"hf-tti {words.split()[0]} needs {missing}: pip install 'hf-tti[analysis]'\n"
