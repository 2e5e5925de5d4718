"""Run folders with plausible made-up numbers, for tests of what reads them. No model is behind them.

A seed moves every method's loss alike, a method moves it by its own cost, and a little noise is left: what pairing by
seed is for. `random_init` has less correlation between units than any trained model, so that one metric does not
separate. Token texts hold what a careless page would take for markup.
"""

import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np
import yaml

from hf_tti.report import DataFacts, LossShards, ModelFacts, Report, vocabulary_arrays

STEPS, SHARDS, TOKENS, CONTEXTS, WINDOW = 300, 20, 29_845, 5, 3
COSTS = {"baseline": 0.0, "orthogonality": 0.001, "selectivity": 0.06, "decorrelation": 0.012, "token_entropy": 0.03}
TEXTS = ["<|endoftext|>", "</script>", "<b>", "&amp;", '"', "'", "\n", " é", "=1+1", " 👑"] + [
    f" {word}"
    for word in "the a king queen girl boy dog cat ran said saw big happy sad river tree and to was of".split()
]
# label -> component, kind, site, greater_is_better, (trained, random init, rotated, shuffled labels), a method's gain
FACTS = {
    "sparsity": ("activation_sparsity", "metric", "mlp.neurons", True, (0.07, 0.02, 0.03, None), 0.03),
    "polysemanticity": ("token_entropy", "metric", "mlp.out", False, (5.6, 5.97, 5.7, 5.98), -0.4),
    "cosine_similarity": ("cosine_similarity", "metric", "mlp.out", False, (0.265, 0.6, 0.27, None), -0.08),
    "correlation": ("correlation", "metric", "mlp.neurons", False, (0.048, 0.005, 0.05, None), -0.02),
    "selectivity": ("token_selectivity", "metric", "mlp.neurons", True, (0.5, 0.2, 0.3, 0.001), 0.2),
    "neuron_density": ("neuron_density", "metric", "mlp.neurons", None, (0.4, 0.5, 0.5, None), -0.05),
    "top_contexts": ("top_contexts", "metric", "mlp.neurons", None, (3.0, 1.0, 2.0, None), 0.5),
    "linear_probe": ("linear_probe", "study", "mlp.neurons", True, (0.93, 0.8, 0.93, 0.45), 0.01),
}


def make_runs(
    folder, methods=("baseline", "orthogonality", "selectivity"), seeds=(42, 43, 44), layers=2, units=16, **changes
) -> list[Path]:
    """Run folders `<folder>/<method>-seed<seed>` with a report each; `changes` replace fields of every report.

    A method whose name begins with `baseline` has no objectives; other than `baseline` itself it trained half as long.
    """
    return [
        make_run(Path(folder) / f"{method}-seed{seed}", method, seed, layers=layers, units=units, **changes)
        for method in methods
        for seed in seeds
    ]


def make_run(path: Path, method: str, seed: int, *, layers=2, units=16, **changes) -> Path:
    """One run folder: report/, metrics.jsonl, stories.txt, run.json, result.json, recipe.yaml."""
    report = dataclasses.replace(made_report(path.name, method, seed, layers=layers, units=units), **changes)
    report.save(path / "report")
    metrics = {f"eval_{name}": value for name, value in report.metrics.items()}
    head = {"name": path.name, "experiment": "made", "digest": "ab" * 32}
    more = {"versions": report.versions, "data_fingerprint": report.data.fingerprint}
    result = {"seed": seed, "metrics": metrics, "num_steps": report.step, "wall_seconds": 71.0}
    (path / "run.json").write_text(json.dumps({**head, "command": "hf-tti train", "git_commit": None, **more}))
    (path / "result.json").write_text(json.dumps({**head, **result, **more}))
    (path / "recipe.yaml").write_text(f"# {path.name}\n{yaml.safe_dump(report.recipe, sort_keys=False)}")
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _curves(report, method)))
    stories = [
        "Once upon a time a king ran.",
        'Once upon a time, "Hi," said the girl.\n\nThe end.',
        "Once <b>upon</b>.",
    ]
    (path / "stories.txt").write_text("\n\n".join(f"--- {i}\n{text}" for i, text in enumerate(stories, 1)) + "\n")
    return path


