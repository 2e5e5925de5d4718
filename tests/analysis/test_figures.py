import re
import sys
import types

import numpy as np
import pytest
from made_reports import make_runs

from analysis import figures
from analysis.comparison import compare_runs
from analysis.figures.geometry import pca_layout, umap_layout
from analysis.figures.heatmaps import block_means
from analysis.runs import find_runs
from analysis.theme import VARIABLES, inline_svg, looks, save_picture, text

SEVEN = ("baseline", "orthogonality", "selectivity", "decorrelation", "token_entropy", "hoyer", "$x_i$ <b>&amp;")


def compared(folder, **kinds):
    make_runs(folder, **kinds)
    return compare_runs(find_runs([folder]))


def all_pictures(comparison):
    groups = (figures.frontier_pictures, figures.layer_pictures, figures.geometry_pictures, figures.curve_pictures)
    singles = (figures.radar_picture, figures.similarity_picture, figures.correlation_picture, figures.density_picture)
    pictures = [picture for group in groups for picture in group(comparison)]
    return pictures + [picture for single in singles if (picture := single(comparison)) is not None]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return compared(tmp_path_factory.mktemp("three"))


def test_every_figure_draws_for_one_method_and_one_seed(tmp_path):
    pictures = all_pictures(compared(tmp_path / "runs", methods=("baseline",), seeds=(42,)))
    assert {"geometry-pca", "similarity", "curves-ce-loss", "layers-1-sparsity", "frontier-1-sparsity"} <= {
        picture.name for picture in pictures
    }
    for picture in pictures:
        picture.figure.draw_without_rendering()


def test_every_figure_draws_for_seven_methods_and_names_like_formulas(tmp_path):
    comparison = compared(tmp_path / "runs", methods=SEVEN, seeds=(1, 2))
    pictures = all_pictures(comparison)
    for picture in pictures:
        picture.figure.draw_without_rendering()
    assert len({picture.name for picture in pictures}) == len(pictures)
    legend = next(p for p in pictures if p.name == "radar").figure.legends[0]
    assert [entry.get_text() for entry in legend.get_texts()] == [m.name for m in comparison.methods]


def test_all_figures_have_words_and_names_that_are_safe_in_paths(three):
    for picture in all_pictures(three):
        assert re.fullmatch(r"[a-z0-9-]+", picture.name) and picture.title and len(picture.caption) > 30


def test_a_spoke_runs_from_the_worst_method_to_the_best(three):
    (axes,) = figures.radar_picture(three).figure.axes
    radii = np.array([line.get_ydata()[:-1] for line in axes.lines])  # [methods, spokes], cross-entropy first
    assert np.allclose(radii.min(axis=0), radii.min()) and np.allclose(radii.max(axis=0), 1)
    losses = [method.loss.value for method in three.methods]
    assert radii[:, 0].argmax() == np.argmin(losses) and radii[:, 0].argmin() == np.argmax(losses)
    sparsities = [method.values["sparsity/mean"].value for method in three.methods]
    assert radii[:, 1].argmax() == np.argmax(sparsities)


def test_the_histogram_counts_every_unit_of_every_run_once(three):
    picture = figures.density_picture(three)
    methods = {method.name: method for method in three.methods}
    assert len(picture.figure.axes[0].patches) == len(methods)
    for name, patch in zip(methods, picture.figure.axes[0].patches, strict=True):
        arrays = [run.report.arrays[f"neuron_density/density/layer_{i}"] for run in methods[name].runs for i in (0, 1)]
        values = np.concatenate(arrays)
        heights, edges, _ = patch.get_data()
        assert heights.sum() == pytest.approx(1)
        assert heights[0] == pytest.approx(np.mean(values < edges[1]))


def test_without_densities_there_is_no_histogram(tmp_path):
    comparison = compared(tmp_path, methods=("baseline",), seeds=(1,))
    for run in comparison.runs:
        run.report.metric_settings.clear()
    assert figures.density_picture(comparison) is None


def test_all_heatmaps_share_one_scale(three):
    images = [axes.images[0] for axes in figures.similarity_picture(three).figure.axes if axes.images]
    assert len(images) == 6 and len({image.get_clim() for image in images}) == 1


def test_a_radar_needs_two_methods_and_correlations_three_runs(tmp_path):
    assert figures.radar_picture(compared(tmp_path / "one", methods=("baseline",))) is None
    assert figures.correlation_picture(compared(tmp_path / "two", methods=("baseline",), seeds=(1, 2))) is None


def test_the_frontier_shows_points_intervals_front_and_nulls_that_are_off_scale(three):
    picture = figures.frontier_pictures(three)[0]
    (axes,) = picture.figure.axes
    front = next(line for line in axes.lines if line.get_drawstyle() == "steps-post")
    on_front = [point for point in three.frontiers[0].points if point.on_front]
    assert sorted(point.loss for point in on_front) == list(front.get_xdata()[: len(on_front)])
    labels = [entry.get_text() for entry in picture.figure.legends[0].get_texts()]
    value = f"{three.nulls['random_init']['sparsity/mean']:.3g}"
    assert f"random init: CE 7.63, {value}" in labels and axes.get_xlim()[1] < 7
    assert f"random init (CE 7.63, {value})" in picture.caption
    interval = three.methods[1].values["sparsity/mean"].interval
    assert any(list(line.get_ydata()) == list(interval[:2]) for line in axes.lines)


def test_one_seed_draws_no_interval(tmp_path):
    comparison = compared(tmp_path / "runs", seeds=(42,))
    (axes,) = figures.frontier_pictures(comparison)[0].figure.axes
    ends = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_drawstyle() == "default"]
    assert all(line.get_linestyle() == ":" for line in ends)  # the baseline's line alone


