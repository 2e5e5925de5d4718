"""Laws of a report: it comes back as it was, whole or not at all, and what is wrong with it is one line."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from safetensors import SafetensorError

from hf_tti import report as report_module
from hf_tti.errors import UserError
from hf_tti.report import DataFacts, LossShards, ModelFacts, Report, vocabulary_arrays

ARRAYS = {
    "density/layer_0": np.array([0.5, np.nan, 1.0]),
    "top/tokens/layer_0": np.arange(24, dtype=np.int32).reshape(2, 3, 4)[:, ::-1],
    "empty": np.zeros((0, 3), dtype=np.float32),
}


def a_report(**changes) -> Report:
    values = {
        "name": "baseline-seed1",
        "model": ModelFacts(
            source="runs/x/final",
            revision=None,
            commit=None,
            model_type="gpt2",
            num_parameters=12,
            weights_sha256="ab" * 32,
        ),
        "step": 300,
        "seed": 1,
        "recipe": {"experiment": "x", "training": {"learning_rate": 1e-3}},
        "data": DataFacts(
            name="synthetic_stories",
            fingerprint="cd" * 32,
            split="validation",
            num_tokens=1000,
            tokenizer_sha256="ef" * 32,
            settings={"block_size": 32},
        ),
        "metrics": {"loss": 1.25, "num_tokens": 990, "sparsity/mean": 0.1, "sparsity/layer_0": math.nan},
        "loss_shards": LossShards(loss_sums=[600.0, 637.5], num_tokens=[480, 510]),
        "nulls": {"random_init": {"loss": 6.1, "sparsity/mean": math.inf}, "rotated": {"sparsity/mean": 0.0}},
        "metric_facts": {"sparsity": {"greater_is_better": True, "summary": "share of small writes"}},
        "metric_settings": {"sparsity": {"metric": "activation_sparsity", "sites": ["mlp.neurons"], "threshold": 0.01}},
        "evaluation": {"batch_size": 8, "metric_batches": None},
        "versions": {"torch": "2.13.0"},
        "arrays": ARRAYS,
    }
    return Report(**{**values, **changes})


@pytest.fixture
def saved(tmp_path):
    return a_report().save(tmp_path / "deep" / "report")


def rewrite(folder, change) -> None:
    path = folder / "report.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_report_comes_back_as_it_was(saved):
    loaded = Report.load(saved)
    assert loaded == a_report()
    assert loaded.to_dict() == a_report().to_dict()
    assert loaded.arrays.keys() == ARRAYS.keys() and len(loaded.arrays) == 3
    for name, array in ARRAYS.items():
        assert loaded.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded.arrays[name], array)
    with pytest.raises(KeyError):
        loaded.arrays["nothing"]


def test_a_loaded_report_saved_again_is_the_same_bytes(saved, tmp_path):
    again = Report.load(saved).save(tmp_path / "again")
    for name in ("report.json", "arrays.safetensors"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


def test_without_arrays_there_are_none(tmp_path):
    assert dict(Report.load(a_report(arrays={}).save(tmp_path)).arrays) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_what_is_not_finite_is_null(tmp_path, value):
    folder = a_report(metrics={"loss": value}).save(tmp_path)
    assert json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)["metrics"] == {"loss": None}
    assert Report.load(folder).metrics == {"loss": None}


def test_a_report_is_found_by_its_folder_its_file_and_its_run(saved):
    want = Report.load(saved)
    assert Report.load(saved / "report.json") == Report.load(saved.parent) == Report.load(str(saved)) == want


def test_reading_loads_no_torch(saved):
    code = (
        "import sys; from hf_tti.report import Report; report = Report.load(sys.argv[1]);"
        "assert report.arrays['density/layer_0'].shape == (3,);"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_crash_between_the_files_leaves_no_report_that_loads(saved, monkeypatch):
    def crash(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(report_module, "write_text", crash)
    with pytest.raises(KeyboardInterrupt):
        a_report(name="other").save(saved)
    with pytest.raises(UserError, match="of another evaluation; run hf-tti evaluate again"):
        Report.load(saved)
    assert {path.name for path in saved.iterdir()} == {"report.json", "arrays.safetensors"}


def test_a_failure_while_writing_arrays_keeps_the_old_report(saved, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(report_module, "save_file", fail)
    with pytest.raises(OSError):
        a_report(name="other").save(saved)
    assert Report.load(saved) == a_report()
    assert {path.name for path in saved.iterdir()} == {"report.json", "arrays.safetensors"}


def test_arrays_that_cannot_be_written_are_one_line(saved, monkeypatch):
    def fail(*args, **kwargs):
        raise SafetensorError("I/O error: no space left")

    monkeypatch.setattr(report_module, "save_file", fail)
    with pytest.raises(UserError, match="cannot hold a report: I/O error: no space left"):
        a_report(name="other").save(saved)
    assert Report.load(saved) == a_report()


def truncated(name):
    def spoil(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-20])

    return spoil


SPOILED = {
    "no report": (lambda f: (f / "report.json").unlink(), r"holds no report \(report.json\); make one with"),
    "no arrays": (lambda f: (f / "arrays.safetensors").unlink(), "arrays.safetensors: missing; the report is incompl"),
    "torn report": (truncated("report.json"), "report.json: truncated or not JSON"),
    "torn arrays": (truncated("arrays.safetensors"), "arrays.safetensors: truncated or not a safetensors file"),
    "empty report": (lambda f: (f / "report.json").write_text(""), "report.json: truncated or not JSON"),
    "binary report": (lambda f: (f / "report.json").write_bytes(b"\xff\xfe\x00"), "report.json: cannot be read"),
    "a list": (lambda f: (f / "report.json").write_text("[]"), "report.json: not a report of hf-tti evaluate"),
    "something else": (lambda f: (f / "report.json").write_text('{"a": 1}'), "not a report of hf-tti evaluate"),
    "version": (
        lambda f: rewrite(f, lambda c: c.update(format_version=1)),
        "report.json: format version 1; this hf_tti reads 2",
    ),
    "missing key": (lambda f: rewrite(f, lambda c: c.pop("metrics")), "report.json: metrics: missing"),
    "missing fact": (lambda f: rewrite(f, lambda c: c["model"].pop("commit")), "report.json: model.commit: missing"),
    "unknown key": (lambda f: rewrite(f, lambda c: c.update(metrix={})), "report.json: metrix: unknown"),
    "facts": (lambda f: rewrite(f, lambda c: c.update(data=3)), "report.json: data: an object is wanted, not int"),
    "metrics": (lambda f: rewrite(f, lambda c: c.update(metrics=[1])), "metrics: an object is wanted, not list"),
    "text for a number": (
        lambda f: rewrite(f, lambda c: c["metrics"].update(loss="low")),
        "report.json: metrics.loss: 'low' is not a number",
    ),
    "edited": (lambda f: rewrite(f, lambda c: c["metrics"].update(loss=0.5)), "is of another evaluation"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_wrong_is_one_line(saved, case):
    spoil, message = SPOILED[case]
    spoil(saved)
    with pytest.raises(UserError, match=message) as caught:
        Report.load(saved)
    assert "\n" not in str(caught.value)


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="taken: cannot hold a report"):
        a_report().save(tmp_path / "taken")


def test_a_report_does_not_change(saved):
    with pytest.raises(dataclasses.FrozenInstanceError):
        Report.load(saved).step = 3


def test_token_texts_come_back_whatever_they_hold(tmp_path):
    texts = {7: " the", 3: "</script>", 50000: "\n", 9: "", 11: "\ufffd é 猫"}
    assert a_report().token_texts() == {}
    folder = a_report(arrays=vocabulary_arrays(texts)).save(tmp_path)
    assert Report.load(folder).token_texts() == texts


def test_files_of_studies_move_in_and_take_the_place_of_older_ones(tmp_path):
    for content in ("old", "new"):
        (tmp_path / "files" / "sae").mkdir(parents=True)
        (tmp_path / "files" / "sae" / f"{content}.json").write_text(content)
        a_report().save(tmp_path / "report", files=tmp_path / "files")
        assert not list((tmp_path / "files").iterdir())
    assert [path.name for path in (tmp_path / "report" / "sae").iterdir()] == ["new.json"]
    assert Report.load(tmp_path / "report") == a_report()
    a_report().save(tmp_path / "report", files=tmp_path / "files")
    assert not (tmp_path / "report" / "sae").exists()