def made_report(name: str, method: str, seed: int, *, layers=2, units=16) -> Report:
    draw = _draw(name, method)
    loss = 3.6 + _draw(seed).normal(0, 0.02) + _cost(method) + draw.normal(0, 0.001)
    metrics = {"loss": loss, "perplexity": float(np.exp(loss)), "num_tokens": TOKENS}
    nulls = {"random_init": {"loss": 7.63, "perplexity": 2059.1}, "rotated": {}, "shuffled_labels": {}}
    for label, (*_, levels, gain) in FACTS.items():
        change = _draw(method, label).uniform(0.2, 1.0) * gain * (not method.startswith("baseline"))
        metrics |= _by_layer(label, levels[0] + change, layers, draw)
        for row, level in zip(nulls, levels[1:], strict=True):
            if level is not None:
                nulls[row] |= _by_layer(label, level, layers, draw)
    return Report(
        name=name,
        model=ModelFacts(
            source=f"runs/made/{name}",
            revision=None,
            commit=None,
            model_type="gpt2",
            num_parameters=873_600,
            weights_sha256=f"{zlib.crc32(name.encode()):064x}",
        ),
        step=_steps(method),
        seed=seed,
        recipe=_recipe(method, seed),
        data=DataFacts(
            name="synthetic_stories",
            fingerprint="cd" * 32,
            split="validation",
            num_tokens=30_080,
            tokenizer_sha256="ef" * 32,
            settings={"vocab_size": 2048, "block_size": 128},
        ),
        metrics=metrics,
        loss_shards=_shards(loss, draw),
        nulls=nulls,
        metric_settings={
            label: {kind: component, "sites": [site]} for label, (component, kind, site, *_) in FACTS.items()
        },
        metric_facts={
            label: {"greater_is_better": better, "summary": f"what {component} says in one line"}
            for label, (component, _, _, better, *_) in FACTS.items()
        },
        evaluation={
            "batch_size": 16,
            "metric_batches": None,
            "excluded_token_ids": [],
            "dtype": "float32",
            "device": "cpu",
        },
        versions={"hf_tti": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        git_commit="52b155e8389d74aa7ffb23ed713767fade479664",
        arrays=_arrays(layers, units, draw),
    )


def _draw(*parts) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(map(str, parts)).encode()))


def _cost(method: str) -> float:
    if method.startswith("baseline"):
        return 0.0 if method == "baseline" else 0.3
    return COSTS.get(method, _draw(method).uniform(0, 0.05))


def _steps(method: str) -> int:
    return STEPS // 2 if method.startswith("baseline") and method != "baseline" else STEPS


def _recipe(method: str, seed: int) -> dict:
    objectives = (
        {} if method.startswith("baseline") else {"objectives": {method: {"sites": ["mlp.out"], "weight": 0.1}}}
    )
    return {
        "experiment": "made",
        "question": "What does it cost?",
        "model": {"model_type": "gpt2", "n_layer": 3, "n_embd": 128, "n_head": 4},
        "data": {"name": "synthetic_stories", "vocab_size": 2048, "block_size": 128},
        "training": {"max_steps": _steps(method), "learning_rate": 1e-3, "seed": seed, "data_seed": seed},
        **objectives,
        "metrics": {label: {"metric": component} for label, (component, kind, *_) in FACTS.items() if kind == "metric"},
    }


def _by_layer(label: str, level: float, layers: int, draw: np.random.Generator) -> dict[str, float]:
    values = [level * (1 + 0.1 * layer) * (1 + draw.normal(0, 0.01)) for layer in range(layers)]
    named = {f"{label}/layer_{layer}": value for layer, value in enumerate(values)}
    return {**named, f"{label}/mean": float(np.mean(values))}


