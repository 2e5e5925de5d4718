"""NaN and Inf in loss, term, gradient or weight, on one of the ranks of a training: what is said, what is left.

    python tests/faults/nonfinite.py [--worlds 1 2] [--quick]
Accumulation is 2, logging and saving every 4 steps, the fault in the second micro-batch of step 6. A case holds if all
ranks stop with the name, the step and the rank, with the weights of step 5, and checkpoint-4 alone, whole and finite.
Each is done twice: as on a CPU, where the run stops at once, and as on a device that nobody waits for, where the fused
optimizer leaves updates out (`found_inf`; here AdamW's fused CPU kernel) until the run logs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from children import start, wait
from ranks import as_rank, free_port
from safetensors.torch import load_file
from training import NextActivation
from transformers import TrainerCallback

from hf_tti import InterpTrainer, InterpTrainingArguments, Objective, Term
from hf_tti.checkpoints import checkpoints_of, problems_of
from hf_tti.errors import UserError
from tiny import rows, tiny_model

EVERY, BAD = 4, 6  # steps between log lines and checkpoints; the step of the fault
ACCUMULATION = 2
USED, UNUSED = "transformer.h.0.mlp.c_fc.bias", "transformer.wpe.weight"
OWN = "interp_objectives.next.maps.0.weight"
AS_ON = ("cpu", "device")


@dataclass(frozen=True, kw_only=True)
class Planted(Objective):
    """A term of zeros, but for `value` in one step of one rank."""

    value: float = 0.0
    kind: str = "token_sum"

    def terms(self, forward, scope):
        zero = sum(site.activations.float().sum() for site in forward.sites.values()) * 0
        own = zero + (self.value if scope.step == BAD - 1 else 0.0)
        return {"zero": Term(scope.all_reduce(own) if self.kind == "statistic" else own, kind=self.kind)}


class Keep(TrainerCallback):
    """The weights at the end of the step before the fault; then, at the fault's step, does something to the trainer."""

    def __init__(self, fault: Callable[[InterpTrainer], None], *, before_update: bool):
        self.trainer: InterpTrainer | None = None
        self.weights: dict[str, torch.Tensor] = {}
        self._fault, self._before_update = fault, before_update

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == BAD - 1:
            self.weights = {name: value.clone() for name, value in self.trainer._weights().items()}
            if not self._before_update:
                self._fault(self.trainer)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == BAD - 1 and self._before_update:
            self._fault(self.trainer)


@dataclass(frozen=True)
class Case:
    """A value planted at one place of one rank."""

    what: str
    value: float
    rank: int

    def __str__(self) -> str:
        return f"{self.value} in {self.what} of rank {self.rank}"


def weight_named(trainer: InterpTrainer, name: str) -> torch.nn.Parameter:
    return trainer._weights()[name]


def spoil(name: str, value: float) -> Callable[[InterpTrainer], None]:
    """Sets the last number of a weight."""

    def work(trainer: InterpTrainer) -> None:
        with torch.no_grad():
            weight_named(trainer, name).view(-1)[-1] = value

    return work


def spoil_gradient(name: str, value: float) -> Callable[[InterpTrainer], None]:
    """Adds to a weight's gradient in the second micro-batch from here on, before ranks exchange it."""

    def work(trainer: InterpTrainer) -> None:
        calls: list[None] = []

        def hook(gradient):
            calls.append(None)
            return gradient + value if len(calls) == ACCUMULATION else gradient

        weight_named(trainer, name).register_hook(hook)

    return work


def spoil_loss(value: float) -> Callable[[InterpTrainer], None]:
    """Adds to the model's loss in the second forward from here on."""

    def work(trainer: InterpTrainer) -> None:
        calls: list[None] = []

        def hook(model, inputs, outputs):
            calls.append(None)
            if len(calls) == ACCUMULATION:
                outputs.loss = outputs.loss + value
            return outputs

        trainer.model.register_forward_hook(hook)

    return work


def overflow(trainer: InterpTrainer) -> None:
    """The update itself makes weights infinite."""
    for group in trainer.optimizer.param_groups:
        group["lr"] = 1e39


def nothing(trainer: InterpTrainer) -> None:
    """On the other ranks."""


FAULTS: dict[str, Callable[[float], Callable[[InterpTrainer], None]]] = {
    "the loss": spoil_loss,
    "a term": lambda value: nothing,
    "a statistic": lambda value: nothing,
    "a gradient": lambda value: spoil_gradient(USED, value),
    "a gradient of an objective's own": lambda value: spoil_gradient(OWN, value),
    "a weight": lambda value: spoil(USED, value),
    "a weight that no token uses": lambda value: spoil(UNUSED, value),
    "a weight of an objective's own": lambda value: spoil(OWN, value),
    "the update": lambda value: overflow,
}
SAID = {
    "the loss": "ce_loss is not finite in step 6{one};",
    "a term": "objective/planted is not finite in step 6{one};",
    "a statistic": "objective/planted is not finite in step 6{all};",
    "a gradient": "the gradient is not finite in step 6{all};",
    "a gradient of an objective's own": "the gradient of an objective's own is not finite in step 6{all};",
    "a weight": f"ce_loss is not finite in step 6{{one}};.*{USED}{{one}} was not finite before it",
    "a weight that no token uses": f"{UNUSED} is not finite after step 8{{one}};",
    "a weight of an objective's own": f"objective/next is not finite in step 6{{one}};.*{OWN}{{one}} was not finite",
    "the update": "ce_loss is not finite in step 7{all};",
}
UPDATED = ("a weight that no token uses", "the update")  # faults that the update of step 6 does not see


