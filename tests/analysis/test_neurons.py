"""The neuron browser: what its pages hold is what the reports hold, and what a reader does in them."""

import base64
import dataclasses
import gzip
import json
import re
from pathlib import Path

import browser
import numpy as np
import pytest
from made_reports import CONTEXTS, TEXTS, made_report, make_runs

from analysis.html import security_policy, source, write_page
from analysis.neurons import SCRIPTS, STYLES, inline_neurons, page_name, read_neurons, sample, write_neuron_page
from analysis.runs import Run, find_runs
from hf_tti.errors import UserError
from hf_tti.report import vocabulary_arrays

UNITS, LAYERS = 24, 2
HOSTILE = "</script><img src=x onerror=\"document.title='run'\"><!--<script>"
needs_chromium = pytest.mark.skipif(browser.find_chromium() is None, reason="no chromium")


def made_run(name="baseline-seed42", **changes) -> Run:
    method, _, seed = name.partition("-seed")
    report = made_report(name, method, int(seed), layers=LAYERS, units=UNITS)
    report = dataclasses.replace(report, arrays={**report.arrays, **changes.pop("arrays", {})}, **changes)
    return Run(name=name, method=method, seed=int(seed), report=report)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return [made_run(), made_run("orthogonality-seed42"), made_run("selectivity-seed42")]


@pytest.fixture(scope="module")
def pages(runs, tmp_path_factory) -> dict[str, Path]:
    """A page with a sample of three runs, as the report has it, and the page of one run."""
    folder = tmp_path_factory.mktemp("pages")
    write_neuron_page(runs[0], folder / "one.html")
    names = {"name": "sample", "num_units": 1, "num_layers": 1}
    data = inline_neurons(runs, per_run=20, num_contexts=3)
    styles = ("report.css", *STYLES)
    write_page(folder / "many.html", "neuron_page.html.j2", styles=styles, scripts=SCRIPTS, data=data, **names)
    return {path.stem: path for path in folder.glob("*.html")}


