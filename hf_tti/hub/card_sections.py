"""The sections of a model card, in Markdown; every text that comes from elsewhere is escaped or fenced."""

from __future__ import annotations

import html
import importlib.metadata
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from hf_tti.card_parts import CardParts, CardPicture
from hf_tti.hub import snippets
from hf_tti.hub.card_facts import CardFacts, corpus_of, definition, is_own_corpus, short
from hf_tti.hub.side_files import SAE_FILES
from hf_tti.markdown import escaped, fenced, table
from hf_tti.report import ARRAYS_FILE, REPORT_DIR, REPORT_FILE, SAE_DIR
from hf_tti.table import format_number, headline_metrics

_UNFOLDED = 6  # frontiers
_NAMES = {"gpt2": "GPT-2", "llama": "Llama", "gpt_neox": "GPT-NeoX", "qwen2": "Qwen2", "qwen3": "Qwen3"}
_TRAINING = (  # of the recipe, in the table of facts
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "seed",
)


def main_card(facts: CardFacts, parts: CardParts, files: Mapping[str, Any], assets: str) -> str:
    """The card of a finished run."""
    blocks = [
        f"# {escaped(facts.name)}",
        _lead(facts),
        escaped(_measured_on(facts) + parts.summary),
        *_trained(facts),
        *_results(parts),
        *_pictures("Training", parts.curves, assets),
        *_frontiers(parts.frontiers, assets),
        *_story(facts),
        *_loading(facts),
        *_reproduce(facts),
        "## What the numbers do not say",
        _list(_limits(facts, parts)),
        *_provenance(facts, files),
        *_citation(facts),
        *_license(facts),
    ]
    return "\n\n".join(block for block in blocks if block)


def step_card(facts: CardFacts) -> str:
    """The card of a checkpoint's branch."""
    steps = facts.recipe.training.get("max_steps")
    of = f" of {steps:,}" if isinstance(steps, int) and steps > 0 else ""
    metrics = facts.metrics_at(facts.step) if facts.step is not None else {}
    what = "validation, during training"
    rows = [{what: "cross-entropy, nats a token", "value": f"{loss:.4f}"}] if (loss := metrics.get("eval_loss")) else []
    rows += [{what: name, "value": format_number(value)} for name, value in headline_metrics(metrics).items()]
    blocks = [
        f"# {escaped(facts.name)}, {escaped(facts.revision)}",
        f"A checkpoint of training, after optimizer step {facts.step}{of}. {_lead(facts)}",
        "The end of training, with its report and how to open it elsewhere, is on the branch `main`.",
        table(rows) if metrics else "This step was not evaluated during training.",
        fenced(snippets.of_a_step(facts.repo, facts.revision, alone=True), "python"),
        fenced(f"hf-tti evaluate {facts.repo} --revision {facts.revision}", "bash"),
        *_license(facts),
    ]
    return "\n\n".join(blocks)


# ---- What was trained --------------------------------------------------------------------------


def _lead(facts: CardFacts) -> str:
    """One paragraph: what, on what, with what, and why."""
    result, base = facts.result, facts.recipe.model.get("pretrained")
    sizes = facts.sizes()
    model = escaped(_NAMES.get(facts.model_type, facts.model_type))
    layers = f"{sizes.get('layers')} layer{'' if sizes.get('layers') == 1 else 's'}"
    shape = f" with {layers} of width {sizes['width']}" if {"layers", "width"} <= sizes.keys() else ""
    count = result.get("num_parameters")
    count = f" ({count:,} parameters)" if isinstance(count, int) else ""
    start = f"trained further from {escaped(short(base))}" if base else "trained from scratch"
    tokens, steps = result.get("num_train_tokens"), result.get("num_steps")
    length = f" for {steps:,} optimizer steps, {tokens:,} tokens," if steps and tokens else ""
    data = facts.recipe.data
    files = f" ({short(data['train'])})" if data.get("train") else ""
    corpus = escaped(f"{data.get('name', 'synthetic_stories')}{files}")
    seed = facts.recipe.training.get("seed")
    added = [f"**{escaped(label)}** (weight {entry['weight']:g})" for label, entry in facts.recipe.objectives.items()]
    beside = f"with {' and '.join(added)} added to cross-entropy" if added else "on cross-entropy alone"
    article = "An" if model[:1] in "AEIO" else "A"
    text = f"{article} {model}{shape}{count}, {start}{length} on {corpus} {beside}, seed {seed}."
    experiment, question = facts.recipe.experiment, facts.recipe.question
    if experiment or question:
        text += (
            f" It is a run of the experiment {escaped(experiment or facts.recipe.name)}. {escaped(question)}".rstrip()
        )
    return f"{text} Trained with hf_tti, which adds interpretability objectives to the HuggingFace Trainer."


def _measured_on(facts: CardFacts) -> str:
    """Before the summary, where that is not of the corpus it was trained on."""
    if facts.report is None or is_own_corpus(facts.report, facts.recipe):
        return ""
    return f"Evaluated on other text than it was trained on: {corpus_of(facts.report)}. "


