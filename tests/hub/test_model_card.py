"""Laws of what a colleague finds on the Hub: a card that the Hub takes, the model's logits, nothing of this machine."""

import dataclasses
import importlib.metadata
import json
import re
import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from fakes.hub import fake_hub
from fakes.hub_client import point_client_at
from hf_tti.errors import UserError
from hf_tti.evaluate import evaluate_checkpoint
from hf_tti.hub import push_run, side_files, snippets
from hf_tti.hub.card import card_files
from hf_tti.hub.files import check_files, model_files
from hf_tti.hub.remote import Remote
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.report import Report
from hf_tti.run import train_run
from hf_tti.run_folder import RunFolder
from tiny_runs import write_recipe

REPO = "me/tiny-seed7"
HOSTILE = (
    "---\nlicense: mit\n---\n</details><script>alert(1)</script> ![x](http://evil/x) | ``` \u202e <img src=x onerror=y>"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made here")
    training = {"max_steps": 4, "save_steps": 2, "eval_steps": 2}
    (recipe,) = expand_sweep(load_recipe(write_recipe(folder, training=training)))
    run = folder / "runs" / "tiny-seed7"
    train_run(recipe, run, command=f"hf-tti train {folder}/tiny.yaml")
    evaluate_checkpoint(run, metrics=["token_entropy", "l0"], reference=run).save(run / "report")
    return run


@pytest.fixture
def run(trained, tmp_path) -> RunFolder:
    """A copy of its own."""
    return RunFolder(Path(shutil.copytree(trained, tmp_path / "runs" / trained.name)))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub() as hub:
        point_client_at(hub, monkeypatch, tmp_path / "cache")
        yield hub


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Without what others install."""
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [])


def push(run: RunFolder, revision: str = "main") -> None:
    folder = run.final if revision == "main" else run.path / f"checkpoint-{revision[4:]}"
    files = {**model_files(folder), **card_files(run, REPO, revision=revision)}
    Remote(REPO, private=True).push(revision, files, revision)


def text_of(files, path: str = "README.md") -> str:
    content = files[path]
    return (content if isinstance(content, bytes) else content.read_bytes()).decode()


def body_of(card: str) -> str:
    return re.fullmatch(r"---\n.*?\n---\n(.*)", card, re.DOTALL)[1]


def test_the_hub_takes_the_card_and_its_results_are_the_reports(hub, run):
    push(run)
    card = ModelCard.load(REPO)
    if int(huggingface_hub.__version__.partition(".")[0]) >= 2:  # before, it asks huggingface.co whatever the endpoint
        card.validate()
        assert "/api/validate-yaml" in [request.path for request in hub.requests]
    report = Report.load(run.path)
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found == {
        "Cross-entropy (nats per token)": report.metrics["loss"],
        "Perplexity": report.metrics["perplexity"],
        "token_entropy/mean": report.metrics["token_entropy/mean"],
        "l0/mean": report.metrics["l0/mean"],
    }
    assert (card.data.library_name, card.data.license) == ("transformers", None)
    assert not hub.unknown


def test_logits_of_what_is_downloaded_are_the_local_ones(hub, run):
    ids = torch.arange(24).reshape(2, 12)
    for revision, folder in (("main", run.final), ("step2", run.path / "checkpoint-2")):
        push(run, revision)
        theirs = AutoModelForCausalLM.from_pretrained(REPO, revision=revision)
        ours = AutoModelForCausalLM.from_pretrained(folder)
        assert torch.equal(theirs(ids).logits, ours(ids).logits)


def test_the_lines_for_transformers_do_what_they_say(hub, run, capsys):
    push(run)
    code = snippets.in_transformers(REPO, positions=32)
    assert code in text_of(card_files(run, REPO))
    exec(code, {})
    assert capsys.readouterr().out.startswith("Once upon a time")


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_lines_for_other_tools_are_python_and_only_those_that_hold(model_type):
    found = snippets.in_other_tools(REPO, model_type, ["h.1/seed_0"] * (model_type == "gpt2"))
    for code in found.values():
        compile(code, "<snippet>", "exec")
        assert "{" not in code.replace("{folder}", "") or "folder" in code
    assert ("TransformerLens 3" in found, any("SAELens" in title for title in found)) == (model_type == "gpt2",) * 2


def test_nothing_of_this_machine_leaves_it(trained):
    run = RunFolder(trained)
    for revision in ("main", "step2"):
        files = card_files(run, REPO, revision=revision)
        check_files(files)
        for path in files:
            content = files[path] if isinstance(files[path], bytes) else files[path].read_bytes()
            assert str(trained.parents[1]).encode() not in content, path
            assert b"hf-tti train " not in content.replace(b"hf-tti train tiny.yaml", b"")
    report = json.loads(text_of(card_files(run, REPO), "report/report.json"))
    assert (report["model"]["source"], report["evaluation"]["reference"]) == (REPO, "tiny-seed7")
    assert report["recipe"]["data"]["train"] == "stories.jsonl"


def test_the_report_that_leaves_has_the_reports_values_and_arrays(run, tmp_path):
    for path, content in card_files(run, REPO).items():
        if path.startswith("report/"):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(content)
    ours, theirs = Report.load(run.path), Report.load(tmp_path)
    assert (theirs.metrics, theirs.nulls, theirs.loss_shards) == (ours.metrics, ours.nulls, ours.loss_shards)
    assert theirs.model.weights_sha256 == ours.model.weights_sha256
    assert set(theirs.arrays) == set(ours.arrays) and theirs.token_texts() == ours.token_texts()


def test_large_arrays_stay_here(run, monkeypatch, tmp_path):
    monkeypatch.setattr(side_files, "MAX_ARRAYS", 10)
    files = card_files(run, REPO)
    assert "report/report.json" in files and "report/arrays.safetensors" not in files
    (tmp_path / "report.json").write_bytes(files["report/report.json"])
    assert Report.load(tmp_path, need_arrays=False).metrics == Report.load(run.path).metrics


def test_the_recipe_that_leaves_is_the_recipe(run, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text_of(card_files(run, REPO), "recipe.yaml"))
    theirs, ours = load_recipe(path), run.recipe()
    for section in ("model", "training", "objectives", "metrics", "callbacks"):
        assert getattr(theirs, section) == getattr(ours, section)
    assert theirs.data == {**ours.data, "train": "stories.jsonl"}
    assert text_of(card_files(run, REPO), "recipe.yaml") in text_of(card_files(run, REPO))


def test_the_same_run_has_the_same_card(run):
    first, again = card_files(run, REPO), card_files(run, REPO)
    assert first == again


def test_the_card_of_a_step_says_what_was_known_then(run):
    finished = card_files(run, REPO, revision="step2")
    card = text_of(finished)
    logged = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    (loss,) = [line["eval_loss"] for line in logged if line["step"] == 2 and "eval_loss" in line]
    assert f"{loss:.4f}" in card and "after optimizer step 2 of 4" in card
    assert "model-index" not in card  # of the end of training
    for name in ("final", "report"):
        shutil.rmtree(run.path / name)
    (run.path / "result.json").unlink()
    (run.path / "checkpoint-2").rename(run.path / "elsewhere")
    shutil.copytree(run.path / "elsewhere", run.path / ".push" / "step2")  # as rotation leaves it
    assert card_files(run, REPO, revision="step2") == finished


def test_everything_that_was_promised_is_in_the_card(run):
    card = text_of(card_files(run, REPO))
    report = Report.load(run.path)
    for part in (
        "A GPT-2 with 2 layers of width 16",
        "trained from scratch for 4 optimizer steps",
        "**orthogonality** (weight 0.1)",
        "mean over i \\!= j of",  # its definition
        f"{report.metrics['loss']:.4f}",
        "| random weights |",
        "shuffled labels",
        "AutoModelForCausalLM.from_pretrained",
        "TransformerBridge.boot_transformers",
        "convert_gpt2_weights",
        "nnsight",
        f"hf-tti evaluate {REPO}",
        "they are to lie beside the recipe: stories.jsonl",
        "n_layer: 2",
        "@software{hf_tti,",
        f"version = {{{importlib.metadata.version('hf-tti')}}}",
        "## What the numbers do not say",
        "## Licence\n\nNone was chosen",
        report.model.weights_sha256,
        report.data.fingerprint,
    ):
        assert part in card, part
    assert "author" not in card and "doi" not in card.lower()
    assert "SAELens 6, with" not in card  # there are no SAEs


def test_only_branches_that_are_there_are_shown_how_to_load(hub, run):
    recipe = run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text() + f"hub:\n  push: steps\n  repo: {REPO}\n")
    assert "revision=" not in text_of(card_files(run, REPO))
    shutil.rmtree(run.path / "checkpoint-2")  # as rotation would
    for _ in range(2):
        push_run(run, REPO)
        card = hub.repos[REPO].branches["main"]["README.md"].decode()
        assert f'from_pretrained("{REPO}", revision="step4")' in card and 'revision="step2"' not in card
    assert len(hub.repos[REPO].history("main")) == 2


def test_the_lines_of_a_steps_card_stand_alone(hub, run):
    push(run, "step2")
    (code,) = re.findall(r"```python\n(.*?)```", text_of(card_files(run, REPO, revision="step2")), re.DOTALL)
    names = {}
    exec(code, names)
    assert torch.equal(names["model"].transformer.wte.weight, weights_of(run.path / "checkpoint-2"))


def weights_of(folder: Path) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder).transformer.wte.weight


def test_a_report_of_other_weights_is_not_shown_as_this_models(run):
    of_step = evaluate_checkpoint(run.path / "checkpoint-2", metrics=["l0"], nulls=[])
    of_final = Report.load(run.path)
    of_another = dataclasses.replace(
        of_final, model=dataclasses.replace(of_final.model, weights_sha256="0" * 64), arrays=dict(of_final.arrays)
    )
    for report, words in ((of_step, "step 2, and training ended at step 4"), (of_another, "other weights than those")):
        report.save(run.path / "report")
        with pytest.raises(UserError, match=words) as error:
            card_files(run, REPO)
        assert str(run.path / "report" / "report.json") in str(error.value) and "hf-tti evaluate" in str(error.value)


def test_a_push_shows_no_bars(hub, run, capfd, monkeypatch):
    for name in ("huggingface_hub.utils.tqdm", "transformers.utils.logging"):  # as where nobody turned them off
        if "HF_HUB_DISABLE_PROGRESS_BARS" in vars(sys.modules[name]):
            monkeypatch.setattr(sys.modules[name], "HF_HUB_DISABLE_PROGRESS_BARS", None)
    sys.modules["transformers.utils.logging"].enable_progress_bar()
    capfd.readouterr()
    push_run(run, REPO)
    assert capfd.readouterr() == ("", "")


def test_a_report_on_other_text_names_the_text(run):
    own = text_of(card_files(run, REPO))
    assert "of the validation split of its own corpus" in own and "Evaluated on other text" not in own
    whale = run.path.parent / "whale.txt"
    whale.write_text("the cat saw a big red ball\n" * 40)
    report = evaluate_checkpoint(run.path, data=str(whale), metrics=["l0"], nulls=[])
    report.save(run.path / "report")
    card = text_of(card_files(run, REPO))
    what = f"(whale.txt), validation split, {report.data.num_tokens:,} tokens"
    assert "Evaluated on other text than it was trained on: " in card and card.count(what) == 3
    assert "its own corpus" not in card and str(run.path.parent) not in card


def test_a_model_of_one_layer_has_one_layer(run):
    config = run.final / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "n_layer": 1}))
    shutil.rmtree(run.path / "report")
    assert "A GPT-2 with 1 layer of width 16" in text_of(card_files(run, REPO))


def test_bibtex_takes_the_title(run):
    assert re.search(r"title = \{hf\\_tti: ", text_of(card_files(run, REPO)))


def test_a_chosen_licence_is_in_the_header_and_at_the_end(run):
    recipe = run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "hub:\n  license: apache-2.0\n")
    card = text_of(card_files(run, REPO))
    assert ModelCard(card).data.license == "apache-2.0"
    assert card.rstrip().partition("## Licence\n\n")[2].startswith("apache-2.0, as its recipe says")


def test_a_run_that_was_not_evaluated_says_so(run):
    shutil.rmtree(run.path / "report")
    files = card_files(run, REPO)
    card = text_of(files)
    assert "not evaluated yet" in card and "report/report.json" not in files
    assert f"{run.result()['metrics']['eval_loss']:.4f}" in card
    assert "eval_results" not in ModelCard(card).data.to_dict() and "model-index" not in card


def test_without_analysis_the_values_stand_alone_and_it_is_said(run):
    card = text_of(card_files(run, REPO))
    assert "no intervals and no pictures" in card and "<img" not in card


def test_saes_are_named_after_the_model_of_the_hub(run):
    folder = run.path / "report" / "sae" / "h.0" / "seed_0"
    folder.mkdir(parents=True)
    metadata = {"model_name": str(run.final), "hook_name": "transformer.h.0"}
    (folder / "cfg.json").write_text(json.dumps({"d_in": 16, "metadata": metadata}))
    (folder / "sae_weights.safetensors").write_bytes(b"weights")
    (run.path / "report" / "sae" / "h.1" / "seed_0").mkdir(parents=True)  # not whole
    files = card_files(run, REPO)
    check_files(files)
    config = json.loads(files["sae/h.0/seed_0/cfg.json"])
    assert config["metadata"] == {"model_name": REPO, "hook_name": "transformer.h.0"}
    assert [path for path in files if path.startswith("sae/")] == [
        "sae/h.0/seed_0/cfg.json",
        "sae/h.0/seed_0/sae_weights.safetensors",
    ]
    assert 'SAE.load_from_disk(f"{folder}/sae/h.0/seed_0")' in text_of(files)


def test_text_of_recipes_and_models_stays_text(run):
    markdown_it = pytest.importorskip("markdown_it")
    path = run.path / "recipe.yaml"
    content = yaml.safe_load(path.read_text())
    content["question"] = HOSTILE.replace("\u202e", "")  # which no recipe may hold
    content["callbacks"]["generate_stories"]["prompt"] = content["question"]
    path.write_text(yaml.safe_dump(content))
    (run.path / "stories.txt").write_text(f"--- 1\n{HOSTILE}\n```\n{HOSTILE}\n")
    report = Report.load(run.path)
    facts = {label: {**of, "summary": HOSTILE} for label, of in report.metric_facts.items()}
    dataclasses.replace(report, metric_facts=facts, arrays=dict(report.arrays)).save(run.path / "report")
    plain = ModelCard(text_of(card_files(RunFolder(run.path), REPO)))
    assert plain.data.license is None
    render = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render
    for revision in ("main", "step2"):
        page = render(body_of(text_of(card_files(run, REPO, revision=revision))))
        tags = set(re.findall(r"<(\w+)", page))
        assert tags <= set(
            "h1 h2 p table thead tbody tr th td strong blockquote ul li details summary pre code".split()
        )
        assert "\u202e" not in page and page.count("<details>") == page.count("</details>")
        assert re.sub(r"<pre><code.*?</code></pre>", "", page, flags=re.DOTALL).count("<script") == 0
