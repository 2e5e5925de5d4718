"""How long training waits for a checkpoint, as a share of the steps between two, at the shipped recipes' cadence.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_saving.py [--saves 4] [--folder DIR]

Model, batch and cadence are those of recipes/quickstart/baseline.yaml and recipes/expt1/baseline.yaml, on random
tokens. After a few steps (so that AdamW has moments) one process saves in turn as ours and as transformers' own Trainer
do, rotation included; wall time, medians. stall = save time / (save_steps x step time). Of the published 30 M model a
step is timed on a few rows and multiplied up to its batch: no CPU trains it.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

import hf_tti.checkpoints
import hf_tti.saving
from hf_tti import InterpTrainer, InterpTrainingArguments
from hf_tti.data import CausalLMCollator
from hf_tti.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
ROWS_TIMED = {"quickstart": None, "expt1": 1}  # of a batch; None is all of them
GPU_STEP_MS = {
    "A100": 27,
    "H100": 13,
}  # of the 30 M model with a fused cross-entropy, computed from FLOPs, not measured
KEPT = 2  # checkpoints, so that every save that is timed removes one
VOCAB = {"quickstart": 2048, "expt1": 50_257}
PARTS = {  # point reached -> the part of a save that ends there
    "staging made": "stage",
    "weights written": "write",
    "model written": "write",
    "optimizer written": "write",
    "scheduler written": "write",
    "generators written": "write",
    "trainer state written": "write",
    "staging flushed": "manifest",
    "published": "publish",
    "saving ends": "rotate",
}


class StepTimes(TrainerCallback):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self._begun = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self._begun)


@dataclass(frozen=True)
class Shape:
    """What a shipped recipe says."""

    name: str
    rows: int
    length: int
    save_steps: int
    rows_timed: int

    @classmethod
    def of(cls, name: str) -> Shape:
        recipe = load_recipe(RECIPES / name / "baseline.yaml")
        training = recipe.training
        rows = training["per_device_train_batch_size"]
        timed = ROWS_TIMED[name] or rows
        return cls(name, rows, recipe.data["block_size"], training["save_steps"], timed)

    def model(self) -> torch.nn.Module:
        section = load_recipe(RECIPES / self.name / "baseline.yaml").model
        keys = {key: value for key, value in section.items() if key != "model_type"}
        config = AutoConfig.for_model(
            section["model_type"], vocab_size=VOCAB[self.name], bos_token_id=0, eos_token_id=0, **keys
        )
        return AutoModelForCausalLM.from_config(config)


def trainer_of(kind: type[Trainer], shape: Shape, folder: Path, steps: int, length: int) -> tuple[Trainer, StepTimes]:
    """After a few steps on random tokens."""
    draw = torch.Generator().manual_seed(0)
    data = [
        {"input_ids": torch.randint(VOCAB[shape.name], (length,), generator=draw).tolist()}
        for _ in range(shape.rows_timed * steps)
    ]
    settings = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": shape.rows_timed,
        "save_total_limit": KEPT,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    ours = kind is InterpTrainer
    args = (InterpTrainingArguments if ours else TrainingArguments)(**settings)
    collator = {} if ours else {"data_collator": CausalLMCollator(pad_token_id=0)}
    trainer = kind(shape.model(), args, train_dataset=data, **({"metrics": {}} if ours else {}), **collator)
    times = StepTimes()
    trainer.add_callback(times)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer, times


@contextmanager
def points(parts: dict[str, list[float]]) -> Iterator[None]:
    """Adds up, for each part of our saves, the seconds that end at its points."""
    last = [time.perf_counter()]

    def reached(point: str) -> None:
        now = time.perf_counter()
        part = "flush and hash" if point.startswith("flushed ") else PARTS.get(point)
        if point == "saving begins":
            for seconds in parts.values():
                seconds.append(0.0)
        elif part is not None:
            parts[part][-1] += now - last[0]
            last[0] = now
            return
        last[0] = now if point == "saving begins" else last[0]

    places = (hf_tti.saving, hf_tti.checkpoints)
    before = [module.reached for module in places]
    for module in places:
        module.reached = reached
    try:
        yield
    finally:
        for module, function in zip(places, before, strict=True):
            module.reached = function


def seconds_of(work: Callable[[], None]) -> tuple[float, float]:
    """Of wall time, and of this process's own."""
    begun, own = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - own


