"""Laws of comparing two models: the second minus the first, paired where seeds are, and never on other data."""

import dataclasses

import pytest
from made_reports import make_run, make_runs

from analysis.compare import compare_two, terminal
from analysis.comparison import compare_runs
from analysis.runs import find_runs
from hf_tti.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder, methods=("baseline", "selectivity", "baseline-short"))
    return folder


def two(folder, first, second, **options):
    sides = [find_runs([folder / name]) for name in (first, second)]
    return compare_two(*sides, names=(str(folder / first), str(folder / second)), **options)


def test_it_says_what_a_comparison_of_both_says(folder):
    pair = two(folder, "baseline", "selectivity")
    whole = compare_runs(find_runs([folder / "baseline", folder / "selectivity"])).methods[1]
    assert pair.second.differences == whole.differences and pair.documents == whole.documents
    assert pair.second.verdict.word == whole.verdict.word == "costly"


def test_the_other_way_round_the_signs_turn(folder):
    there, back = two(folder, "baseline", "selectivity"), two(folder, "selectivity", "baseline")
    for key, difference in there.second.differences.items():
        assert back.second.differences[key].value == pytest.approx(-difference.value)
    assert back.second.verdict.word == "better" and "less cross-entropy" in terminal(back)
    assert "is better in sparsity" in terminal(there) and "is worse in sparsity" in terminal(back)


def test_a_shorter_baseline_is_a_model_like_another(folder):
    assert two(folder, "baseline", "baseline-short").second.verdict.word == "costly"


def test_the_margin_is_the_askers_or_the_recipes(folder):
    assert two(folder, "baseline", "selectivity", margin=0.5).second.verdict.word == "free"


def test_one_run_each_has_no_interval_over_seeds_but_over_documents(folder):
    pair = two(folder, "baseline-seed42", "selectivity-seed42")
    assert all(estimate.interval is None for estimate in pair.second.differences.values())
    text = terminal(pair)
    assert pair.documents.interval and "over 20 shards of documents" in text
    assert "no interval over seeds, so another seed may well say otherwise" in text and "is better in" not in text


def test_two_seeds_of_one_method_are_told_apart_and_not_paired(folder):
    pair = two(folder, "baseline-seed42", "baseline-seed43")
    assert (pair.first.name, pair.second.name) == ("baseline-seed42", "baseline-seed43")
    assert pair.second.differences == {} and pair.documents.interval
    text = terminal(pair)
    assert "have no seed in common" in text
    plain = pair.second.loss.value - pair.first.loss.value
    assert f"{plain:+.4f}" in text


def test_the_same_method_of_two_folders_is_told_apart(folder, tmp_path):
    make_runs(tmp_path, methods=("baseline",))
    sides = [find_runs([place / "baseline"]) for place in (folder, tmp_path)]
    pair = compare_two(*sides, names=(str(folder / "baseline"), str(tmp_path / "baseline")))
    assert pair.first.name == str(folder / "baseline") and pair.second.name == str(tmp_path / "baseline")
    assert pair.second.differences["loss"].value == 0


def test_several_methods_on_one_side_are_refused(folder):
    with pytest.raises(UserError, match="runs of 3 methods"):
        compare_two(find_runs([folder]), find_runs([folder / "baseline"]), names=("all", "baseline"))


def test_a_model_is_not_compared_with_itself(folder):
    for name in ("baseline", "baseline-seed42"):
        with pytest.raises(UserError, match="the same model; name two"):
            two(folder, name, name)


def test_other_data_is_refused(folder, tmp_path):
    make_run(tmp_path / "b-seed42", "b", 42)
    (other,) = find_runs([tmp_path / "b-seed42"])
    data = dataclasses.replace(other.report.data, fingerprint="00")
    other = dataclasses.replace(other, report=dataclasses.replace(other.report, data=data))
    with pytest.raises(UserError, match="data fingerprint differs"):
        compare_two(find_runs([folder / "baseline"]), [other], names=("a", "b"))


def test_a_metric_that_one_side_lacks_is_shown_for_the_other(folder, tmp_path):
    make_run(tmp_path / "b-seed42", "b", 42, metric_facts={}, metric_settings={})
    (other,) = find_runs([tmp_path / "b-seed42"])
    metrics = {"loss": 3.7, "perplexity": 40.4}
    other = dataclasses.replace(other, report=dataclasses.replace(other.report, metrics=metrics))
    text = terminal(compare_two(find_runs([folder / "baseline-seed42"]), [other], names=("a", "b")))
    (line,) = [line for line in text.splitlines() if line.startswith("sparsity")]
    assert line.split()[-3:] == ["-", "-", "-"] and "no finite value in b-seed42" in text