def data_of(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="neuron-data">([^<]*)</script>', text)[1])


def unpacked(layer: dict) -> dict[str, np.ndarray]:
    raw, start, arrays = gzip.decompress(base64.b64decode(layer["data"])), 0, {}
    for name, dtype, shape in layer["arrays"]:
        array = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<"), int(np.prod(shape)), start)
        arrays[name], start = array.reshape(shape), start + array.nbytes
    assert start == len(raw)
    return arrays


# ---- data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_page_holds_every_unit_and_context_of_the_report(runs, pages, layer):
    report, data = runs[0].report, data_of(pages["one"])
    held = unpacked(data["runs"][0]["layers"][layer])
    stored = {name: report.arrays[f"top_contexts/{name}/layer_{layer}"] for name in ("values", "positions", "tokens")}
    np.testing.assert_array_equal(held["units"], np.arange(UNITS))
    np.testing.assert_array_equal(held["values"], stored["values"])
    np.testing.assert_array_equal(held["positions"], stored["positions"])
    texts, shown = report.token_texts(), np.array([None, *data["texts"]], dtype=object)
    expected = np.vectorize(lambda token: texts.get(token), otypes=[object])(stored["tokens"])
    np.testing.assert_array_equal(shown[held["tokens"]], expected)


def test_activations_are_within_half_a_step_of_the_reports(runs, pages):
    held = unpacked(data_of(pages["one"])["runs"][0]["layers"][1])
    stored = runs[0].report.arrays["top_contexts/activations/layer_1"].astype(np.float64)
    step = np.abs(stored).max(axis=2, keepdims=True) / 127
    error = np.abs(held["activations"] / 127 * held["scales"][:, :, None] - stored)
    assert (error <= step * 0.501).all()
    assert (stored < 0).any()


def test_measures_are_those_of_the_same_site_and_their_values_the_reports(runs):
    (first, _) = read_neurons(runs[0].report)
    assert set(first.measures) == {
        "max_activation",
        "same_token_share",
        "neuron_density/density",
        "selectivity/share",
    }  # polysemanticity is of mlp.out, though its array has as many entries; selectivity/classes is no float
    for name, values in first.measures.items():
        if "/" in name:
            np.testing.assert_array_equal(values, runs[0].report.arrays[f"{name}/layer_0"].astype(np.float32))
    np.testing.assert_array_equal(first.measures["max_activation"], first.values[:, 0])


def test_the_same_token_share_counts_the_commonest_own_token():
    run = made_run()
    tokens = np.array(run.report.arrays["top_contexts/tokens/layer_0"])
    middle = tokens.shape[2] // 2
    tokens[2, :, middle], tokens[3, :, middle] = [5, 6, 5, 5, 7], [1, 2, 3, 4, 5]
    share = next(read_neurons(made_run(arrays={"top_contexts/tokens/layer_0": tokens}).report)).measures[
        "same_token_share"
    ]
    assert share[2] == pytest.approx(3 / CONTEXTS)
    assert share[3] == pytest.approx(1 / CONTEXTS)
    assert np.isnan(share[0])  # it has no context


def test_a_concept_is_named_with_its_auroc_and_its_sign():
    names = np.frombuffer("token ‘the’\nin quotes".encode(), dtype=np.uint8)
    arrays = {"concept_auroc/concept_names": names}
    for layer in range(LAYERS):
        arrays[f"concept_auroc/auroc/layer_{layer}"] = np.linspace(0.5, 1, UNITS, dtype=np.float32)
        arrays[f"concept_auroc/concept/layer_{layer}"] = np.arange(UNITS, dtype=np.int32) % 2
        arrays[f"concept_auroc/sign/layer_{layer}"] = np.where(np.arange(UNITS) < 2, 1, -1).astype(np.int8)
    settings = {"concept_auroc": {"study": "concept_auroc", "sites": ["mlp.neurons"]}}
    run = made_run(arrays=arrays, metric_settings=made_run().report.metric_settings | settings)
    neurons = next(read_neurons(run.report))
    assert neurons.concepts[:4] == ["token ‘the’", "in quotes", "not token ‘the’", "not in quotes"]
    assert neurons.measures["concept_auroc/auroc"][-1] == 1
    layer = json.loads(inline_neurons([run], per_run=6))["runs"][0]["layers"][0]
    held = unpacked(layer)
    assert [layer["concepts"][code] for code in held["concept"]] == [neurons.concepts[unit] for unit in held["units"]]


def test_several_sites_are_kept_apart():
    report = made_run().report
    arrays = {key.replace("/layer_", "/mlp.out/layer_"): array for key, array in report.arrays.items()}
    settings = report.metric_settings | {
        label: {**report.metric_settings[label], "sites": ["mlp.neurons", "mlp.out"]}
        for label in ("top_contexts", "neuron_density")
    }
    run = made_run(arrays=arrays, metric_settings=settings)
    places = [(neurons.site, neurons.layer) for neurons in read_neurons(run.report)]
    assert places == [("mlp.neurons", 0), ("mlp.neurons", 1), ("mlp.out", 0), ("mlp.out", 1)]
    assert "neuron_density/density" in list(read_neurons(run.report))[2].measures


def test_a_sample_is_repeatable_live_and_as_large_as_asked(runs):
    layers = list(read_neurons(runs[0].report))
    first, again = sample(layers, 11, 2), sample(layers, 11, 2)
    assert [len(neurons.units) for neurons in first] == [6, 5]
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.units, two.units)
        assert one.live.all() and one.tokens.shape[1] == 2
        assert (np.diff(one.units) > 0).all()
    assert sample(layers, 11, 2, seed=1)[0].units.tolist() != first[0].units.tolist()
    assert sum(len(neurons.units) for neurons in sample(layers, 1000, 2)) == LAYERS * (UNITS - 1)


def test_runs_are_sampled_at_the_same_units(runs):
    drawn = [sample(list(read_neurons(run.report)), 12, 1)[0].units.tolist() for run in runs]
    assert drawn[0] == drawn[1] == drawn[2]  # the same units are dead in the three


def test_the_inline_data_is_the_same_twice_and_small(runs):
    first = inline_neurons(runs)
    assert first == inline_neurons(runs)
    assert len(inline_neurons(runs * 7)) < 1_500_000


