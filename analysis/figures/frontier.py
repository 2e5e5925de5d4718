"""Metric against cross-entropy: what each method buys and costs, the front, the baseline at equal CE and the nulls."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.comparison import Comparison
from analysis.figures._axes import empty_axes, legend_below, method_handle, metric_name, span
from analysis.frontiers import Frontier, Point
from analysis.pareto import EqualCrossEntropy
from analysis.theme import INK, MUTED, Look, Picture, looks, slug, style, text

_TICKS = 3  # intervals between them: digits of values that are near to each other are many
_NULL_MARKERS = {"random_init": "*", "rotated": "x", "shuffled_labels": "+"}


def frontier_pictures(comparison: Comparison) -> list[Picture]:
    """One for each metric with a direction."""
    shown = looks([method.name for method in comparison.methods], comparison.baseline)
    pairs = enumerate(comparison.frontiers, 1)
    return [_picture(frontier, _nulls(comparison, frontier), shown, number) for number, frontier in pairs]


def _nulls(comparison: Comparison, frontier: Frontier) -> list[Point]:
    """The null rows with a value. A row that changes no weight stands at the baseline's cross-entropy."""
    own = next((p.loss for p in frontier.points if p.kind == "baseline"), None)
    points = [point for point in frontier.points if point.kind == "null"]
    for row, values in comparison.nulls.items():
        value, loss = values.get(frontier.metric.key), values.get("loss", own)
        if value is not None and loss is not None and row not in [point.name for point in points]:
            nothing = {"loss_interval": None, "value_interval": None, "on_front": False}
            points.append(Point(name=row, loss=loss, value=value, kind="null", **nothing))
    return points


def _picture(frontier: Frontier, nulls: list[Point], shown: dict[str, Look], number: int) -> Picture:
    name = metric_name(frontier.metric)
    methods = [point for point in frontier.points if point.name in shown and point.kind in ("method", "baseline")]
    curve = _baseline_line(frontier)
    with style():
        figure, axes = empty_axes()
        xlim, ylim = _limits(methods or curve, curve, nulls)
        _draw_front(axes, frontier, xlim[1])
        drawn = [(method_handle(shown[point.name], line=False), point.name) for point in methods]
        for point in methods:
            _draw_method(axes, point, shown[point.name])
        drawn += _draw_baseline_line(axes, curve)
        drawn += [_draw_null(axes, point, xlim, ylim) for point in nulls]
        axes.set(xlim=xlim, ylim=ylim)
        _plain_ticks(axes)
        axes.set_xlabel("cross-entropy, nats a token (lower is better)")
        axes.set_ylabel(f"{text(name)} ({frontier.metric.direction} is better)")
        legend_below(figure, [handle for handle, _ in drawn], [label for _, label in drawn])
    off_scale = [point for point in nulls if not _inside(point, xlim, ylim)]
    return Picture(
        name=f"frontier-{number}-{slug(name)}",
        title=f"{name} against cross-entropy",
        caption=_caption(frontier, name, curve, off_scale),
        figure=figure,
    )


def _baseline_line(frontier: Frontier) -> list[Point]:
    """The points that `Frontier.equal_ce` is read from, by cross-entropy."""
    own = [point for point in frontier.points if point.kind in ("baseline", "baseline_curve")]
    decayed = [point for point in own if point.decayed]
    line = own if frontier.equal_ce_is_undecayed or len(decayed) < 2 else decayed
    return sorted(line, key=lambda point: point.loss)


def _limits(methods: list[Point], curve: list[Point], nulls: list[Point]):
    """The methods and their intervals; of what lies far away, nothing."""
    losses, values = [p.loss for p in methods], [p.value for p in methods]
    x_reach = [bound for p in methods if p.loss_interval for bound in p.loss_interval[:2]]
    y_reach = [bound for p in methods if p.value_interval for bound in p.value_interval[:2]]
    xlim = span(losses, x_reach, x_reach)
    near = [p.value for p in [*curve, *nulls] if xlim[0] <= p.loss <= xlim[1]]
    return xlim, span(values, [*y_reach, *near], [*y_reach, *near], more=0.8)


