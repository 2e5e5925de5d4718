"""Laws of tables in text: every method, shorter baseline and null row is there, with its numbers and what they mean."""

import pytest
from made_reports import make_runs

from analysis import tables
from analysis.comparison import compare_runs
from analysis.rows import (
    between,
    frontier_rows,
    hypervolume_sentence,
    is_apart,
    metric_rows,
    null_name,
    terminal,
    verdict_rows,
)
from analysis.runs import find_runs

METHODS = ("baseline", "orthogonality", "selectivity", "baseline-short")
NULLS = ["random init (null)", "rotated (null)", "shuffled labels (null)"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, methods=METHODS)
    return folder


@pytest.fixture(scope="module")
def comparison(folder):
    return compare_runs(find_runs([folder]))


def test_the_verdict_table_has_methods_shorter_baselines_and_nulls_in_this_order(comparison):
    rows = verdict_rows(comparison)
    assert [row["method"] for row in rows] == [*METHODS, "random init (null)"]
    assert [row["verdict"] for row in rows] == ["baseline", "free", "costly", "shorter", "-"]
    base, *_, random = rows
    assert base["cross-entropy"].startswith("3.6155 [3.5994, ") and base["difference over seeds"] == "-"
    assert rows[2]["difference over seeds"].startswith("+0.0604 [+0.0")
    assert (random["seeds"], random["perplexity"]) == ("-", "2059")


def test_metric_tables_hold_every_metric_and_null_row(comparison):
    found = [metric_rows(table) for table in tables.metric_tables(comparison)]
    titles = [name for rows in found for name in rows[0] if name != "method"]
    assert titles == [info.title for info in comparison.metrics]
    for rows in found:
        assert [row["method"] for row in rows] == [*METHODS, *NULLS]
    cell = found[0][2]["sparsity ↑"]
    assert cell.count("[") == 2 and "(+0.0" in cell
    assert found[0][-1]["sparsity ↑"] == "-"


def test_a_frontier_row_says_what_the_baseline_has_at_that_cross_entropy(comparison):
    front = comparison.frontiers[0]
    rows = {row[""]: row for row in frontier_rows(front)}
    assert rows["selectivity"]["baseline at equal cross-entropy"] == tables.number(front.equal_ce["selectivity"].value)
    assert rows["selectivity"]["beyond it"].startswith("+0.0")
    assert rows["baseline"]["beyond it"] == "-" and rows["baseline-short"]["on the front"] == "no"
    assert rows[null_name("random_init")]["on the front"] == "-"
    assert rows["baseline at step 150 (not decayed)"]["on the front"] == "-"


def test_a_guess_beyond_the_baselines_points_says_so(folder):
    runs = find_runs([folder / "baseline", folder / "baseline-short", folder / "selectivity"])
    front = compare_runs(runs, baseline="baseline-short").frontiers[0]
    (row,) = [row for row in frontier_rows(front) if row[""] == "selectivity"]
    assert row["baseline at equal cross-entropy"].endswith("(extrapolated)") or not front.equal_ce


def test_a_hypervolume_is_never_told_without_its_reference(comparison):
    for front in comparison.frontiers:
        sentence = hypervolume_sentence(front)
        assert sentence.startswith("Hypervolume ") and "3 seeds" in sentence
        assert all(tables.number(value) in sentence for value in front.reference)


def test_intervals_have_the_decimals_of_their_value_and_keep_signs():
    class Given:
        interval = (-0.00001, 0.00395, 0.95)

    assert between(Given.interval, like=0.1, sign=True) == "[-0.0000, +0.0040]"
    assert between(None, like=1.0) == ""


def test_a_star_needs_an_interval_that_excludes_zero(comparison):
    difference = comparison.methods[2].differences
    assert is_apart(difference["loss"]) and not is_apart(difference["linear_probe/mean"]) and not is_apart(None)


def test_the_terminal_shows_verdicts_metrics_nulls_flags_and_notes(comparison):
    text = terminal(comparison)
    assert all(summary.verdict.explanation in text for summary in comparison.methods if summary.verdict)
    assert all(info.title in text for info in comparison.metrics)
    assert "correlation ↓ (!)" in text and all(name in text for name in NULLS)
    assert all(f"note: {note}" in text for note in comparison.notes)


def test_one_run_alone_is_shown_too(folder):
    text = terminal(compare_runs(find_runs([folder / "selectivity-seed42"])))
    assert "no baseline" in text and "selectivity" in text and "*" not in text