def test_a_run_without_top_contexts_is_named_and_has_no_units(runs):
    bare = dataclasses.replace(runs[0], report=dataclasses.replace(runs[0].report, metric_settings={}))
    data = json.loads(inline_neurons([bare, runs[1]]))
    assert [len(run["layers"]) for run in data["runs"]] == [0, LAYERS]
    with pytest.raises(UserError, match="baseline-seed42: its report has no top contexts"):
        write_neuron_page(bare, Path("never.html"))


def test_data_cannot_leave_its_script_element():
    texts = {code: text for code, text in enumerate([HOSTILE, "\u2028\u2029", "&lt;", "\ud800", *TEXTS])}
    data = inline_neurons([made_run(arrays=vocabulary_arrays(texts))])
    assert not set("<>&\u2028\u2029") & set(data)
    assert HOSTILE in json.loads(data)["texts"]


def test_a_diverged_model_has_finite_shades():
    activations = np.array(made_run().report.arrays["top_contexts/activations/layer_0"])
    activations[3, 0, :2] = np.inf, np.nan
    data = json.loads(inline_neurons([made_run(arrays={"top_contexts/activations/layer_0": activations})]))
    assert np.isfinite(unpacked(data["runs"][0]["layers"][0])["scales"]).all()


@pytest.mark.parametrize(
    ("name", "expected"), [("a/b c", "a_b_c.html"), ("../up", "_up.html"), ("x-seed1", "x-seed1.html")]
)
def test_page_names_are_file_names(name, expected):
    assert page_name(Run(name=name, method=name, seed=None, report=made_run().report)) == expected


def test_reports_from_disk_do_as_well(tmp_path):
    (run,) = find_runs(make_runs(tmp_path, methods=("baseline",), seeds=(1,), layers=1, units=8))
    assert json.loads(inline_neurons([run], per_run=5))["runs"][0]["layers"][0]["size"] == 8


# ---- the page ----------------------------------------------------------------------------------


def test_the_policy_admits_the_pages_script_alone(pages):
    text = pages["one"].read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    assert security_policy(script).replace("'", "&#39;") in text
    assert all(source(name) in script for name in SCRIPTS)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


@needs_chromium
@pytest.mark.parametrize("page", ["one", "many"])
def test_a_page_opens_without_errors_or_requests(pages, page):
    with browser.open_page(pages[page]) as opened:
        assert opened.errors == []
        assert len(opened.requests) == 1
        assert "Unit 0/" in opened.text("h4")


@needs_chromium
def test_hostile_texts_run_nothing(tmp_path):
    texts = {code: HOSTILE for code in range(len(TEXTS))}
    run = made_run(f"{HOSTILE}-seed42".replace("/", "∕"), arrays=vocabulary_arrays(texts))
    write_neuron_page(run, tmp_path / "page.html")
    with browser.open_page(tmp_path / "page.html") as page:
        assert page.evaluate("document.title").startswith("<")
        assert page.evaluate("document.querySelectorAll('img, main script').length") == 1  # the data's own
        assert page.text(".context-text").startswith("</script><img src=x")
        assert page.errors == [] and len(page.requests) == 1


@needs_chromium
def test_the_address_says_what_is_shown(pages, runs):
    density = runs[1].report.arrays["neuron_density/density/layer_1"]
    units = next(iter(sample(list(read_neurons(runs[1].report)), 20, 3)[1:])).units
    fragment = f"#run=orthogonality-seed42&unit=1/{units[3]}&sort=neuron_density/density&dir=asc"
    with browser.open_page(f"{pages['many']}{fragment}") as page:
        assert page.text("h3") == "orthogonality-seed42"
        assert f"Unit 1/{units[3]}" in page.text("h4")
        listed = page.evaluate("Array.from(document.querySelectorAll('.unit .name'), (node) => node.innerText)")
        assert listed == [f"1/{unit}" for unit in units[np.argsort(density[units], kind="stable")]]


@needs_chromium
def test_units_without_a_value_come_last_either_way(pages):
    for direction in ("asc", "desc"):
        with browser.open_page(f"{pages['one']}#unit=0/5&sort=selectivity/share&dir={direction}") as page:
            values = page.evaluate("Array.from(document.querySelectorAll('.unit .value'), (node) => node.innerText)")
        assert values[-1] == "–" and "–" not in values[:-1]