def _trained(facts: CardFacts) -> Iterator[str]:
    yield "## What was trained"
    sizes = ", ".join(f"{words} {value:,}" for words, value in facts.sizes().items())
    data = ", ".join(f"{key} {short(value)}" for key, value in facts.recipe.data.items() if key != "name")
    training = facts.recipe.training
    rows = [
        {"": "architecture", "value": f"{facts.model_type}: {sizes}"},
        {"": "data", "value": f"{facts.recipe.data.get('name', 'synthetic_stories')}{': ' if data else ''}{data}"},
        {"": "training", "value": ", ".join(f"{key} {training[key]}" for key in _TRAINING if key in training)},
    ]
    yield table(rows)
    if not facts.recipe.objectives:
        yield "No objective was added: the loss is cross-entropy."
        return
    yield table([_objective_row(label, entry) for label, entry in facts.recipe.objectives.items()])
    for label, entry in facts.recipe.objectives.items():
        if text := definition(entry.get("objective") or label):
            yield f"What {escaped(label)} is, as its code says; it is added to the loss times its weight:"
            yield f"> {escaped(text)}"


def _objective_row(label: str, entry: Mapping[str, Any]) -> dict[str, str]:
    settings = {key: value for key, value in entry.items() if key not in ("weight", "warmup_steps", "objective")}
    return {
        "objective": label,
        "weight": f"{entry['weight']:g}",
        "warm-up, steps": str(entry.get("warmup_steps", 0)),
        "settings": ", ".join(f"{key} {short(value)}" for key, value in settings.items()) or "defaults",
    }


# ---- Results -----------------------------------------------------------------------------------


def _results(parts: CardParts) -> Iterator[str]:
    yield "## Results"
    if parts.loss:
        yield table(parts.loss)
    if parts.metrics:
        yield "Metrics are means over layers; ↑ more and ↓ less is more interpretable, as far as the metric can tell."
        yield table(parts.metrics)
    if parts.notes:
        yield _list(parts.notes)
    if parts.definitions:
        yield _folded("What each metric is", _list(parts.definitions))
    if parts.more:
        yield _folded("Other values", table(parts.more))


def _pictures(title: str, pictures: Sequence[CardPicture], assets: str) -> Iterator[str]:
    if pictures:
        yield f"## {title}"
        yield "\n".join(_image(picture, assets) for picture in pictures)
        captions = [escaped(picture.caption) for picture in pictures if picture.caption]
        yield " ".join(captions)


def _frontiers(pictures: Sequence[CardPicture], assets: str) -> Iterator[str]:
    if pictures:
        yield "## Frontiers"
        yield (
            "Each metric against cross-entropy, a point a method with its 95 % interval over seeds. Grey: the front, "
            "where no other method is better in both. Dotted: what shorter baselines have at equal cross-entropy."
        )
        images = [_image(picture, assets) for picture in pictures]
        yield "\n".join(images[:_UNFOLDED])
        if images[_UNFOLDED:]:
            yield _folded("More metrics", "\n".join(images[_UNFOLDED:]))


def _image(picture: CardPicture, assets: str) -> str:
    words = html.escape(" ".join(f"{picture.title}. {picture.caption}".split()), quote=True)
    return f'<img src="{assets}/{picture.name}.png" width="{picture.width}" alt="{words}">'


def _story(facts: CardFacts) -> Iterator[str]:
    if facts.story:
        yield "## What it writes"
        yield "The first story that it generated at the end of training:"
        lines = [textwrap.fill(line, 84, break_long_words=False) for line in facts.story.splitlines()]
        yield fenced("\n".join(lines), "text")


# ---- Use ---------------------------------------------------------------------------------------


def _loading(facts: CardFacts) -> Iterator[str]:
    yield "## How to load it"
    yield "The weights are a plain model of transformers: no code of hf_tti, no `trust_remote_code`."
    yield fenced(snippets.in_transformers(facts.repo, facts.sizes().get("positions", 160)), "python")
    if facts.branches:
        yield "Checkpoints of training are branches `step<N>`: pass `revision=` with its name, as in"
        yield fenced(snippets.of_a_step(facts.repo, facts.branches[0]), "python")
    yield (
        "The calls below follow on these lines. They are checked with GPT-2 models of hf_tti on TransformerLens 4.3 "
        "and 3.9, nnsight 0.8 and SAELens 6.54, in environments of their own."
    )
    for title, code in snippets.in_other_tools(facts.repo, facts.model_type, facts.saes).items():
        yield _folded(title, fenced(code, "python"))
    yield "With hf_tti: measure it again, or put it beside another model that was evaluated on the same data."
    yield fenced(f"hf-tti evaluate {facts.repo}\nhf-tti compare {facts.repo} OTHER/MODEL", "bash")


