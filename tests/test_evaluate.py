"""Laws of `hf-tti evaluate`: training's numbers from the saved model, whatever it is named by, and one line for a
mistake.
"""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_tti import cli
from hf_tti.components import component_name, component_names, load_component
from hf_tti.data import DataConfig
from hf_tti.data._tokenizers import train_tokenizer
from hf_tti.errors import UserError
from hf_tti.evaluate import evaluate_checkpoint, weights_sha256
from hf_tti.loading import find_checkpoint
from hf_tti.measures import default_measures
from hf_tti.metrics.l0 import L0
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.report import Report
from hf_tti.run import train_run
from tiny import tiny_model
from tiny_runs import write_recipe

METRICS = {"sparse": {"metric": "activation_sparsity"}, "token_entropy": {}, "top_contexts": {"k": 4, "window": 2}}

PLAIN = {"metrics": list(METRICS), "nulls": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TTI_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def run(folder) -> Path:
    """A finished run of 4 steps, with checkpoints at 2 and 4; 15 documents of validation in batches of 4 rows."""
    training = {"max_steps": 4, "per_device_eval_batch_size": 4, "metric_batches": 2}
    recipe = write_recipe(folder, training=training, metrics=METRICS, callbacks={})
    train_run(expand_sweep(load_recipe(recipe))[0], folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def model_folder(folder, run) -> Path:
    """The trained model on its own, as somebody else would receive it."""
    return shutil.copytree(run / "final", folder / "received" / "model")


@pytest.fixture
def spoiled(model_folder, tmp_path) -> Path:
    return shutil.copytree(model_folder, tmp_path / "model")


def result_of(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def test_a_saved_run_measures_as_it_did_in_training(run):
    report = evaluate_checkpoint(run, metric_batches=2, **PLAIN)
    logged = {key.removeprefix("eval_"): value for key, value in result_of(run)["metrics"].items()}
    assert {"loss", "sparse/layer_1", "token_entropy/mean", "top_contexts/same_token_share/mean"} <= logged.keys()
    assert report.metrics == pytest.approx({key: logged[key] for key in report.metrics}, abs=1e-6)
    assert logged.keys() - report.metrics.keys() <= {"epoch"}
    assert report.evaluation["batch_size"] == 4


def test_metrics_see_every_batch_unless_told_otherwise(run):
    two, every = evaluate_checkpoint(run, metric_batches=2, **PLAIN), evaluate_checkpoint(run, **PLAIN)
    assert two.metrics["loss"] == every.metrics["loss"]
    assert two.metrics["token_entropy/unigram/mean"] != every.metrics["token_entropy/unigram/mean"]


def test_the_batch_size_changes_no_value(run):
    want, got = evaluate_checkpoint(run, **PLAIN), evaluate_checkpoint(run, batch_size=3, **PLAIN)
    assert got.metrics == pytest.approx(want.metrics, rel=1e-4)
    assert got.loss_shards.num_tokens == want.loss_shards.num_tokens
    assert got.loss_shards.loss_sums == pytest.approx(want.loss_shards.loss_sums, rel=1e-5)


def test_a_report_says_what_was_measured(run):
    report, result = evaluate_checkpoint(run, **PLAIN), result_of(run)
    recipe = load_recipe(run / "recipe.yaml")
    assert (report.name, report.step, report.seed) == ("tiny-seed7", 4, 7)
    assert report.recipe == recipe.to_dict()
    assert report.versions == result["versions"]
    assert report.model.model_type == "gpt2" and report.model.num_parameters == result["num_parameters"]
    assert report.model.commit is None and report.model.revision is None
    assert report.data.name == "text_files" and report.data.split == "validation"
    assert report.data.num_tokens > report.metrics["num_tokens"] > 0
    assert report.metric_settings == {
        "sparse": {"metric": "activation_sparsity", "sites": ["mlp.neurons"], "threshold": 0.01},
        "token_entropy": {"metric": "token_entropy", "sites": ["mlp.out"], "null": False},
        "top_contexts": {"metric": "top_contexts", "sites": ["mlp.neurons"], "k": 4, "window": 2},
    }
    assert report.evaluation == {
        "batch_size": 4,
        "metric_batches": None,
        "excluded_token_ids": [],
        "dtype": "float32",
        "device": "cpu",
        "nulls": [],
        "sample": None,
        "reference": None,
    }
    assert report.metric_facts["sparse"]["greater_is_better"] is True
    assert report.metric_facts["sparse"]["summary"].startswith("Activation sparsity: ")
    assert report.arrays["top_contexts/tokens/layer_1"].shape == (64, 4, 5)


@pytest.mark.parametrize(
    ("name", "step"), [("run", 4), ("run/final", 4), ("run/checkpoint-4", 4), ("run/checkpoint-2", 2)]
)
def test_every_folder_of_a_run_is_a_checkpoint_with_its_recipe(folder, run, name, step):
    place = find_checkpoint(folder / name)
    assert place.step == step and place.recipe.metrics == METRICS
    report, final = evaluate_checkpoint(folder / name, **PLAIN), evaluate_checkpoint(run, **PLAIN)
    same = step == 4
    assert (report.metrics == final.metrics) == same
    assert (report.model.weights_sha256 == final.model.weights_sha256) == same
    assert report.data == final.data


def test_where_reports_go_by_default(folder, run, model_folder):
    def goes(path) -> Path:
        return find_checkpoint(path).default_out

    assert goes(run) == goes(f"{run}/") == run / "report"
    assert goes(run / "checkpoint-2") == Path("reports/tiny-seed7-checkpoint-2")
    assert goes(model_folder) == Path("reports/model")


def test_excluded_tokens_are_those_of_training(folder, run):
    shutil.copytree(run, folder / "excluding")
    path = folder / "excluding" / "recipe.yaml"
    path.write_text(path.read_text().replace("  metric_batches: 2", "  metric_batches: 2\n  excluded_token_ids: [0]"))
    with_eos, without = evaluate_checkpoint(run, **PLAIN), evaluate_checkpoint(folder / "excluding", **PLAIN)
    assert without.evaluation["excluded_token_ids"] == [0]
    assert without.metrics["loss"] == with_eos.metrics["loss"]
    assert not (without.arrays["top_contexts/tokens/layer_0"] == 0).any()
    assert (with_eos.arrays["top_contexts/tokens/layer_0"] == 0).any()


def test_a_model_without_a_recipe_is_measured_by_everything_on_generated_stories(model_folder):
    report = evaluate_checkpoint(model_folder, max_tokens=300, sample_tokens=600, nulls=[])
    assert report.recipe is None and report.step is None and report.seed is None
    assert report.data.name == "synthetic_stories"
    assert report.data.settings == {"block_size": 32, "max_validation_tokens": 300}
    assert 300 <= report.data.num_tokens < 332
    studies = [name for name in component_names("studies") if load_component("studies", name).by_default]
    assert list(report.metric_settings) == [*component_names("metrics"), *studies]
    assert {f"{name}/mean" for name in report.metric_settings} <= report.metrics.keys()
    assert report.evaluation["sample"]["labels"] == "synthetic_stories"
    assert 500 < report.evaluation["sample"]["num_tokens"] <= 600


def test_a_recipe_comes_first_and_built_in_measures_fill_in_what_it_lacks(run):
    recipe = load_recipe(run / "recipe.yaml")
    measures = default_measures(recipe)
    assert list(measures.metrics)[: len(METRICS)] == list(METRICS)
    assert measures.metrics["top_contexts"].k == 4 and "activation_sparsity" not in measures.metrics
    used = {component_name(type(metric)) for metric in measures.metrics.values()}
    assert used == set(component_names("metrics"))
    own = dataclasses.replace(recipe, metrics={}, studies={"pos": {"study": "linear_probe"}})
    assert list(default_measures(own).metrics)[:2] == ["sparsity", "polysemanticity"]
    assert list(default_measures(own).studies)[0] == "pos" and "linear_probe" not in default_measures(own).studies


def test_metrics_are_labels_of_the_recipe_or_built_in_or_ones_own(run):
    report = evaluate_checkpoint(run, metrics=["l0", "top_contexts", "hf_tti.metrics.l0:L0"], nulls=[])
    assert report.metric_settings["top_contexts"]["k"] == 4
    assert report.metrics["l0/mean"] == report.metrics["hf_tti.metrics.l0:L0/mean"]
    mine = evaluate_checkpoint(run, metrics={"mine": L0(sites=("resid",))}, nulls=[])
    assert mine.metric_settings["mine"]["sites"] == ["resid"] and "mine/layer_1" in mine.metrics


def documents(folder: Path) -> list[str]:
    return [json.loads(line)["text"] for line in (folder / "stories.jsonl").read_text().splitlines()]


def test_a_file_of_text_is_measured_whole_and_a_folder_by_its_validation_files(folder, run, tmp_path):
    texts = documents(folder)[:20]
    file = tmp_path / "all.txt"
    file.write_text("<|endoftext|>".join(texts))
    whole = evaluate_checkpoint(run, data=str(file), metrics=[], nulls=[])
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "train.txt").write_text("a big tree")
    shutil.copy(file, tmp_path / "both" / "val.txt")
    assert evaluate_checkpoint(run, data=str(tmp_path / "both"), metrics=[], nulls=[]).metrics == whole.metrics
    (tmp_path / "both" / "train.txt").rename(tmp_path / "both" / "more.txt")
    more = evaluate_checkpoint(run, data=str(tmp_path / "both"), metrics=[], nulls=[])
    assert more.data.num_tokens > whole.data.num_tokens > 20 * 30
    assert whole.data.settings["block_size"] == 32
    bounded = evaluate_checkpoint(run, data=str(file), metrics=[], nulls=[], max_tokens=64)
    assert bounded.data.num_tokens == 64
    given = DataConfig(name="text_files", train=str(file), validation=str(file), block_size=32)
    assert evaluate_checkpoint(run, data=given, metrics=[], nulls=[]).data.fingerprint == whole.data.fingerprint


def test_a_model_of_the_hub_is_pinned_to_its_commit(model_folder, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--someone--tiny"
    shutil.copytree(model_folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "step300").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place = find_checkpoint("someone/tiny", "step300")
    assert place.default_out == Path("reports/someone-tiny-step300")
    report = evaluate_checkpoint(place, metrics=["l0"], nulls=[], max_tokens=100)
    assert (report.model.source, report.model.revision) == ("someone/tiny", "step300")
    assert (report.model.commit, report.step) == (commit, 300)
    local = evaluate_checkpoint(model_folder, metrics=["l0"], nulls=[], max_tokens=100)
    assert report.metrics == local.metrics
    assert report.model.weights_sha256 == local.model.weights_sha256


def test_the_weights_fingerprint_is_of_the_values():
    model = tiny_model()
    before = weights_sha256(model)
    assert weights_sha256(tiny_model()) == before != weights_sha256(tiny_model(seed=1))
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.bias[3] += 1e-6
    assert weights_sha256(model) != before


def test_the_command_writes_the_report_that_loads(run, capsys, tmp_path):
    plain = ["--metrics", ",".join(METRICS), "--nulls", "rotated"]
    assert cli.main(["evaluate", str(run), "--metric-batches", "2", *plain]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith("tiny-seed7, ") and printed.out.endswith(f"report in {run / 'report'}\n")
    assert {"perplexity", "sparse", "token_entropy", "top_contexts", "rotated"} <= set(printed.out.split())
    report = Report.load(run)
    want = evaluate_checkpoint(run, metric_batches=2, metrics=list(METRICS), nulls=["rotated"])
    assert report == want
    for name, array in want.arrays.items():
        assert torch.equal(torch.from_numpy(report.arrays[name]).nan_to_num(), torch.from_numpy(array).nan_to_num())
    options = ["--metrics", "perplexity,l0,sparse", "--max-tokens", "64", "--batch-size", "2", "--nulls", "none"]
    options += ["--out", str(tmp_path / "out")]
    assert cli.main(["evaluate", str(run / "checkpoint-2"), *options]) == 0
    other = Report.load(tmp_path / "out")
    assert (other.step, list(other.metric_settings), other.data.num_tokens) == (2, ["l0", "sparse"], 64)


# ---- Mistakes ----------------------------------------------------------------------------------


def without_a_weight(path: Path) -> None:
    file = path / "model.safetensors"
    weights = load_file(file)
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, file, metadata={"format": "pt"})


def with_another_shape(path: Path) -> None:
    file = path / "model.safetensors"
    save_file({**load_file(file), "transformer.ln_f.bias": torch.zeros(3)}, file, metadata={"format": "pt"})


def truncated(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def with_larger_tokenizer(path: Path) -> None:
    train_tokenizer(["a fox sees owls by the lake while twelve herons fish"] * 9, 290).save_pretrained(path)


def with_smaller_tokenizer(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    file = path / "model.safetensors"
    weights = load_file(file)
    rows = weights["transformer.wte.weight"]
    save_file({**weights, "transformer.wte.weight": rows.repeat(3, 1)}, file, metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps({**config, "vocab_size": 3 * len(rows)}))


def without_tokenizer(path: Path) -> None:
    for file in path.glob("tokenizer*"):
        file.unlink()


SPOILED = {
    "a weight": (without_a_weight, "model: its weights lack 1 tensors, transformer.h.1.mlp.c_fc.weight among them"),
    "a shape": (with_another_shape, r"model: transformer.ln_f.bias is \[3\] in the weights, \[16\] in config.json"),
    "truncated": (truncated, "model: cannot load the model: .*incomplete metadata"),
    "weights": (
        lambda p: (p / "model.safetensors").unlink(),
        "model: cannot load the model: .*no file named mod",
    ),
    "config": (lambda p: (p / "config.json").write_text("{"), "model: config.json: not JSON"),
    "no config": (lambda p: (p / "config.json").unlink(), r"model: holds no model \(config.json\) and no run"),
    "tokenizer": (without_tokenizer, "model: holds no tokenizer; save the model's own beside it"),
    "a small vocabulary": (with_smaller_tokenizer, r"model: its tokenizer has 280 tokens, its model a vocab.* of 840"),
    "vocabulary": (with_larger_tokenizer, r"model: its tokenizer has 290 tokens, its model a vocabulary of 280"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_model_that_would_not_be_itself_is_one_line(spoiled, case, capsys):
    spoil, message = SPOILED[case]
    spoil(spoiled)
    with pytest.raises(UserError, match=message) as caught:
        evaluate_checkpoint(spoiled, max_tokens=64)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_an_unfinished_run_names_its_checkpoint(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(UserError, match="unfinished run; finish it with --resume, or name .*checkpoint-4"):
        find_checkpoint(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    with pytest.raises(UserError, match="unfinished run; train it first"):
        find_checkpoint(tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN", "--metrics", "top_context"], "--metrics top_context: unknown (did you mean 'top_contexts'?)"),
        (["RUN", "--metrics", "spars"], "(did you mean 'sparse'?)"),
        (["RUN", "--metrics", "gone.module:X"], "metrics: cannot import 'gone.module'"),
        (["RUN", "--data", "tinystory"], "no corpus (did you mean 'tinystories'?)"),
        (["RUN", "--data", "."], "--data: no .json, .jsonl, .parquet, .txt file in the folder"),
        (["RUN", "--data", "empty.txt"], "data.validation: no text in 'empty.txt'"),
        (["RUN", "--nulls", "rotation"], "--nulls rotation: unknown (did you mean 'rotated'?)"),
        (["RUN", "--nulls", ""], "--nulls '': a name is empty"),
        (["RUN", "--metrics", "l0,,sparse"], "--metrics 'l0,,sparse': a name is empty"),
        (["RUN", "RUN", "--out", "x"], "--out x: one folder for 2 checkpoints"),
        (
            ["RUN/final", "RUN/final/../final"],
            "would both be reported in reports/tiny-seed7-final; name --out for each",
        ),
        (["RUN", "--revision", "main"], "revisions are of Hub ids"),
        (["RUN/recipe.yaml"], "a file; name its folder"),
        (["./RUM"], "./RUM: no such folder (did you mean 'RUN'?)"),
        (["no/such-model"], "no/such-model: no such folder, and not on the Hub either: "),
        (["RUN/final-1"], "RUN/final-1: no such folder (did you mean 'final'?), and not on the Hub either: "),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(run, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RUN").symlink_to(run)
    if "empty.txt" in words:
        (tmp_path / "empty.txt").write_text(" \n")
    assert cli.main(["evaluate", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "taken"], "taken: cannot hold a report: taken is a file"),
        (["--out", "taken/below"], "taken/below: cannot hold a report: taken is a file"),
        (["--labels", "gone.jsonl"], "labels: no file"),
        (["--metrics", "sae_quality"], "sae_quality: sae-lens is not installed"),
        (["--metrics", "linear_probe"], "linear_probe: scikit-learn is not installed"),
    ],
)
def test_a_mistake_is_found_before_the_model_reads_a_token(run, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_tti.passes.Stream.measure", lambda *_: pytest.fail("measured first"))
    for library in ("sae_lens", "sklearn"):
        monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "taken").write_text("")
    assert cli.main(["evaluate", str(run), "--max-tokens", "64", "--metrics", "cka", *words]) == 2
    assert message.replace("taken is", f"{tmp_path / 'taken'} is") in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == ""


def test_what_is_not_finite_is_named(spoiled, tmp_path, capsys):
    file = spoiled / "model.safetensors"
    weights = load_file(file)
    weights["transformer.h.1.mlp.c_fc.weight"][0, 0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    words = ["--metrics", "correlation", "--nulls", "none", "--max-tokens", "64", "--out", str(tmp_path / "out")]
    assert cli.main(["evaluate", str(spoiled), *words]) == 0
    complaint = capsys.readouterr().err
    assert complaint.startswith("model: no finite value for ") and "loss, perplexity" in complaint
    assert len(complaint.splitlines()) == 1


def test_names_may_stand_apart(run, tmp_path):
    words = ["--metrics", "l0, sparse", "--nulls", "rotated, random_init", "--max-tokens", "64"]
    assert cli.main(["evaluate", str(run), *words, "--out", str(tmp_path / "out")]) == 0
    report = Report.load(tmp_path / "out")
    assert (list(report.metric_settings), set(report.nulls)) == (["l0", "sparse"], {"rotated", "random_init"})


def test_rows_of_one_token_are_nothing_to_predict(run, tmp_path, monkeypatch):
    (tmp_path / "one.txt").write_text("a")
    monkeypatch.setattr("hf_tti.data._packing.tokenize", None)
    monkeypatch.setattr("hf_tti.data._prepare.tokenize", lambda texts, tokenizer: ([5] for _ in texts))
    with pytest.raises(UserError, match="text_files: no token to predict: every row holds a single token"):
        evaluate_checkpoint(run, data=str(tmp_path / "one.txt"), metrics=["l0"], cache_dir=tmp_path)
