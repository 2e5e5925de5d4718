"""Laws of a card's numbers: intervals are those of the statistics, some neighbours count, pictures are PNG."""

import dataclasses
import importlib.metadata
import io
import json
import shutil
import sys

import numpy as np
import pytest
import yaml
from made_reports import SHARDS, make_run, make_runs
from matplotlib.image import imread

import analysis.figures
from analysis.card import card_parts
from analysis.comparison import compare_runs
from analysis.intervals import document_difference
from analysis.runs import find_runs
from analysis.tables import nats, number
from hf_tti import card_parts as of_hf_tti
from hf_tti.errors import UserError
from hf_tti.hub.card import card_files
from hf_tti.report import LossShards, Report
from hf_tti.run_folder import RunFolder
from hf_tti.table import format_number

SEEDS = (42, 43, 44)
NBSP = "\xa0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    make_runs(folder, methods=("baseline", "baseline_short", "selectivity"), seeds=SEEDS)
    return folder


@pytest.fixture(scope="module")
def parts(folder):
    return card_parts(folder / "selectivity-seed43")


def by_name(rows, column="metric"):
    return {row[column]: row for row in rows}


def numbers(text: str) -> list[float]:
    return [
        float(part)
        for part in text.replace(NBSP, " ").strip("*").replace("±", " ").strip("[] ").replace(",", " ").split()
    ]


def test_cross_entropy_has_the_jackknife_interval_over_its_document_shards(folder, parts):
    report = Report.load(folder / "selectivity-seed43")
    sums, counts = report.loss_shards.loss_sums, report.loss_shards.num_tokens
    expected = document_difference(sums, np.zeros(SHARDS), counts)
    row = by_name(parts.loss, "")["cross-entropy, nats a token"]
    assert float(row["this model"]) == pytest.approx(report.metrics["loss"], abs=5e-5)
    assert expected.value == pytest.approx(report.metrics["loss"], abs=1e-9)
    assert numbers(row[f"95 % over {SHARDS} document shards"]) == pytest.approx(expected.interval[:2], abs=5e-5)


def test_differences_and_seeds_are_those_of_the_comparison(folder, parts):
    comparison = compare_runs(find_runs([folder]))
    method = next(one for one in comparison.methods if one.name == "selectivity")
    rows = by_name(parts.loss, "")
    seeds = f"{len(SEEDS)} seeds ± 95 %"
    for row, estimate in (
        (rows["cross-entropy, nats a token"], method.loss),
        (rows["minus baseline, same seed"], method.verdict.estimate),
        (by_name(parts.metrics)["sparsity ↑"], method.values["sparsity/mean"]),
    ):
        half = (estimate.interval.high - estimate.interval.low) / 2
        assert numbers(row[seeds]) == pytest.approx([estimate.value, half], rel=2e-3, abs=5e-5)
    difference = method.differences["selectivity/mean"]
    shown = by_name(parts.metrics)["selectivity ↑"]["minus baseline"]
    assert numbers(shown)[0] == pytest.approx(difference.value, rel=1e-2)
    assert shown.endswith("*") == (not difference.interval.low <= 0 <= difference.interval.high)
    assert method.verdict.explanation in parts.notes


def test_every_metric_is_there_with_its_null_rows(folder, parts):
    report = Report.load(folder / "selectivity-seed43")
    assert len(parts.metrics) == len(report.metric_facts) == len(parts.definitions)
    row = by_name(parts.metrics)["selectivity ↑"]
    nulls = [report.nulls[name]["selectivity/mean"] for name in ("random_init", "rotated", "shuffled_labels")]
    assert [float(row[name]) for name in ("random weights", "rotated", "shuffled labels")] == pytest.approx(
        nulls, rel=1e-3
    )
    assert by_name(parts.metrics)["sparsity ↑"]["shuffled labels"] == "-"
    assert "correlation ↓ (!)" in by_name(parts.metrics)  # a model with random weights has less