def _draw_front(axes: Axes, frontier: Frontier, right: float) -> None:
    """From point to point of the front: at each cross-entropy the best value that costs no more."""
    front = sorted((p for p in frontier.points if p.on_front and p.kind != "null"), key=lambda p: p.loss)
    if front:
        losses = [*(p.loss for p in front), max(right, front[-1].loss)]
        values = [*(p.value for p in front), front[-1].value]
        axes.plot(losses, values, drawstyle="steps-post", color=MUTED, lw=4, alpha=0.3, zorder=1.4)


def _draw_baseline_line(axes: Axes, curve: list[Point]) -> list[tuple[Line2D, str]]:
    if len(curve) < 2:
        return []
    (line,) = axes.plot([p.loss for p in curve], [p.value for p in curve], color=INK, ls=":", lw=1.4, zorder=1.6)
    shorter = [p for p in curve if p.kind == "baseline_curve"]
    axes.plot([p.loss for p in shorter], [p.value for p in shorter], ls="none", marker="o", mfc="none", color=INK, ms=4)
    return [(line, "baseline at equal CE")]


def _draw_method(axes: Axes, point: Point, look: Look) -> None:
    colour = look.colour
    if point.loss_interval:
        axes.plot(point.loss_interval[:2], [point.value] * 2, color=colour, lw=1, alpha=0.75, zorder=2)
    if point.value_interval:
        axes.plot([point.loss] * 2, point.value_interval[:2], color=colour, lw=1, alpha=0.75, zorder=2)
    axes.plot(point.loss, point.value, ls="none", marker=look.marker, color=colour, ms=6.5, zorder=3)


def _plain_ticks(axes: Axes) -> None:
    """Values in full, however near to each other: no `1e-5+6.228` beside the axis, and no more than have room."""
    axes.ticklabel_format(useOffset=False)
    axes.ticklabel_format(axis="x", style="plain")
    axes.locator_params(axis="x", nbins=_TICKS)


def _inside(point: Point, xlim: tuple[float, float], ylim: tuple[float, float]) -> bool:
    return xlim[0] <= point.loss <= xlim[1] and ylim[0] <= point.value <= ylim[1]


def _draw_null(axes: Axes, point: Point, xlim, ylim) -> tuple[Line2D, str]:
    """The point, or where it is off the scale a triangle at the edge next to it and its numbers in the legend."""
    name = point.name.replace("_", " ")
    if _inside(point, xlim, ylim):
        marker, place, label = _NULL_MARKERS.get(point.name, "x"), (point.loss, point.value), name
    else:
        x, y = min(max(point.loss, xlim[0]), xlim[1]), min(max(point.value, ylim[0]), ylim[1])
        marker = ">" if point.loss > xlim[1] else "<" if point.loss < xlim[0] else "^" if point.value > ylim[1] else "v"
        shown = f"CE {point.loss:.2f}, {point.value:.3g}" if marker in "<>" else f"{point.value:.3g}"
        place, label = (x, y), f"{name}: {shown}"
    axes.plot(*place, ls="none", marker=marker, color=MUTED, ms=7, zorder=2.5, clip_on=False)
    return Line2D([], [], ls="none", marker=marker, color=MUTED, ms=6), label


def _caption(frontier: Frontier, name: str, curve: list[Point], off_scale: list[Point]) -> str:
    front = [point.name for point in frontier.points if point.on_front]
    parts = [f"On the front: {', '.join(front) or 'none'}."]
    if len(curve) > 1:
        undecayed = "checkpoints in training, whose learning rate had not decayed"
        line = undecayed if frontier.equal_ce_is_undecayed else "shorter baselines"
        gains = "; ".join(f"{method} {_equal(equal)}" for method, equal in frontier.equal_ce.items())
        parts.append(f"Baseline at the cross-entropy of {gains} (through {line}).")
    if off_scale:
        places = "; ".join(f"{p.name.replace('_', ' ')} (CE {p.loss:.2f}, {p.value:.3g})" for p in off_scale)
        parts.append(f"Off the scale, marked at its edge: {places}.")
    if frontier.hypervolume is not None:
        loss, value = frontier.reference
        volume = frontier.hypervolume.estimate
        interval = f" [{volume.interval.low:.3g}, {volume.interval.high:.3g}]" if volume.interval else ""
        parts.append(f"Hypervolume {volume.value:.3g}{interval} to the reference ({loss:.4g}, {value:.3g}).")
    return " ".join(parts)


def _equal(equal: EqualCrossEntropy) -> str:
    return f"{equal.value:.3g}{' (extrapolated)' if equal.extrapolated else ''}"
