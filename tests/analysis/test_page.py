import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from browser import find_chromium, open_page
from made_reports import made_report, make_run, make_runs

from analysis import figures, page, tables
from analysis.comparison import compare_runs
from analysis.page import MAX_NEURON_CHARS, write_report
from analysis.runs import Run, find_runs
from analysis.theme import inline_svg, save_picture
from hf_tti.errors import UserError
from hf_tti.report import vocabulary_arrays

PAYLOAD = "</script></style></title><img src=x onerror=\"document.title='owned'\">{{ 7 * 7 }}$a$"
SOME = ("sparsity", "correlation", "neuron_density", PAYLOAD)  # every picture takes a while
needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="no chromium here")


class Elements(HTMLParser):
    """Start tags with their attributes; text of scripts by their attributes."""

    def __init__(self, html):
        super().__init__()
        self.found, self.scripts, self._in_script = [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append([dict(attributes), ""])

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1][1] += data


def hostile_runs(folder):
    """Two methods of two seeds; everything that is text in one of them is a payload."""
    runs = find_runs(make_runs(folder, methods=("baseline",), seeds=(1, 2), layers=2))
    for seed in (1, 2):
        path = make_run(folder / f"other-seed{seed}", "other", seed, layers=2)
        (path / "stories.txt").write_text(f"--- 1\n{PAYLOAD}\n")
        report = made_report(PAYLOAD, "other", seed, layers=2)
        text = dict.fromkeys(report.token_texts(), PAYLOAD)
        new = {f"{PAYLOAD}/mean": 0.5, f"{PAYLOAD}/layer_0": 0.4, f"{PAYLOAD}/layer_1": 0.6}
        report = dataclasses.replace(
            report,
            metrics=report.metrics | new,
            metric_facts=report.metric_facts | {PAYLOAD: {"greater_is_better": True, "summary": PAYLOAD}},
            metric_settings=report.metric_settings | {PAYLOAD: {"metric": PAYLOAD, "sites": [PAYLOAD]}},
            model=dataclasses.replace(report.model, source=PAYLOAD, revision=PAYLOAD),
            recipe=report.recipe | {"experiment": PAYLOAD},
            versions={PAYLOAD: PAYLOAD},
            git_commit=PAYLOAD,
            arrays=dict(report.arrays) | vocabulary_arrays(text),
        )
        runs.append(Run(name=PAYLOAD, method=PAYLOAD, seed=seed, report=report, folder=path))
    return [dataclasses.replace(run, report=with_few_metrics(run.report)) for run in runs]


def with_few_metrics(report):
    kept = {label: facts for label, facts in report.metric_facts.items() if label in SOME}
    return dataclasses.replace(report, metric_facts=kept)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return write_report(compare_runs(hostile_runs(folder / "runs")), folder / "out")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """One report without seed, recipe, nulls, arrays or folder, of one metric in one layer."""
    report = dataclasses.replace(
        made_report("lonely", "lonely", 1, layers=1),
        **{"seed": None, "recipe": None, "arrays": {}, "nulls": {}},
        metrics={"loss": 3.5, "perplexity": 33.1, "num_tokens": 100, "sparsity/mean": 0.1, "sparsity/layer_0": 0.1},
        metric_facts={"sparsity": {"greater_is_better": None, "summary": "how sparse"}},
        metric_settings={"sparsity": {"metric": "activation_sparsity"}},
    )
    run = Run(name="lonely", method="lonely", seed=None, report=report)
    return write_report(compare_runs([run]), tmp_path_factory.mktemp("bare"))


# ---- safety ------------------------------------------------------------------------------------


def test_text_of_reports_is_escaped_wherever_it_stands(hostile):
    html = hostile.read_text(encoding="utf-8")
    assert html.count("&lt;img src=x") > 20 and html.count("{{ 7 * 7 }}") > 20
    tags = [tag for tag, _ in Elements(html).found]
    assert "img" not in tags and tags.count("style") == 1 and tags.count("script") == 2