@needs_chromium
def test_arrow_keys_move_and_a_slash_searches(pages):
    with browser.open_page(pages["one"]) as page:
        names = page.evaluate("Array.from(document.querySelectorAll('.unit .name'), (node) => node.innerText)")
        page.press("ArrowDown", "ArrowDown")
        assert f"Unit {names[2]}" in page.text("h4")
        page.press("ArrowUp")
        assert f"Unit {names[1]}" in page.text("h4")
        assert f"unit={names[1]}" in page.evaluate("location.hash")
        page.press("/", "1/7")
        assert "Unit 1/7" in page.text("h4")
        assert page.evaluate("document.activeElement.type") == "search"


@needs_chromium
def test_a_search_finds_the_units_whose_contexts_have_the_word(pages, runs):
    tokens = runs[0].report.arrays["top_contexts/tokens/layer_0"]
    texts = runs[0].report.token_texts() | {-1: ""}
    expected = {
        f"0/{unit}"
        for unit in range(UNITS)
        if any("queen" in "".join(texts[int(token)] for token in context) for context in tokens[unit])
    }
    assert 0 < len(expected) < UNITS
    with browser.open_page(f"{pages['one']}#q=Queen&unit=0/1") as page:
        names = page.evaluate("Array.from(document.querySelectorAll('.unit .name'), (node) => node.innerText)")
        assert set(names) == expected
        assert "queen" in page.text(".context.found")


@needs_chromium
def test_two_models_stand_side_by_side_and_the_most_alike_unit_is_found(tmp_path, runs):
    moved = {}  # the second model is the first with its units in another order
    order = np.r_[0, np.random.default_rng(0).permutation(np.arange(1, UNITS))]
    for name in ("values", "positions", "tokens", "activations"):
        for layer in range(LAYERS):
            key = f"top_contexts/{name}/layer_{layer}"
            moved[key] = runs[0].report.arrays[key][order]
    twins = [runs[0], made_run("orthogonality-seed42", arrays=moved)]
    data = inline_neurons(twins, per_run=1000, num_contexts=CONTEXTS)
    names = {"name": "twins", "num_units": 1, "num_layers": 1}
    write_page(tmp_path / "p.html", "neuron_page.html.j2", styles=STYLES, scripts=SCRIPTS, data=data, **names)
    with browser.open_page(f"{tmp_path / 'p.html'}#unit=1/9&b=orthogonality-seed42") as page:
        shown = page.evaluate("Array.from(document.querySelectorAll('h4'), (node) => node.innerText)")
        assert [text.strip() for text in shown] == ["Unit 1/9", f"Unit 1/{int(np.flatnonzero(order == 9)[0])}"]
        assert "shares 5 of 5 contexts" in page.text(".pane:last-child .about")
        page.press("ArrowDown")
        assert page.text(".pane:first-child .context") == page.text(".pane:last-child .context")


@needs_chromium
def test_tokens_are_shaded_by_sign_and_strength_and_the_peak_is_outlined(pages, runs):
    values = runs[0].report.arrays["top_contexts/values/layer_0"][4]
    activations = runs[0].report.arrays["top_contexts/activations/layer_0"][4].astype(float)
    code = """Array.from(document.querySelectorAll('.context'), (line) => Array.from(line.querySelectorAll('.token'),
        (node) => [(node.classList.contains('negative') ? -1 : 1) * (node.style.getPropertyValue('--strength') || 0),
                   node.classList.contains('peak')]))"""
    with browser.open_page(f"{pages['one']}#unit=0/4") as page:
        shown = page.evaluate(code)
    for index, line in enumerate(shown):
        real = activations[index][runs[0].report.arrays["top_contexts/tokens/layer_0"][4, index] >= 0]
        strengths = np.array([strength for strength, _ in line])
        np.testing.assert_allclose(strengths, np.clip(real / values[0], -1, 1), atol=0.011)
        assert sum(peak for _, peak in line) == 1


@needs_chromium
def test_a_narrow_page_does_not_scroll_sideways(pages):
    for name in ("one", "many"):
        fragment = "#b=selectivity-seed42" if name == "many" else ""
        with browser.open_page(f"{pages[name]}{fragment}", width=390) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