def test_pictures_are_pngs_in_light_colours(parts):
    assert [picture.name for picture in parts.curves] == ["training-curve"]
    assert len(parts.frontiers) == 6
    for picture in (*parts.curves, *parts.frontiers):
        pixels = imread(io.BytesIO(picture.png), format="png")
        assert pixels.shape[1] >= 2 * picture.width - 20  # sharp on a dense screen
        assert pixels[0, 0, :3].min() > 0.99 and pixels[..., :3].mean() > 0.85


def test_the_same_neighbours_give_the_same_bytes(folder, parts, monkeypatch):
    first = analysis.figures.frontier_pictures
    monkeypatch.setattr(analysis.figures, "frontier_pictures", lambda comparison: first(comparison)[:1])
    again = card_parts(folder / "selectivity-seed43")
    assert again == dataclasses.replace(parts, frontiers=parts.frontiers[:1])


def test_one_seed_alone_says_so(folder, tmp_path):
    run = shutil.copytree(folder / "selectivity-seed43", tmp_path / "selectivity-seed43")
    alone = card_parts(run)
    assert {row["over seeds"] for row in alone.metrics} == {"one seed"}
    assert "minus baseline" not in alone.metrics[0] and not alone.frontiers
    assert any(note.startswith("one seed: ") for note in alone.notes)


def test_neither_the_baseline_nor_a_shorter_one_has_a_difference(folder, monkeypatch):
    monkeypatch.setattr("analysis.card.frontier_pictures", lambda *_: [])  # not looked at, and slow
    for name in ("baseline-seed42", "baseline_short-seed42"):
        parts = card_parts(folder / name)
        assert not any("no run without objectives" in note for note in parts.notes)
        assert "minus baseline, same seed" not in by_name(parts.loss, "")
        assert f"{len(SEEDS)} seeds ± 95 %" in parts.metrics[0]


def test_a_neighbour_of_other_data_or_another_recipe_is_left_out_and_named(folder, tmp_path):
    for name in ("selectivity-seed42", "selectivity-seed43", "selectivity-seed44"):
        shutil.copytree(folder / name, tmp_path / name)
    change(tmp_path / "selectivity-seed42", lambda r: dataclasses.replace(r, recipe={**r.recipe, "objectives": {}}))
    change(tmp_path / "selectivity-seed44", lambda r: dataclasses.replace(r, data=other_data(r)))
    make_run(tmp_path / "torn-seed1", "torn", 1)
    (tmp_path / "torn-seed1" / "report" / "report.json").write_text("{")
    parts = card_parts(tmp_path / "selectivity-seed43")
    assert {row["over seeds"] for row in parts.metrics} == {"one seed"}
    notes = "\n".join(parts.notes)
    assert "selectivity-seed42 is left out: its recipe differs" in notes
    assert "selectivity-seed44 is left out: it was not evaluated on the same data" in notes
    assert "torn-seed1 is left out" in notes and str(tmp_path) not in notes


def change(run, how) -> None:
    report = Report.load(run)
    how(dataclasses.replace(report, arrays=dict(report.arrays))).save(run / "report")


def other_data(report):
    return dataclasses.replace(report.data, fingerprint="00" * 32)


def test_one_shard_has_no_bracket_around_a_dash(folder, tmp_path):
    run = shutil.copytree(folder / "selectivity-seed43", tmp_path / "selectivity-seed43")
    change(run, lambda r: dataclasses.replace(r, loss_shards=LossShards(loss_sums=[3.0], num_tokens=[1])))
    summary = card_parts(run).summary
    assert "over documents" not in summary and "(" not in summary and "nats a token" in summary


@pytest.mark.parametrize("value", [-0.0, -1e-6, -4e-5])
def test_what_rounds_to_zero_has_no_minus(value):
    assert nats(value) == nats(value, sign=True) == number(value, like=0.1, sign=True) == "0.0000"
    assert number(value, like=100.0) == "0.0" and nats(-6e-5) == "-0.0001" and format_number(-0.0) == "0.0000"


