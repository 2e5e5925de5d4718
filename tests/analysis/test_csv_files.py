"""Laws of the CSV files: every number comes back, null rows are named, and text is never a formula."""

import pandas as pd
import pytest
from made_reports import make_run, make_runs

from analysis.comparison import compare_runs
from analysis.csv_files import write_csv_files
from analysis.runs import find_runs

NULLS = ("random_init", "rotated", "shuffled_labels")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, methods=("baseline", "selectivity", "baseline-short"), seeds=(42, 43))
    return compare_runs(find_runs([folder]))


@pytest.fixture(scope="module")
def files(comparison, tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    write_csv_files(comparison, folder)
    return {path.stem: pd.read_csv(path) for path in folder.iterdir()}


def test_runs_csv_holds_every_number_of_every_run_to_the_last_digit(comparison, files):
    table = files["runs"].set_index(["run", "row"])
    for run in comparison.runs:
        row = table.loc[(run.name, "trained")]
        assert {key: row[key] for key in run.report.metrics} == run.report.metrics
        assert (row["method"], row["seed"], row["step"]) == (run.method, run.seed, run.report.step)


def test_null_rows_are_named_in_all_three(comparison, files):
    assert set(files["runs"]["row"]) == set(files["layers"]["row"]) == {"trained", *NULLS}
    assert {f"{row} (null)" for row in NULLS} < set(files["methods"]["method"])
    null = comparison.runs[0].report.nulls["rotated"]
    row = files["runs"].set_index(["run", "row"]).loc[(comparison.runs[0].name, "rotated")]
    assert {key: row[key] for key in null} == null


def test_methods_csv_is_the_comparison(comparison, files):
    table = files["methods"].set_index(["method", "metric"])
    summary = comparison.methods[1]
    for key in ("loss", "sparsity/mean"):
        row, difference = table.loc[(summary.name, key)], summary.differences[key]
        assert row["mean"] == summary.values[key].value and row["seeds"] == 2
        ends = (row["difference"], row["difference_low"], row["difference_high"])
        assert ends == (difference.value, difference.interval.low, difference.interval.high)
    assert table.loc[("selectivity", "loss"), "verdict"] == summary.verdict.word
    assert table.loc[("selectivity", "loss"), "documents_low"] == summary.documents.interval.low
    assert "baseline-short" in set(files["methods"]["method"])


def test_layers_csv_has_a_row_a_layer(comparison, files):
    table = files["layers"].query("row == 'trained' and metric == 'sparsity'")
    assert len(table) == len(comparison.runs) * 2 and set(table["layer"]) == {0, 1}
    values = table.set_index(["method", "seed", "layer"])["value"]
    assert values["selectivity", 43, 1] == comparison.values["selectivity-seed43"]["sparsity/layer_1"]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_text_is_a_formula(tmp_path, name):
    make_run(tmp_path / "runs" / "odd", "odd", 1, name=f"{name}-seed1")
    (tmp_path / "csv").mkdir()
    for path in write_csv_files(compare_runs(find_runs([tmp_path / "runs"])), tmp_path / "csv"):
        for cell in pd.read_csv(path, dtype=str, header=None).to_numpy().ravel():
            assert not isinstance(cell, str) or cell[0] not in "=+@\t\r"
            assert not isinstance(cell, str) or cell[0] != "-" or float(cell) < 0


def test_negative_numbers_stay_numbers(tmp_path):
    make_run(
        tmp_path / "runs" / "a-seed1", "a", 1, metrics={"loss": 1.0, "sparsity/layer_0": -0.5, "sparsity/mean": -0.5}
    )
    (tmp_path / "csv").mkdir()
    paths = write_csv_files(compare_runs(find_runs([tmp_path / "runs"])), tmp_path / "csv")
    assert pd.read_csv(paths[0]).loc[0, "sparsity/mean"] == -0.5