def said_of(case: Case, world: int) -> str:
    """A pattern of what is said."""
    several = world > 1
    return SAID[case.what].format(one=f" on rank {case.rank}" * several, all=" on every rank" * several)


def cases(world: int) -> Iterator[Case]:
    """All of them; an overflow is one of every rank."""
    for what in FAULTS:
        for value in (float("nan"), float("inf")) if what != "the update" else (float("inf"),):
            for rank in range(world) if what != "the update" else (0,):
                yield Case(what, value, rank)


def stopped(folder: Path, case: Case, rank: int, world: int, as_on: str) -> dict[str, Any]:
    """Train until the fault stops it; what this rank saw."""
    here = rank == case.rank or case.what == "the update"
    kind = {"a term": "token_sum", "a statistic": "statistic"}.get(case.what)
    planted = Planted(value=case.value if here and kind else 0.0, kind=kind or "token_sum")
    keep = Keep(FAULTS[case.what](case.value) if here else nothing, before_update=case.what == "the update")
    trainer = InterpTrainer(
        tiny_model(),
        InterpTrainingArguments(
            str(folder),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=ACCUMULATION,
            max_steps=20,
            learning_rate=1e-2,
            logging_steps=EVERY,
            save_strategy="steps",
            save_steps=EVERY,
            optim="adamw_torch_fused",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=1,
            data_seed=1,
            ddp_backend="gloo" if world > 1 else None,
        ),
        objectives=[
            NextActivation(sites=("mlp.out",)).weighted(0.05, label="next"),
            planted.weighted(1.0, label="planted"),
        ],
        metrics={},
        train_dataset=rows(40, 16, ragged=True),
        callbacks=[keep],
    )
    trainer._guard._waits = as_on == "device"
    trainer.run_facts = lambda: {}  # the value planted differs between ranks
    keep.trainer, error = trainer, None
    try:
        trainer.train()
    except UserError as caught:
        error = str(caught)
    spoiled = {"a weight": USED, "a weight of an objective's own": OWN}.get(case.what)
    after = {name: value for name, value in trainer._weights().items() if name != spoiled}
    kept = {name: keep.weights[name] for name in after}
    return {"said": error, "unchanged": all(torch.equal(value, kept[name]) for name, value in after.items())}


def work(base: Path, rank: int, world: int, as_on: str, port: int, keep: Callable[[Case], bool]) -> None:
    """Every case on this rank, one after another."""
    as_rank(rank, world, port)
    found = {str(case): stopped(folder_of(base, case), case, rank, world, as_on) for case in cases(world) if keep(case)}
    (base / f"{rank}.json").write_text(json.dumps(found))


def folder_of(base: Path, case: Case) -> Path:
    return base / str(case).replace(" ", "-")


def judged(case: Case, folder: Path, world: int, seen: list[dict[str, Any]]) -> list[str]:
    """What does not hold."""
    wrong = [f"rank {rank} said {of['said']}" for rank, of in enumerate(seen) if not matches(case, world, of["said"])]
    if case.what not in UPDATED:
        wrong += [f"rank {rank} updated" for rank, of in enumerate(seen) if not of["unchanged"]]
    left = checkpoints_of(folder)
    if [path.name for path in left] != [f"checkpoint-{EVERY}"] or problems_of(left[0]):
        return [*wrong, f"left {[path.name for path in left]}"]
    weights = [value for file in left[0].glob("*.safetensors") for value in load_file(file).values()]
    return wrong + ["not finite on disk"] * (not all(bool(torch.isfinite(v).all()) for v in weights))


def matches(case: Case, world: int, said: str | None) -> bool:
    return said is not None and re.match(said_of(case, world), said) is not None


def measure(worlds: tuple[int, ...] = (1, 2), keep: Callable[[Case], bool] = lambda case: True) -> dict[str, Any]:
    """The figures of the cases that `keep` wants."""
    figures: dict[str, Any] = {"cases": 0, "hold": 0, "ranks": 0, "failed": {}}
    begun = time.monotonic()
    for world in worlds:
        for as_on in AS_ON:
            with tempfile.TemporaryDirectory() as temporary:
                base, port = Path(temporary), free_port()
                todo = [partial(work, base, rank, world, as_on, port, keep) for rank in range(world)]
                pids = [start(each, base / f"{rank}.log") for rank, each in enumerate(todo)]
                if any([wait(pid) for pid in pids]):
                    raise SystemExit("\n".join((base / f"{rank}.log").read_text()[-2000:] for rank in range(world)))
                seen = [json.loads((base / f"{rank}.json").read_text()) for rank in range(world)]
                for case in filter(keep, cases(world)):
                    wrong = judged(case, folder_of(base, case), world, [of[str(case)] for of in seen])
                    figures["cases"] += 1
                    figures["ranks"] += world
                    figures["hold"] += not wrong
                    if wrong:
                        figures["failed"][f"{world} x as on {as_on}: {case}"] = wrong
    figures["seconds"] = round(time.monotonic() - begun, 1)
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="NaN on the last rank of the largest world alone")
    options = parser.parse_args()
    worlds = tuple(options.worlds)
    if options.quick:
        found = measure(worlds[-1:], keep=lambda case: case.value != case.value and case.rank == worlds[-1] - 1)
    else:
        found = measure(worlds)
    print(json.dumps(found))
    sys.exit(0 if found["hold"] == found["cases"] else 1)