# ---- Pictures of a report ----


def png() -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"picture"


def test_a_reports_pictures_are_taken_the_composite_first(folder, tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("frontier-2-l0", "frontier-10-composite", "frontier-1-sparsity", "curves-loss", "frontier-x"):
        (tmp_path / "figures" / f"{name}.png").write_bytes(png())
    parts = card_parts(folder / "selectivity-seed43", tmp_path)
    assert [p.name for p in parts.frontiers] == ["frontier-10-composite", "frontier-1-sparsity", "frontier-2-l0"]
    assert all(picture.png == png() for picture in parts.frontiers)


def test_a_folder_without_pictures_is_a_mistake_of_one_line(folder, tmp_path):
    with pytest.raises(UserError, match="holds no figures/frontier-.*hf-tti report RUNS --out"):
        card_parts(folder / "selectivity-seed43", tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "frontier-1-x.png").write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(UserError, match="not a PNG"):
        card_parts(folder / "selectivity-seed43", tmp_path)


# ---- In the card ----


@pytest.fixture
def offered(monkeypatch):
    """As an installed entry point."""
    point = importlib.metadata.EntryPoint("analysis", "analysis.card:card_parts", of_hf_tti.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [point][: group == of_hf_tti.ENTRY_POINTS])


def test_the_card_shows_every_picture_that_is_beside_it(folder, offered, monkeypatch):
    monkeypatch.setattr("analysis.card_pictures._DPI", 20)
    files = card_files(RunFolder(folder / "selectivity-seed43"), "me/x")
    card = files["README.md"].decode()
    assets = sorted(path for path in files if path.startswith("assets/"))
    assert len(assets) == 7 and all(card.count(f'<img src="{path}"') == 1 for path in assets)
    assert card.count("<img") == 7 and "± is half of the 95 % t interval" in card


def test_where_the_libraries_are_missing_values_stand_alone(folder, offered, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "analysis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    parts = of_hf_tti.card_parts(RunFolder(folder / "selectivity-seed43"))
    assert parts.notes == ["no intervals and no pictures: matplotlib was not installed where this card was made"]
    with pytest.raises(UserError, match="pip install 'hf-tti.analysis.'"):
        of_hf_tti.card_parts(RunFolder(folder / "selectivity-seed43"), folder)


def test_a_cross_entropy_that_is_not_finite_is_said_and_stops_no_card(folder, tmp_path, offered):
    run = shutil.copytree(folder / "selectivity-seed43", tmp_path / "selectivity-seed43")
    change(run, lambda report: dataclasses.replace(report, metrics={**report.metrics, "loss": None}))
    card = card_files(RunFolder(run), "me/x")["README.md"].decode()
    assert "Its validation cross-entropy is not a finite number." in card
    assert "no intervals and no pictures: selectivity-seed43: its cross-entropy is not a finite number" in card
    assert "| sparsity ↑ |" in card and str(tmp_path) not in card


def test_names_of_neighbours_and_metrics_stay_text(folder, tmp_path, offered):
    markdown_it = pytest.importorskip("markdown_it")
    odd = "<b>x|y"
    shutil.copytree(folder / "selectivity-seed43", tmp_path / "selectivity-seed43")
    make_run(
        tmp_path / odd, "other", 43, name=f"{odd}-seed43", data=other_data(Report.load(folder / "baseline-seed42"))
    )
    run = tmp_path / "selectivity-seed43"
    change(run, lambda r: dataclasses.replace(r, metric_facts={odd: r.metric_facts["sparsity"], **r.metric_facts}))
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "git_commit": odd, "versions": {odd: odd}}))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "question": odd}))
    card = card_files(RunFolder(run), "me/x")["README.md"].decode()
    page = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("\n---\n", 1)[1])
    assert "<b>" not in page and page.count("&lt;b&gt;x|y") >= 4
