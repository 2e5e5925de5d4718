"""Laws of report.md: verdicts come first, tables are whole, and text stays text."""

import re

import pytest
from made_reports import make_run, make_runs

from analysis.comparison import compare_runs
from analysis.markdown import markdown
from analysis.runs import find_runs


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, seeds=(42, 43))
    return compare_runs(find_runs([folder]))


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def test_the_verdict_in_words_is_the_first_thing_said(comparison):
    lines = [line for line in markdown(comparison).splitlines() if line]
    assert lines[1] == "## Verdicts" and lines[2].startswith("- orthogonality: ")


def test_every_table_is_rectangular(comparison):
    tables = re.findall(r"(?:^\|.*\n)+", markdown(comparison), flags=re.MULTILINE)
    assert len(tables) > 5
    for table in tables:
        assert len({cells(line) for line in table.splitlines()}) == 1


def test_it_holds_null_rows_notes_hypervolumes_and_where_numbers_come_from(comparison):
    text = markdown(comparison)
    report = comparison.runs[0].report
    for part in ("random init (null)", "rotated (null)", "shuffled labels (null)", "## Notes", "42, 43"):
        assert part in text
    for part in (report.data.fingerprint, report.data.tokenizer_sha256, report.git_commit, report.versions["torch"]):
        assert part in text
    assert text.count("Hypervolume") == len(comparison.frontiers)


def test_null_rows_that_nobody_measured_are_named(tmp_path):
    make_run(tmp_path / "a-seed1", "a", 1, nulls={"rotated": {}})
    text = markdown(compare_runs(find_runs([tmp_path])))
    assert "Null rows that no report has: random init (null), rotated (null), shuffled labels (null)." in text


def test_an_odd_method_name_stays_in_its_cell(tmp_path):
    make_run(tmp_path / "odd", "a|<b>", 1, name="a|<b>-seed1", metric_facts={"sparsity": {"summary": "x | <i>y"}})
    text = markdown(compare_runs(find_runs([tmp_path])))
    assert "<b>" not in text.replace("\\<b\\>", "") and "<i>" not in text.replace("\\<i\\>", "")
