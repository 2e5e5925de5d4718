"""Laws of finding runs: every way of naming them finds the same, once, and what is not there is one line."""

import dataclasses
import json
import shutil

import pytest
from made_reports import TEXTS, made_report, make_run, make_runs

from analysis.runs import Run, check_distinct, find_runs, read_run
from hf_tti.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, methods=("baseline", "baseline-relu", "selectivity"), seeds=(9, 10))
    return folder


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("ending", ["", "report", "report/report.json"])
def test_a_run_is_found_by_its_folder_its_reports_folder_and_its_file(folder, ending):
    (run,) = find_runs([folder / "baseline-seed9" / ending])
    assert (run.name, run.method, run.seed) == ("baseline-seed9", "baseline", 9)
    assert run.folder == folder / "baseline-seed9"


def test_a_folder_stands_for_its_runs_in_the_order_of_names_and_seeds(folder):
    assert [run.name for run in find_runs([folder])] == [
        "baseline-relu-seed9",
        "baseline-relu-seed10",
        "baseline-seed9",
        "baseline-seed10",
        "selectivity-seed9",
        "selectivity-seed10",
    ]


def test_a_name_without_seed_stands_for_its_seeds_alone(folder):
    assert [run.name for run in find_runs([folder / "baseline"])] == ["baseline-seed9", "baseline-seed10"]


@pytest.mark.parametrize("part", ["checkpoint-150", "final"])
def test_a_folder_of_a_run_is_a_method_with_the_runs_seed(tmp_path, part):
    for seed in (9, 10):
        report = dataclasses.replace(made_report("x", "baseline", seed), name=f"baseline-seed{seed}-{part}")
        report.save(tmp_path / report.name)
    assert [run.label for run in find_runs([tmp_path])] == [f"baseline-{part}-seed9", f"baseline-{part}-seed10"]
    assert {run.method for run in find_runs([tmp_path])} == {f"baseline-{part}"}


def test_a_run_named_twice_is_there_once(folder):
    paths = [folder / "selectivity", folder / "selectivity-seed9", folder / "selectivity-seed9" / "report"]
    assert [run.seed for run in find_runs(paths)] == [9, 10]


def test_a_name_is_no_pattern(folder):
    with pytest.raises(UserError, match="holds no report"):
        find_runs([folder / "b*"])


def test_a_report_that_stands_alone_has_no_curves_and_no_stories(tmp_path):
    report = made_report("gpt2", "baseline", 1)
    file = dataclasses.replace(report, seed=None, step=None).save(tmp_path / "reports" / "gpt2") / "report.json"
    run = read_run(file)
    assert (run.method, run.seed, run.folder, run.curves, run.stories) == ("gpt2", None, None, [], [])
    assert run.label == "gpt2"


def test_two_reports_of_one_run_are_both_named(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder / "baseline-seed9", copy)
    with pytest.raises(UserError) as error:
        find_runs([folder / "baseline-seed9", copy])
    text = one_line(error)
    assert str(copy) in text and str(folder / "baseline-seed9") in text


def test_a_method_and_seed_are_distinct_whatever_the_names():
    runs = [Run(name=name, method="a", seed=1, report=made_report(name, "a", 1)) for name in ("a", "a-seed1")]
    with pytest.raises(UserError, match="a-seed1: there are two reports of it, a and a-seed1"):
        check_distinct(runs)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(UserError) as error:
        find_runs([tmp_path / "nothing"])
    assert one_line(error).startswith(f"{tmp_path / 'nothing'}: holds no report")


def test_a_folder_without_runs_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no run and no report in this folder"):
        find_runs([tmp_path / "empty"])


@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_run_without_report_is_told_how_to_get_one(tmp_path, whole_folder):
    make_runs(tmp_path, methods=("baseline",), seeds=(1, 2))
    shutil.rmtree(tmp_path / "baseline-seed2" / "report")
    with pytest.raises(UserError) as error:
        find_runs([tmp_path if whole_folder else tmp_path / "baseline-seed2"])
    assert f"hf-tti evaluate {tmp_path / 'baseline-seed2'}" in one_line(error)


def test_runs_without_report_are_counted_behind_a_prefix_too(tmp_path):
    make_runs(tmp_path, methods=("baseline",), seeds=(1, 2, 3))
    shutil.rmtree(tmp_path / "baseline-seed2" / "report")
    with pytest.raises(UserError, match=r"1 of 3 runs have no report \(baseline-seed2\)"):
        find_runs([tmp_path / "baseline"])


def test_a_truncated_report_is_named(tmp_path):
    (path,) = make_runs(tmp_path, methods=("baseline",), seeds=(1,))
    file = path / "report" / "report.json"
    file.write_text(file.read_text()[:200])
    with pytest.raises(UserError, match="truncated"):
        find_runs([path])


def test_curves_are_the_lines_of_the_log_without_a_torn_one(tmp_path):
    path = make_run(tmp_path / "baseline-seed1", "baseline", 1)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    with open(path / "metrics.jsonl", "a") as handle:
        handle.write('7\n{"step": 325, "lo')
    (run,) = find_runs([path])
    assert run.curves == lines and lines[-1]["step"] == 300


def test_stories_come_back_whole_with_the_last_step(tmp_path):
    path = make_run(tmp_path / "baseline-seed1", "baseline", 1)
    texts = ["Once.\n\n--- 7\nnot a header", "", " Twice <b>"]
    (path / "stories.txt").write_text("\n\n".join(f"--- {i}\n{text}" for i, text in enumerate(texts, 1)) + "\n")
    assert find_runs([path])[0].stories == [(300, text) for text in texts]


def test_token_texts_come_with_the_run(folder):
    assert find_runs([folder / "baseline-seed9"])[0].report.token_texts() == dict(enumerate(TEXTS))
