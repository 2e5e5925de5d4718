"""The rating page: blind, repeatable, and an export that can be read again."""

import dataclasses
import json
import re

import browser
import numpy as np
import pytest
from made_reports import made_report
from test_neurons import HOSTILE, needs_chromium, unpacked

from analysis.rate import KEY_FILE, write_rating_page
from analysis.ratings import RATINGS, read_key, read_ratings
from analysis.runs import Run
from hf_tti.errors import UserError
from hf_tti.report import vocabulary_arrays

UNITS, LAYERS, DRAWN = 12, 2, 6
METHODS = ("baseline", "orthogonality", "selectivity")


def made_run(method: str, **arrays) -> Run:
    report = made_report(f"{method}-seed42", method, 42, layers=LAYERS, units=UNITS)
    report = dataclasses.replace(report, arrays={**report.arrays, **arrays})
    return Run(name=report.name, method=method, seed=42, report=report)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return [made_run(method) for method in METHODS]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    return write_rating_page(runs, tmp_path_factory.mktemp("rating"), num_neurons=DRAWN)


def data_of(page) -> dict:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="rate-data">([^<]*)</script>', text)[1])


# ---- what is drawn -----------------------------------------------------------------------------


def test_the_page_says_nothing_of_runs_methods_or_places(page):
    shown = re.sub(r"<(style|script)>.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for word in (*METHODS, "seed", "mlp", "layer"):
        assert word not in shown.lower()
    assert set(data_of(page)) == {"schema", "version", "page_sha256", "ratings", "ids", "texts", "arrays", "data"}
    assert set(unpacked(data_of(page))) == {"tokens", "activations"}


def test_every_run_gives_as_many_live_units_all_mixed(page, runs):
    key = read_key(page.with_name(KEY_FILE))
    drawn = [item["run"] for item in key.items.values()]
    assert {run.label: drawn.count(run.label) for run in runs} == {run.label: DRAWN for run in runs}
    assert drawn != sorted(drawn, key=[run.label for run in runs].index)
    places = [tuple(item.values()) for item in key.items.values()]
    assert len(set(places)) == len(places)
    assert all(item["unit"] != 0 for item in key.items.values())  # unit 0 is dead
    assert len({item["layer"] for item in key.items.values()}) == LAYERS


def test_an_item_shows_the_contexts_of_its_unit_relative_to_the_units_largest(page, runs):
    data, key = data_of(page), read_key(page.with_name(KEY_FILE))
    held, shown = unpacked(data), np.array([None, *data["texts"]], dtype=object)
    reports = {run.label: run.report for run in runs}
    for place, unit in enumerate(data["ids"]):
        item = key.items[unit]
        report = reports[item["run"]]
        stored = {
            name: report.arrays[f"top_contexts/{name}/layer_{item['layer']}"][item["unit"]]
            for name in ("tokens", "activations", "values")
        }
        texts = report.token_texts()
        expected = [[texts.get(int(token)) for token in context] for context in stored["tokens"]]
        assert shown[held["tokens"][place]].tolist() == expected
        shares = np.clip(stored["activations"] / stored["values"][0], -1, 1)
        np.testing.assert_allclose(held["activations"][place] / 127, shares, atol=0.005)


def test_the_size_of_activations_does_not_show(runs, tmp_path):
    louder = {
        key: array * np.asarray(8, dtype=array.dtype)
        for key, array in runs[0].report.arrays.items()
        if key.startswith(("top_contexts/values", "top_contexts/activations"))
    }
    pages = [
        write_rating_page([run], tmp_path / str(i)) for i, run in enumerate([runs[0], made_run("baseline", **louder)])
    ]
    first, second = (unpacked(data_of(page)) for page in pages)
    np.testing.assert_array_equal(first["activations"], second["activations"])


def test_the_order_of_texts_does_not_tell_the_models_apart(page):
    texts = data_of(page)["texts"]
    assert texts == sorted(texts)


def test_the_same_seed_gives_the_same_page_and_another_another(page, runs, tmp_path):
    again = write_rating_page(runs, tmp_path / "again", num_neurons=DRAWN)
    assert again.read_bytes() == page.read_bytes()
    assert again.with_name(KEY_FILE).read_bytes() == page.with_name(KEY_FILE).read_bytes()
    other = write_rating_page(runs, tmp_path / "other", num_neurons=DRAWN, seed=1)
    assert data_of(other)["page_sha256"] != data_of(page)["page_sha256"]


def test_the_key_is_of_its_page(page):
    assert read_key(page.with_name(KEY_FILE)).page_sha256 == data_of(page)["page_sha256"]


def test_as_many_contexts_and_as_wide_of_every_run(runs, tmp_path):
    cut = {
        key: array[:, :3] if array.ndim == 2 else array[:, :3, 1:-1]
        for key, array in runs[1].report.arrays.items()
        if key.startswith("top_contexts/")
    }
    page = write_rating_page([runs[0], made_run("orthogonality", **cut)], tmp_path, num_neurons=4)
    assert unpacked(data_of(page))["tokens"].shape == (8, 3, 5)


def test_a_run_with_fewer_live_units_gives_all_of_them(runs, tmp_path):
    page = write_rating_page(runs[:1], tmp_path, num_neurons=1000)
    assert len(data_of(page)["ids"]) == LAYERS * (UNITS - 1)


def test_what_cannot_be_drawn_is_said_in_a_line(runs, tmp_path):
    bare = dataclasses.replace(runs[0], report=dataclasses.replace(runs[0].report, metric_settings={}))
    with pytest.raises(UserError, match="baseline-seed42: no unit has a top context"):
        write_rating_page([runs[1], bare], tmp_path)
    with pytest.raises(UserError, match="no run"):
        write_rating_page([], tmp_path)
    with pytest.raises(UserError, match="num_neurons = 0"):
        write_rating_page(runs, tmp_path, num_neurons=0)
    assert not list(tmp_path.iterdir())


# ---- the page at work --------------------------------------------------------------------------

EXPORT = """new Promise((done) => {
    URL.createObjectURL = (blob) => { blob.text().then(done); return "#"; };
    document.querySelector(".save").click();
})"""


@pytest.fixture
def opened(page):
    if browser.find_chromium() is None:
        pytest.skip("no chromium")
    with browser.open_page(page) as opened:
        yield opened


def test_it_opens_without_errors_or_requests(opened):
    assert opened.errors == [] and {request.split(":")[0] for request in opened.requests} == {"file"}
    assert opened.text("h2") == "Item 1"
    assert len(opened.evaluate("Array.from(document.querySelectorAll('.rating'), (node) => node.innerText)")) == 3


def test_keys_rate_and_go_on_and_undo_goes_back(opened):
    opened.press("1", "2", "3")
    assert opened.text("h2") == "Item 4"
    assert opened.text(".count") == f"3 of {3 * DRAWN} rated"
    opened.press("u")
    assert opened.text("h2") == "Item 3" and opened.text(".verdict") == ""
    assert opened.text(".count") == f"2 of {3 * DRAWN} rated"
    opened.press("ArrowLeft")
    assert opened.text("h2") == "Item 2" and opened.text(".verdict") == "polysemantic"
    opened.click("[data-rating=unclear]")  # a second thought, and on to the next that has none
    assert opened.text("h2") == "Item 3"
    opened.press("ArrowLeft")
    assert opened.text(".verdict") == "unclear"


def test_an_export_is_read_again_by_the_agreement(opened, page, tmp_path):
    opened.press("3", "1", "2")
    opened.click(".save")
    assert "name" in opened.text(".message")  # none without a name
    opened.evaluate("document.querySelector('#rater').focus()")
    opened.press("Ada 1")  # a digit in a field is no rating
    (tmp_path / "ada.json").write_text(opened.evaluate(EXPORT), encoding="utf-8")
    ratings = read_ratings(tmp_path / "ada.json")
    assert (ratings.rater, ratings.of_unit) == ("Ada 1", {"1": RATINGS[2], "2": RATINGS[0], "3": RATINGS[1]})
    assert ratings.page_sha256 == data_of(page)["page_sha256"]


def test_what_was_done_is_there_after_a_reload(opened):
    opened.press("1", "1")
    opened.reload_until("document.querySelector('h2').innerText === 'Item 3'")
    assert opened.text("h2") == "Item 3"
    assert opened.text(".count").startswith("2 of")


def test_a_browser_that_keeps_nothing_says_so_and_exports_all_the_same(opened, page):
    opened.before_scripts("Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } })")
    opened.go(page.as_uri())
    opened.press("2")
    assert "keeps nothing" in opened.text(".kept") and opened.errors == []
    opened.evaluate("document.querySelector('#rater').focus()")
    opened.press("Bo")
    assert json.loads(opened.evaluate(EXPORT))["ratings"] == [{"id": "1", "rating": "polysemantic"}]


OPEN = """(() => {
    const files = new DataTransfer(), input = document.querySelector("#open");
    files.items.add(new File([%s], "x.json"));
    input.files = files.files;
    input.dispatchEvent(new Event("change"));
})()"""


def test_an_export_can_be_gone_on_from(opened, page):
    head = {"schema": "hf_tti.ratings", "version": 1, "page_sha256": data_of(page)["page_sha256"], "rater": "Ada"}
    items = [
        {"id": "1", "rating": "unclear"},
        {"id": "no such", "rating": "unclear"},
        {"id": "2", "rating": "monosemantic"},
    ]
    opened.evaluate(OPEN % json.dumps(json.dumps({**head, "ratings": items})))
    opened.settle()
    assert opened.text(".count").startswith("2 of") and opened.text("h2") == "Item 3"
    assert opened.evaluate("document.querySelector('#rater').value") == "Ada"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("hello", "is not JSON"),
        ('{"schema": "other"}', "is not an export of ratings"),
        ('{"schema": "hf_tti.ratings", "page_sha256": "ab", "ratings": []}', "belongs to another page"),
    ],
)
def test_a_file_that_is_no_export_of_this_page_changes_nothing(opened, content, said):
    opened.press("1")
    opened.evaluate(OPEN % json.dumps(content))
    opened.settle()
    assert said in opened.text(".message") and opened.text(".count").startswith("1 of")


def test_all_rated_is_said(opened):
    opened.press(*"1" * (3 * DRAWN))
    assert opened.text(".count") == f"{3 * DRAWN} of {3 * DRAWN} rated"
    assert "All items are rated" in opened.text(".message")


@needs_chromium
def test_hostile_texts_run_nothing(tmp_path):
    run = made_run("baseline", **vocabulary_arrays({code: HOSTILE for code in range(40)}))
    with browser.open_page(write_rating_page([run], tmp_path, num_neurons=3)) as opened:
        assert opened.text("li").startswith("</script><img src=x")
        assert opened.evaluate("document.images.length") == 0
        assert opened.errors == [] and len(opened.requests) == 1


@needs_chromium
def test_a_narrow_page_does_not_scroll_sideways(page):
    with browser.open_page(page, width=390) as opened:
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390
