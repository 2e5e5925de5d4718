"""Laws of a card's pictures: values that are near to each other are told apart, and a legend covers no curve."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from made_comparisons import METHODS, run
from matplotlib.figure import Figure

from analysis.card_pictures import _draw_losses
from analysis.comparison import compare_runs
from analysis.figures.frontier import frontier_pictures
from analysis.theme import style


def drawn(figure: Figure) -> None:
    with style():
        figure.savefig(io.BytesIO(), dpi=100)


@pytest.mark.parametrize("step", [2e-6, 1e-4, 0.02])
def test_values_that_are_near_to_each_other_have_ticks_in_full(step):
    metrics = [{"loss": 6.228 + step * i, "sparsity/mean": 0.5 + step * i * (-1) ** i} for i in range(len(METHODS))]
    runs = [run(name, metrics=of) for name, of in zip(METHODS, metrics, strict=True)]
    (picture,) = frontier_pictures(compare_runs(runs))[:1]
    drawn(picture.figure)
    axes = picture.figure.axes[0]
    for axis, few in ((axes.xaxis, 4), (axes.yaxis, 9)):
        assert axis.get_offset_text().get_text() == ""
        low, high = axis.get_view_interval()
        labels = [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        texts = [label.get_text() for label in labels]
        assert 2 <= len(texts) <= few and len(set(texts)) == len(texts)
        assert [float(text.replace("\N{MINUS SIGN}", "-")) for text in texts] == pytest.approx(
            [tick.get_loc() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high], abs=step / 100
        )
        boxes = [label.get_window_extent() for label in labels]
        assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize("slope", [-1.0, 1.0])
def test_the_legend_covers_no_curve(slope):
    curve = [{"step": step, "ce_loss": 5 + slope * step / 100} for step in range(101)]
    with style():
        figure = Figure(figsize=(7.6, 2.9), layout="constrained")
        axes = figure.subplots()
        _draw_losses(axes, SimpleNamespace(curves=curve), None, {line["step"]: line["ce_loss"] for line in curve})
    drawn(figure)
    box = axes.get_legend().get_window_extent()
    points = axes.transData.transform(np.column_stack(axes.lines[0].get_data()))
    assert box.count_contains(points) == 0
