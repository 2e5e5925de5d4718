"""What only a GPU can show: resuming with and without deterministic kernels, steps that wait, updates left out there.

    python tests/faults/gpu.py [--device cuda] [--steps 40]
resume: two trainings with a save halfway and a third that goes on from it, in each precision, with every objective that
is built in and dropout on, with and without `full_determinism`; the largest relative difference of a weight and of a
logged loss. waits: synchronising calls of a step, as torch's own debug mode reports them, and the stock Trainer's.
nonfinite: NaN in a term with the fused optimizer; the run must stop at its log line with the weights before the step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

PRECISIONS = {"fp32": {}, "bf16": {"bf16": True}, "fp16": {"fp16": True}}


def trainer_of(folder: Path, device: str, steps: int, **changes: Any):
    """A small GPT-2 with dropout, every objective, ragged rows, two micro-batches a step."""
    from hf_tti import InterpTrainer
    from hf_tti.components import component_names, load_component
    from tiny import arguments, rows, tiny_model

    settings = {"max_steps": steps, "save_strategy": "steps", "save_steps": steps // 2, "optim": "adamw_torch_fused"}
    settings |= {"gradient_accumulation_steps": 2, "use_cpu": device == "cpu", **changes}
    return InterpTrainer(
        tiny_model(),
        arguments(folder, **settings),
        objectives=[load_component("objectives", name)().weighted(0.1) for name in component_names("objectives")],
        metrics={},
        train_dataset=rows(96, ragged=True),
    )


def resume(device: str, steps: int, precision: str, deterministic: bool) -> dict[str, Any]:
    """One cell, in a process of its own: torch's switches hold for a whole process."""
    import torch

    from tiny import training_logs

    changes = {**PRECISIONS[precision], "full_determinism": deterministic}
    ends = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("once", "twice", "resumed"):
            trainer = trainer_of(Path(temporary) / name.replace("resumed", "once"), device, steps, **changes)
            halfway = Path(trainer.args.output_dir) / f"checkpoint-{steps // 2}"
            trainer.train(resume_from_checkpoint=str(halfway) if name == "resumed" else None)
            weights = torch.cat([value.detach().double().cpu().flatten() for value in trainer._weights().values()])
            ends[name] = weights, torch.tensor([line["loss"] for line in training_logs(trainer)], dtype=torch.double)

    def apart(name: str, of: int) -> float:
        ours, expected = ends[name][of], ends["once"][of]
        return float((ours - expected).abs().max() / expected.abs().max())

    return {
        f"{name}, {what}": apart(name, of)
        for name in ("twice", "resumed")
        for of, what in enumerate(("weights", "losses"))
    }


def waits(device: str) -> dict[str, list[int]]:
    """Synchronising calls of each step but the first, between log lines; of ours and of the stock Trainer."""
    import torch
    from transformers import Trainer, TrainerCallback

    from hf_tti.data import CausalLMCollator
    from tiny import arguments, rows, tiny_model

    class Count(TrainerCallback):
        def __init__(self) -> None:
            self.caught: list[warnings.WarningMessage] = []
            self.counts: list[int] = []

        def on_step_begin(self, args, state, control, **kwargs):
            self.caught.clear()

        def on_step_end(self, args, state, control, **kwargs):
            self.counts.append(sum("synchronizing CUDA operation" in str(each.message) for each in self.caught))

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        args = arguments(folder, max_steps=6, logging_steps=6, optim="adamw_torch_fused", use_cpu=device == "cpu")
        stock = Trainer(tiny_model(), args, train_dataset=rows(24), data_collator=CausalLMCollator(pad_token_id=0))
        ours = trainer_of(Path(folder), device, 6, logging_steps=6, save_strategy="no", gradient_accumulation_steps=1)
        for name, trainer in (("stock", stock), ("ours, all objectives", ours)):
            count = Count()
            trainer.add_callback(count)
            with warnings.catch_warnings(record=True) as count.caught:
                warnings.simplefilter("always")
                if device == "cuda":
                    torch.cuda.set_sync_debug_mode("warn")
                trainer.train()
                if device == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
            found[name] = count.counts[1:]
    return found


def nonfinite(device: str) -> dict[str, Any]:
    """NaN in a term of step 6, log lines every 4 steps."""
    import torch
    from nonfinite import BAD, EVERY, Keep, Planted

    from hf_tti import InterpTrainer
    from hf_tti.errors import UserError
    from tiny import arguments, rows, tiny_model

    keep = Keep(lambda trainer: None, before_update=False)
    with tempfile.TemporaryDirectory() as folder:
        args = arguments(folder, max_steps=10, logging_steps=EVERY, optim="adamw_torch_fused", use_cpu=device == "cpu")
        objectives = [Planted(value=float("nan")).weighted(1.0)]
        trainer = InterpTrainer(
            tiny_model(), args, objectives=objectives, metrics={}, train_dataset=rows(), callbacks=[keep]
        )
        keep.trainer = trainer
        said = "nothing"
        try:
            trainer.train()
        except UserError as error:
            said = str(error)
    kept = all(torch.equal(value, keep.weights[name]) for name, value in trainer._weights().items())
    return {"said": said, "stopped_after_step": trainer.state.global_step, f"weights_of_step_{BAD - 1}": kept}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU here; --device cpu runs the same on the CPU, where nothing of it is in question")
    if options.cell is not None:
        precision, kernels = options.cell
        print(json.dumps(resume(options.device, options.steps, precision, kernels == "deterministic")))
        return 0
    figures: dict[str, Any] = {"torch": torch.__version__, "device": options.device}
    if options.device == "cuda":
        figures["device"] = torch.cuda.get_device_name()
    for precision in PRECISIONS if options.device == "cuda" else ("fp32",):
        for kernels in ("deterministic", "any kernels"):
            command = [sys.executable, __file__, "--device", options.device, "--steps", str(options.steps)]
            done = subprocess.run(
                [*command, "--cell", precision, kernels], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
            )
            cell = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
            figures[f"resume, {precision}, {kernels}"] = cell
    figures["waits"] = waits(options.device)
    figures["nonfinite"] = nonfinite(options.device)
    print(json.dumps(figures, indent=1))
    deterministic = [cell for name, cell in figures.items() if name.startswith("resume") and "deterministic" in name]
    holds = all(cell is not None and not any(cell.values()) for cell in deterministic)
    return 0 if holds and figures["nonfinite"]["weights_of_step_5"] else 1


if __name__ == "__main__":
    sys.exit(main())