@needs_chromium
def test_nothing_of_a_report_runs_and_nothing_is_requested(hostile):
    with open_page(hostile) as shown:
        assert shown.errors == []
        assert shown.evaluate("document.title").startswith("What interpretability costs")
        assert shown.evaluate("document.images.length") == 0
        assert PAYLOAD in shown.text("#stories") and "{{ 7 * 7 }}" in shown.text("#metrics")
        others = [url for url in shown.requests if not url.startswith("data:")]
        assert others == [hostile.resolve().as_uri()]


def test_the_policy_allows_the_pages_own_script_alone(hostile):
    elements = Elements(hostile.read_text(encoding="utf-8"))
    (policy,) = [a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    code = [text for attributes, text in elements.scripts if attributes.get("type") != "application/json"]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code]
    assert re.findall(r"'sha256-([^']*)'", policy) == digests and len(digests) == 1
    assert "default-src 'none'" in policy and "img-src data:" in policy and "http" not in policy


def test_the_page_asks_for_no_address_and_has_no_inline_handler(hostile):
    found = Elements(hostile.read_text(encoding="utf-8")).found
    links = [a["href"] for tag, a in found if tag == "a"]
    assert links and all(re.match(r"#|figures/|neurons/", link) for link in links)
    for tag, attributes in found:
        assert not any(name.startswith("on") for name in attributes)
        if tag != "a":
            for name in ("src", "href", "data", "action", "poster", "srcset"):
                assert re.match(r"data:image/png;base64,|#", attributes.get(name) or "#"), (tag, attributes)
        assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)", attributes.get("style") or ""))


def test_data_in_the_page_is_json(hostile):
    data = [text for a, text in Elements(hostile.read_text(encoding="utf-8")).scripts if a.get("type")]
    assert [len(json.loads(text)["runs"]) for text in data] == [4]


# ---- structure ---------------------------------------------------------------------------------


def test_ids_are_unique_and_every_reference_has_a_target(hostile):
    found = Elements(hostile.read_text(encoding="utf-8")).found
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [a["href"][1:] for _, a in found if a.get("href", "").startswith("#")]
    targets += [one for _, a in found for one in a.get("aria-labelledby", "").split()]
    targets += [one for _, a in found for v in a.values() for one in re.findall(r"url\(#([^)]*)\)", v or "")]
    assert set(targets) <= set(ids)


def test_tables_have_captions_and_scopes_and_pictures_have_names(hostile):
    html = hostile.read_text(encoding="utf-8")
    found = Elements(html).found
    tags = [tag for tag, _ in found]
    assert tags.count("caption") == tags.count("table") > 3
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in found if tag == "th")
    pictures = [attributes for tag, attributes in found if tag == "svg"]
    assert pictures and all(a.get("role") == "img" and a.get("aria-labelledby") for a in pictures)
    assert tags.count("figcaption") == tags.count("figure") == len(pictures)
    scrolling = [a for tag, a in found if "scroll" in (a.get("class") or "").split()]
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in scrolling)


def test_links_lead_to_files_that_are_there(hostile):
    links = [a["href"] for tag, a in Elements(hostile.read_text(encoding="utf-8")).found if tag == "a"]
    files = {link for link in links if not link.startswith("#")}
    assert {link.rpartition(".")[2] for link in files} == {"png", "svg", "html"}
    assert all((hostile.parent / link).is_file() for link in files if "%" not in link)
    neuron_pages = sorted((hostile.parent / "neurons").iterdir())
    assert len(neuron_pages) == len({link for link in files if link.startswith("neurons/")}) == 4


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_does_not_scroll_sideways(hostile, width):
    with open_page(hostile, width=width) as shown:
        assert shown.evaluate("document.documentElement.scrollWidth") <= width