def _shards(loss: float, draw: np.random.Generator) -> LossShards:
    """Documents differ much, and alike for every model."""
    counts = np.full(SHARDS, TOKENS // SHARDS)
    counts[: TOKENS % SHARDS] += 1
    offsets = _draw("documents").normal(0, 0.05, SHARDS) + draw.normal(0, 0.002, SHARDS)
    offsets -= (offsets * counts).sum() / counts.sum()
    return LossShards(loss_sums=[float(s) for s in (loss + offsets) * counts], num_tokens=[int(n) for n in counts])


def _arrays(layers: int, units: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Unit 0 is dead, unit 1 has two contexts only."""
    arrays = vocabulary_arrays(dict(enumerate(TEXTS)))
    for layer in range(layers):
        for label in ("cosine_similarity", "correlation"):
            rows = draw.normal(size=(units, 3 * units)) + 0.4 * draw.normal(size=3 * units)
            arrays[f"{label}/matrix/layer_{layer}"] = _with_dead_unit(np.corrcoef(rows)).astype(np.float32)
        arrays[f"neuron_density/density/layer_{layer}"] = np.r_[0.0, draw.beta(0.5, 1.0, units - 1)]
        arrays[f"polysemanticity/entropy/layer_{layer}"] = np.r_[np.nan, draw.uniform(3, 6, units - 1)]
        arrays[f"selectivity/share/layer_{layer}"] = np.r_[np.nan, draw.uniform(0, 1, units - 1)]
        arrays[f"selectivity/classes/layer_{layer}"] = np.arange(1, 9)
        arrays |= {f"top_contexts/{name}/layer_{layer}": array for name, array in _contexts(units, draw).items()}
    return arrays


def _with_dead_unit(matrix: np.ndarray) -> np.ndarray:
    matrix[0] = matrix[:, 0] = np.nan
    return matrix


def _contexts(units: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    shape = (units, CONTEXTS, 2 * WINDOW + 1)
    values = -np.sort(-draw.gamma(2.0, 2.0, shape[:2]), axis=1).astype(np.float32)
    tokens = draw.integers(0, len(TEXTS), shape, dtype=np.int32)
    activations = (values[..., None] * draw.uniform(-0.3, 0.9, shape)).astype(np.float16)
    activations[:, :, WINDOW] = values
    positions = draw.integers(0, 128, shape[:2], dtype=np.int32)
    tokens[:, 1, :2], activations[:, 1, :2] = -1, 0  # a window that begins with its row
    missing = np.zeros(shape[:2], dtype=bool)
    missing[0], missing[1, 2:] = True, True
    values[missing], tokens[missing], positions[missing], activations[missing] = np.nan, -1, -1, 0
    return {"values": values, "tokens": tokens, "positions": positions, "activations": activations}


def _curves(report: Report, method: str):
    """Lines as a run logs them: training every 25 steps, evaluations at the middle and at the end."""
    for step in range(25, report.step + 1, 25):
        loss = report.metrics["loss"] + 4 * np.exp(-step / 60)
        line = {"step": step, "loss": loss, "grad_norm": 1.0, "learning_rate": 1e-3 * (1 - step / report.step)}
        line |= {"ce_loss": loss, "epoch": step / STEPS, "tokens_per_second": 8000.0}
        if report.recipe.get("objectives"):
            line |= {f"objective/{method}": 0.1, f"weight/{method}": 0.1, f"weighted/{method}": 0.01}
            line["reg_to_ce_ratio"] = 0.01 / loss
        yield line
        if step * 2 in (report.step, report.step * 2):
            late = {"loss": 0.3, "perplexity": 20.0} if step < report.step else {}
            values = {f"eval_{name}": value + late.get(name, 0.0) for name, value in report.metrics.items() if value}
            yield {"step": step, **values, "epoch": step / STEPS}