def _reproduce(facts: CardFacts) -> Iterator[str]:
    yield "## How to train it again"
    file = f"{re.sub(r'-seed[0-9]+$', '', facts.name)}.yaml"  # a run is named after its recipe's file and its seed
    lines = [f"hf download {facts.repo} recipe.yaml --local-dir .", f"mv recipe.yaml {file}", f"hf-tti train {file}"]
    yield fenced("\n".join(lines), "bash")
    data, base = facts.recipe.data, facts.recipe.model.get("pretrained")
    files = [short(data[key]) for key in ("train", "validation") if data.get(key)]
    files += [short(place) for place in (data.get("tokenizer"), base) if place and Path(str(place)).is_absolute()]
    if files:
        yield f"Its data are not on the Hub with it; they are to lie beside the recipe: {escaped(', '.join(files))}."
    yield _folded("The resolved recipe", fenced(facts.recipe_text, "yaml"))


def _limits(facts: CardFacts, parts: CardParts) -> Iterator[str]:
    own = facts.report is None or is_own_corpus(facts.report, facts.recipe)
    corpus = "the validation split of its own corpus" if own else corpus_of(facts.report)
    yield f"How the model does on other text: cross-entropy and metrics are of {corpus}."
    yield "Whether people understand its units: no metric here asked anyone."
    if any("random weights" in row for row in parts.metrics):
        yield (
            "Anything about training, where a null row (random weights, rotated activations, shuffled labels) has the "
            "model's value."
        )
    else:
        yield "What a model with random weights would score: the null rows come with an evaluation by hf-tti evaluate."
    if facts.recipe.objectives:
        yield "What another weight would give: weights of different objectives do not compare, and this is one weight."
    tokens = facts.result.get("num_train_tokens")
    yield (
        f"What holds at scale: this is a research artefact{f' of {tokens:,} training tokens' if tokens else ''}, not a "
        "model to be used for what it writes."
    )


# ---- Where it comes from -----------------------------------------------------------------------


def _provenance(facts: CardFacts, files: Mapping[str, Any]) -> Iterator[str]:
    yield "## Where it comes from"
    record, report = facts.record, facts.report
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    rows = {
        "trained with": versions,
        "commit of hf_tti": record.get("git_commit"),
        "recipe's digest": record.get("digest"),
        "data fingerprint": record.get("data_fingerprint"),
    }
    if report is not None:
        rows |= {
            "evaluated with": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
            "evaluated by commit": report.git_commit,
            "evaluated on": f"{corpus_of(report)}, fingerprint {report.data.fingerprint}",
            "weights, sha256": report.model.weights_sha256,
        }
    yield table([{"": name, "value": str(value)} for name, value in rows.items() if value])
    if about := [words for path, words in _CONTENTS.items() if path in files]:
        yield _list_raw(about)
    if facts.saes:
        names = ", ".join(SAE_FILES)
        yield (
            f"Sparse autoencoders in SAELens's format are in `{SAE_DIR}/<hookpoint>/seed_<n>/` ({names}): "
            + ", ".join(escaped(name) for name in facts.saes)
        )


_CONTENTS = {
    "recipe.yaml": "`recipe.yaml`: the resolved recipe",
    f"{REPORT_DIR}/{REPORT_FILE}": f"`{REPORT_DIR}/{REPORT_FILE}`: every value, by layer too, null rows, settings",
    f"{REPORT_DIR}/{ARRAYS_FILE}": f"`{REPORT_DIR}/{ARRAYS_FILE}`: values of each unit, matrices, top contexts",
    "metrics.jsonl": "`metrics.jsonl`: what training logged",
    "stories.txt": "`stories.txt`: what it generated",
}


def _citation(facts: CardFacts) -> Iterator[str]:
    yield "## Citation"
    about = importlib.metadata.metadata("hf-tti")
    summary = (about["Summary"] or "").rstrip(".")
    software = {"title": f"hf_tti: {summary}", "version": about["Version"], "year": facts.year}
    address = f"{constants.ENDPOINT}/{facts.repo}"
    model = {"title": facts.name, "year": facts.year, "howpublished": f"\\url{{{address}}}"}
    yield fenced(f"{_bibtex('software', 'hf_tti', software)}\n\n{_bibtex('misc', _key(facts), model)}", "bibtex")


def _key(facts: CardFacts) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", f"{facts.repo}").strip("_")


def _bibtex(kind: str, key: str, fields: Mapping[str, Any]) -> str:
    lines = [f"  {name} = {{{_tex(value) if name == 'title' else value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _tex(text: str) -> str:
    return re.sub(r"[_&%#$]", r"\\\g<0>", text)


def _license(facts: CardFacts) -> Iterator[str]:
    yield "## Licence"
    own = f"hf_tti itself is under {_own_license()}."
    if facts.license:
        yield f"{escaped(facts.license)}, as its recipe says. {own}"
    else:
        yield f"None was chosen for this model: ask its owner before you use it. {own}"


def _own_license() -> str:
    about = importlib.metadata.metadata("hf-tti")
    return about["License-Expression"] or about["License"] or "the licence in its repository"


# ---- Markdown ----------------------------------------------------------------------------------


def _folded(title: str, body: str) -> str:
    return f"<details>\n<summary>{html.escape(title)}</summary>\n\n{body}\n\n</details>"


def _list(lines: Sequence[str] | Iterator[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _list_raw(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