def test_layers_show_means_over_seeds(three):
    picture = next(p for p in figures.layer_pictures(three) if "cosine" in p.name)
    (axes,) = picture.figure.axes
    expected = np.mean([run.report.metrics["cosine_similarity/layer_1"] for run in three.methods[0].runs])
    assert axes.lines[0].get_ydata()[1] == pytest.approx(expected)


def test_curves_are_thinned_and_the_difference_is_paired_by_seed(three):
    by_name = {picture.name: picture for picture in figures.curve_pictures(three)}
    (axes,) = by_name["curves-ce-difference"].figure.axes
    baseline, other = three.methods[0].runs, three.methods[1].runs
    pairs = zip(other, baseline, strict=True)
    expected = np.mean([run.curves[0]["ce_loss"] - base.curves[0]["ce_loss"] for run, base in pairs])
    assert axes.lines[0].get_ydata()[0] == pytest.approx(expected)
    assert all(len(line.get_xdata()) <= 200 for line in axes.lines)


def test_block_means_keep_the_mean_and_skip_dead_units():
    matrix = np.random.default_rng(0).random((40, 40))
    assert block_means(matrix, 10).shape == (10, 10)
    assert block_means(matrix, 10).mean() == pytest.approx(matrix.mean())
    matrix[:4] = matrix[:, :4] = np.nan
    blocks = block_means(matrix, 10)
    assert np.isnan(blocks[0]).all() and not np.isnan(blocks[1:, 1:]).any()
    assert np.array_equal(block_means(matrix, 40), matrix, equal_nan=True)
    assert block_means(matrix, 15).shape == (14, 14)  # the last block is smaller


def test_pca_finds_two_groups_and_gives_dead_units_no_place():
    cosine = np.kron(np.eye(2), np.ones((5, 5))).astype(np.float32)
    cosine[0] = cosine[:, 0] = np.nan
    layout = pca_layout(cosine)
    assert np.isnan(layout.places[0]).all()
    first = layout.places[1:, 0]
    assert np.ptp(first[:4]) < 1e-6 and np.ptp(first[4:]) < 1e-6 and abs(first[0] - first[-1]) > 0.5
    assert layout.share == pytest.approx(1.0)


def test_pca_agrees_with_an_eigendecomposition():
    rows = np.random.default_rng(1).normal(size=(30, 90))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    centred = rows - rows.mean(axis=0)
    values = np.linalg.eigvalsh(centred @ centred.T)[::-1]
    layout = pca_layout(rows @ rows.T)
    np.testing.assert_allclose((layout.places**2).sum(axis=0), values[:2], rtol=1e-8)
    assert layout.share == pytest.approx(values[:2].sum() / values.sum())


def test_umap_gets_distances_of_live_units_where_it_is_installed(monkeypatch, three):
    seen = []

    class UMAP:
        def __init__(self, **settings):
            seen.append(settings)

        def fit_transform(self, distances):
            seen.append(distances)
            return np.arange(2 * len(distances)).reshape(-1, 2)

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    cosine = np.eye(6)
    cosine[2] = cosine[:, 2] = np.nan
    places = umap_layout(cosine).places
    assert seen[0]["metric"] == "precomputed" and seen[1].shape == (5, 5) and (np.diag(seen[1]) == 0).all()
    assert np.isnan(places[2]).all() and places[3].tolist() == [4, 5]
    assert [picture.name for picture in figures.geometry_pictures(three)] == ["geometry-pca", "geometry-umap"]
    monkeypatch.setitem(sys.modules, "umap", None)
    assert [picture.name for picture in figures.geometry_pictures(three)] == ["geometry-pca"]


def test_units_are_coloured_by_what_was_measured_at_the_same_site(three):
    picture = figures.geometry_pictures(three)[0]
    assert "Colour: polysemanticity, entropy" in picture.caption  # at mlp.out, as the cosines; density is not


def test_the_same_figure_gives_the_same_files(tmp_path, three):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for picture in (figures.radar_picture(three), figures.similarity_picture(three)):
            save_picture(picture, tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["radar.png", "radar.svg", "similarity.png", "similarity.svg"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_an_inline_figure_takes_the_pages_colours_and_names_itself(tmp_path, three):
    picture = figures.radar_picture(three)
    file = save_picture(picture, tmp_path)
    svg = inline_svg(picture, file)
    assert all(colour in file for colour in ("#0072b2", "#ffffff"))
    assert not any(colour in svg for colour in VARIABLES) and "var(--c1)" in svg and "var(--ink)" in svg
    assert svg.startswith("<svg viewBox=") and 'role="img"' in svg and ' width="' not in svg.split(">")[0]
    assert '<title id="radar-name">Methods over metrics</title>' in svg and '<desc id="radar-words">' in svg
    assert "<style" not in svg and "<metadata" not in svg and "DejaVu" not in svg
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert len(set(ids)) == len(ids) and all(name.startswith("radar-") for name in ids)
    for target in re.findall(r'(?:href="#|url\(#)([^")]*)', svg):
        assert target in ids


def test_every_method_of_fourteen_looks_different_and_the_baseline_is_ink():
    names = [f"m{i}" for i in range(14)]
    found = looks(["b", *names], "b")
    assert found["b"].colour == "#1b1e23" and len(set(found.values())) == 15


def test_text_in_figures_is_one_short_line_without_control_characters():
    assert text("a\x00b\n c") == "a\ufffdb c"
    assert text("x" * 50) == "x" * 31 + "…"
    assert not text("_hidden").startswith("_")  # matplotlib leaves such names out of a legend