@needs_chromium
def test_figures_follow_the_colour_scheme_and_the_skip_link_comes_first(hostile):
    colours = []
    for dark in (False, True):
        with open_page(hostile, dark=dark) as shown:
            text = "getComputedStyle(document.querySelector('svg text')).fill"
            back = "getComputedStyle(document.body).backgroundColor"
            colours.append((shown.evaluate(text), shown.evaluate(back)))
            shown.press("Tab")
            assert shown.evaluate("document.activeElement.className") == "skip"
    (light_text, white), (dark_text, black) = colours
    assert white == "rgb(255, 255, 255)" and black != white and light_text != dark_text


# ---- what is missing ---------------------------------------------------------------------------


def test_sections_without_data_have_a_sentence_instead(bare):
    html = bare.read_text(encoding="utf-8")
    for words in (
        "There is no baseline with a seed in common",
        "One seed gives no interval.",
        "No report has null rows",
        "there is no frontier",
        "A radar needs at least two methods",
        "No metric was measured in two layers",
        "No report has cosine matrices between units; evaluate",
        "No report has cosine matrices between units, from which",
        "No run folder with a training log",
        "No run folder with generated stories",
        "No report has top contexts of units",
        "Random initialisation was not measured",
        "Correlations between metrics need three runs",
    ):
        assert words in html, words
    assert "<svg" not in html and "how sparse" in html and not (bare.parent / "neurons").exists()


def test_a_page_with_seeds_does_not_say_that_there_is_one(hostile):
    assert "One seed gives no interval." not in hostile.read_text(encoding="utf-8")


def test_verdicts_stand_first_in_words_and_numbers(hostile):
    html = hostile.read_text(encoding="utf-8")
    assert html.index('id="verdict"') < html.index('id="metrics"') < html.index("<figure")
    assert "95 % interval [" in html and "random init" in html


# ---- size, and what tables say -----------------------------------------------------------------


def test_seven_methods_three_seeds_and_six_layers_fit_ten_megabytes(tmp_path, monkeypatch):
    """The two pictures that grow with methods times layers, and an allowance for every other and for the units."""
    names = ("baseline", "a", "b")
    comparison = compare_runs(find_runs(make_runs(tmp_path / "runs", methods=names, seeds=(1,), layers=2, units=120)))
    pictures = [figures.similarity_picture(comparison), figures.geometry_pictures(comparison)[0]]
    panels = sum(len(inline_svg(picture, save_picture(picture, tmp_path))) for picture in pictures) / (3 * 2)
    small = figures.frontier_pictures(comparison)[0]
    others = 60 * len(inline_svg(small, save_picture(small, tmp_path)))
    assert 7 * 6 * panels + others + MAX_NEURON_CHARS < 10_000_000
    monkeypatch.setattr(page, "MAX_NEURON_CHARS", 30_000)
    assert 10_000 < len(page._neuron_data(comparison, {run.label: "x" for run in comparison.runs})) <= 30_000


def test_an_interval_has_the_decimals_of_its_number():
    assert tables.number(0.123456) == "0.1235" and tables.number(12.3456) == "12.35"
    assert tables.number(0.5, like=12.3456, sign=True) == "+0.50"
    assert tables.number(0.0) == "0.0000" and tables.number(1.2e-7) == "1.2e-07"


def test_a_difference_is_marked_where_its_interval_excludes_zero(tmp_path):
    comparison = compare_runs(find_runs(make_runs(tmp_path)))
    for table in tables.metric_tables(comparison):
        for row in table.rows:
            for cell in row.cells:
                low, high = map(float, re.findall(r"[-+.0-9e]+", cell.difference_interval) or (0, 0))
                assert not cell.mark or low * high > 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    run = Run(name="a", method="a", seed=None, report=made_report("a", "a", 1))
    with pytest.raises(UserError, match="file"):
        write_report(compare_runs([run]), tmp_path / "file")
