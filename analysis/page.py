"""The report: a folder with one page that needs nothing else, its figures as PNG and SVG, and a page a run with all
units.

    index.html             words, tables, figures, stories, units, provenance; one file, no request
    figures/<name>.{png,svg}
    neurons/<run>.html     where a run has top contexts
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from analysis import figures, neurons, provenance, tables
from analysis.comparison import Comparison
from analysis.figures._units import chosen_runs
from analysis.html import write_page
from analysis.neurons import inline_neurons, page_name, read_neurons, write_neuron_page
from analysis.runs import Run
from analysis.theme import Picture, inline_svg, save_picture
from hf_tti.errors import UserError

PAGE, FIGURES, NEURONS = "index.html", "figures", "neurons"
UNITS_A_RUN, MAX_NEURON_CHARS = 96, 1_500_000
STORIES, MAX_STORY_CHARS = 3, 1500
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture in the page."""

    name: str
    title: str
    caption: str
    wide: bool
    svg: Markup


@dataclass(frozen=True, kw_only=True)
class Stories:
    """What one run generated."""

    method: str
    run: str
    texts: Sequence[str]


def write_report(comparison: Comparison, out: Path, *, progress: Progress = lambda line: None) -> Path:
    """Writes the report into a folder, over an older one.

    Args:
        comparison: what to show.
        out: the folder; made where it is missing.
        progress: told in a line what was written.

    Returns:
        The page.

    Raises:
        UserError: the folder cannot be written.
    """
    out = Path(out)
    try:
        for folder in (out, out / FIGURES):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot hold a report: {error.strerror}") from error
    pictures = {section: _save(found, out / FIGURES, progress) for section, found in _pictures(comparison)}
    pages = _write_neuron_pages(comparison, out / NEURONS, progress)
    page = write_page(
        out / PAGE,
        "report.html.j2",
        styles=("report.css", *neurons.STYLES),
        scripts=neurons.SCRIPTS,
        title=_title(comparison),
        comparison=comparison,
        tables=tables,
        provenance=provenance,
        pictures=pictures,
        stories=_stories(comparison),
        neurons=_neuron_data(comparison, pages) if pages else None,
        pages=pages,
    )
    progress(f"{page}: {page.stat().st_size / 1e6:.1f} MB")
    return page


def _title(comparison: Comparison) -> str:
    recipes = [run.report.recipe for run in comparison.runs]
    names = {recipe.get("experiment") for recipe in recipes if recipe} - {None}
    return f"{names.pop()}: what interpretability costs" if len(names) == 1 else "What interpretability costs"


def _pictures(comparison: Comparison):
    """Section -> its pictures, drawn when they are asked for."""
    yield "frontiers", figures.frontier_pictures(comparison)
    yield "radar", [figures.radar_picture(comparison)]
    yield "layers", [*figures.layer_pictures(comparison), figures.density_picture(comparison)]
    yield "similarity", [figures.similarity_picture(comparison)]
    yield "geometry", figures.geometry_pictures(comparison)
    yield "curves", figures.curve_pictures(comparison)
    yield "correlations", [figures.correlation_picture(comparison)]


def _save(pictures: Sequence[Picture | None], folder: Path, progress: Progress) -> list[Shown]:
    shown = []
    for picture in pictures:
        if picture is not None:
            svg = Markup(inline_svg(picture, save_picture(picture, folder)))
            words = {"title": picture.title, "caption": picture.caption}
            shown.append(Shown(name=picture.name, wide=picture.wide, svg=svg, **words))
            progress(f"{folder / picture.name}.png, .svg")
    return shown


def _write_neuron_pages(comparison: Comparison, folder: Path, progress: Progress) -> dict[str, str]:
    """Run label -> address of its page relative to the report, for runs with top contexts."""
    pages: dict[str, str] = {}
    for run in _in_order(comparison):
        if next(read_neurons(run.report), None) is not None:
            name = page_name(run)
            while f"{NEURONS}/{quote(name)}" in pages.values():
                name = f"_{name}"
            write_neuron_page(run, folder / name)
            pages[run.label] = f"{NEURONS}/{quote(name)}"
            progress(f"{folder / name}")
    return pages


def _neuron_data(comparison: Comparison, pages: dict[str, str]) -> str:
    """A sample of each run's units, smaller where there are many runs."""
    runs = [run for run in _in_order(comparison) if run.label in pages]
    units = UNITS_A_RUN
    while len(data := inline_neurons(runs, per_run=units, pages=pages)) > MAX_NEURON_CHARS and units > 1:
        units = min(units - 1, units * MAX_NEURON_CHARS // len(data))
    return data


def _in_order(comparison: Comparison) -> list[Run]:
    """The baseline's runs first."""
    return [run for method in [*comparison.methods, *comparison.shorter] for run in method.runs]


def _stories(comparison: Comparison) -> list[Stories]:
    return [_of_run(method, run) for method, run in chosen_runs(comparison).items() if run.stories]


def _of_run(method: str, run: Run) -> Stories:
    texts = [text for _, text in run.stories[:STORIES]]
    cut = [text if len(text) <= MAX_STORY_CHARS else f"{text[:MAX_STORY_CHARS]}…" for text in texts]
    return Stories(method=method, run=run.name, texts=cut)