def measure(name: str, base: Path, saves: int) -> None:
    shape = Shape.of(name)
    steps = 12 if shape.rows_timed == shape.rows else 4
    ours, times = trainer_of(InterpTrainer, shape, base / "ours", steps, shape.length)
    stock, _ = trainer_of(Trainer, shape, base / "stock", 1, 16)
    parts: dict[str, list[float]] = {
        part: [] for part in ("stage", "write", "flush and hash", "manifest", "publish", "rotate")
    }
    seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "stock": []}
    with points(parts):
        for number in range(saves + KEPT):  # the first fill the folder
            for label, trainer in (("ours", ours), ("stock", stock)):
                trainer.state.global_step = number + 1
                seconds[label].append(seconds_of(lambda trainer=trainer: trainer._save_checkpoint(trainer.model, None)))
    kept = {label: values[-saves:] for label, values in seconds.items()}
    newest = max((base / "ours").glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    size = sum(path.stat().st_size for path in newest.iterdir())
    report(shape, times.seconds[1:], kept, {part: values[-saves:] for part, values in parts.items()}, size)
    digest = newest / "optimizer.safetensors"
    hashing, _ = seconds_of(lambda: hashlib.file_digest(open(digest, "rb"), "sha256"))
    print(f"sha256 of {digest.stat().st_size / 1e6:.0f} MB: {digest.stat().st_size / hashing / 1e9:.2f} GB/s")


def report(shape: Shape, step_seconds: list[float], kept: dict, parts: dict, size: int) -> None:
    step = statistics.median(step_seconds) * shape.rows / shape.rows_timed
    cpu = {label: statistics.median(own for _, own in values) for label, values in kept.items()}
    wall = {label: [seconds for seconds, _ in values] for label, values in kept.items()}
    save = {label: statistics.median(values) for label, values in wall.items()}
    spread = {label: f"{min(values) * 1e3:.0f} to {max(values) * 1e3:.0f}" for label, values in wall.items()}
    ratios = [a / b for a, b in zip(wall["ours"], wall["stock"], strict=True)]
    cadence = f"a save every {shape.save_steps} steps, {size / 1e6:.1f} MB"
    print(f"\n{shape.name}: {shape.rows} x {shape.length} tokens, {cadence}")
    scaled = "" if shape.rows_timed == shape.rows else f" ({shape.rows_timed} rows timed, multiplied up)"
    print(f"step {step * 1e3:,.0f} ms{scaled}")
    for label in ("ours", "stock"):
        stall = f"stall {save[label] / (shape.save_steps * step):.3%}, {save[label] / step:.1f} steps"
        print(f"{label:5} save {save[label] * 1e3:,.0f} ms ({spread[label]}), CPU {cpu[label] * 1e3:,.0f} ms  {stall}")
    print(f"ours / stock {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print("parts of ours, ms: " + ", ".join(f"{part} {statistics.median(v) * 1e3:.0f}" for part, v in parts.items()))
    if shape.name == "expt1":
        for gpu, milliseconds in GPU_STEP_MS.items():
            stall = save["ours"] / (shape.save_steps * milliseconds / 1e3)
            print(f"with steps of {milliseconds} ms ({gpu}, computed): stall {stall:.2%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--only", choices=ROWS_TIMED)
    parser.add_argument("--folder", type=Path, help="a disk to write to; default: the temporary folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    for name in [options.only] if options.only else ROWS_TIMED:
        base = Path(tempfile.mkdtemp(dir=options.folder))
        try:
            measure(name, base, options.saves)
        finally:
            shutil.rmtree(base)
