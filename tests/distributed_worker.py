"""Runs in every rank of `test_distributed.py`: trains each case on the ranks that there are; rank 0 writes results."""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from hf_tti import InterpTrainer
from hf_tti.components import component_names, load_component
from hf_tti.errors import UserError
from test_trainer import MeanSquare
from tiny import arguments, rows, without_dropout

GLOBAL_BATCH = 16
WEIGHT = 5.0


def build(folder: Path, objectives, accumulation: int, data, steps: int, **changes) -> InterpTrainer:
    args = arguments(
        folder,
        **{
            "max_steps": steps,
            "optim": "sgd",
            "learning_rate": 0.1,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "gradient_accumulation_steps": accumulation,
            "per_device_train_batch_size": GLOBAL_BATCH // accumulation // torch.distributed.get_world_size(),
            "per_device_eval_batch_size": 4,
            "ddp_backend": "gloo",
            "logging_steps": steps,
            **changes,
        },
    )
    return InterpTrainer(
        without_dropout(),
        args,
        objectives=objectives,
        train_dataset=data,
        eval_dataset=rows(10, 12, ragged=True, seed=7),
    )


def run(
    folder: Path,
    name: str,
    objectives,
    accumulation: int,
    data,
    weight: float = WEIGHT,
    steps: int = 3,
    evaluate_first: bool = False,
) -> None:
    trainer = build(folder, [objective.weighted(weight) for objective in objectives], accumulation, data, steps)
    if evaluate_first:
        trainer.evaluate()
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.args.process_index == 0:
        logs = next(line for line in trainer.state.log_history if "ce_loss" in line)
        save_file(
            {name: value.contiguous() for name, value in trainer.model.transformer.state_dict().items()},
            folder / f"{name}.safetensors",
        )
        stable = {k: v for k, v in metrics.items() if not k.endswith(("runtime", "_per_second", "preparation_time"))}
        (folder / f"{name}.json").write_text(json.dumps({"logs": logs, "metrics": stable}))


def resume(folder: Path, stopped: Path, data) -> None:
    """One process trains four steps; more go on from its second: refused, and with `elastic_resume` let through."""
    objectives, world = [MeanSquare().weighted(WEIGHT)], torch.distributed.get_world_size()
    saving = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1, "optim": "adamw_torch"}
    run_folder, said = folder / "run", None
    if world > 1:
        if torch.distributed.get_rank() == 0:
            shutil.copytree(stopped / "run", run_folder)
            shutil.rmtree(run_folder / "checkpoint-4")
        torch.distributed.barrier()
        try:
            build(run_folder, objectives, 1, data, 4, **saving).train(resume_from_checkpoint=True)
        except UserError as error:
            said = str(error)
    trainer = build(run_folder, objectives, 1, data, 4, **saving, elastic_resume=True)
    trainer.train(resume_from_checkpoint=world > 1)
    losses = [line["loss"] for line in trainer.state.log_history if "ce_loss" in line]
    if trainer.args.process_index == 0:
        (folder / "resumed.json").write_text(json.dumps({"said": said, "losses": losses}))


def main(folder: Path, alone: Path) -> None:
    ragged = rows(48, 12, ragged=True, seed=3)
    for accumulation in (1, 2, 4):
        run(folder, f"token_sum-{accumulation}", [MeanSquare()], accumulation, ragged)
    run(folder, "token_sum-evaluated_first", [MeanSquare()], 1, ragged, evaluate_first=True)
    resume(folder, alone, ragged)
    run(folder, "token_sum-5_percent_off", [MeanSquare()], 1, ragged, weight=1.05 * WEIGHT)
    for component in component_names("objectives"):
        # One step is the gradient itself; more would measure how training amplifies rounding.
        run(folder, component, [load_component("objectives", component)()], 1, ragged, steps=1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    torch.distributed.destroy_process_group()
