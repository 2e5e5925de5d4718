"""Hostile checkpoints and run folders: pickles with a manifest that fits, links out, names that lead out."""

from __future__ import annotations

import json

from hostile_list import add
from hostile_models import linked
from world import (
    Case,
    edit,
    evaluate_run,
    evaluate_step,
    link,
    prepare_push,
    resume,
    signed,
    unfinished,
)


def _in_checkpoint(name: str, *, sign: bool = False):
    def plant(case: Case) -> None:
        checkpoint = unfinished(case) / "checkpoint-4"
        (checkpoint / name).write_bytes(case.pickle)
        if sign:
            signed(checkpoint)

    return plant


STOCK = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "scaler.pt", "pytorch_model.bin")
for name in STOCK:
    add(f"checkpoint: a pickle as {name}", _in_checkpoint(name, sign=True), resume)
for name in (
    "optimizer.safetensors",
    "scheduler.safetensors",
    "rng_state_0.safetensors",
    "model.safetensors",
    "trainer_state.json",
):
    add(f"checkpoint: a pickle as {name}, unsigned", _in_checkpoint(name), resume)
    add(
        f"checkpoint: a pickle as {name}, with a manifest that fits",
        _in_checkpoint(name, sign=True),
        resume,
        refused=name != "trainer_state.json",
    )


def _manifest(name: str):
    def plant(case: Case) -> None:
        from hf_tti.checkpoints import _digest

        path = unfinished(case) / "checkpoint-4" / "manifest.json"
        content = json.loads(path.read_text())
        content.pop("sha256")
        content["files"][name.format(outside=case.outside)] = ["0" * 64, 3]
        path.write_text(json.dumps({**content, "sha256": _digest(content)}))

    return plant


for name in ("../../../outside/secret.txt", "{outside}/secret.txt", "a\x00b", "..", "x" * 5000):
    add(f"checkpoint: its manifest names {name[:30]!r}", _manifest(name), resume)


def _all_stock(case: Case) -> None:
    for name in STOCK:
        (unfinished(case) if name == STOCK[0] else case.folder / "run").joinpath("checkpoint-4", name).write_bytes(
            case.pickle
        )
    signed(case.folder / "run" / "checkpoint-4")


add("checkpoint: all of these pickles at once", _all_stock, resume, always=True)
add(
    "checkpoint: a link to a whole one outside",
    linked("unfinished", "checkpoint-6", "checkpoint-6"),
    resume,
    refused=True,
)
add(
    "checkpoint: model.safetensors a link out",
    linked("unfinished", "checkpoint-4/model.safetensors", "model/model.safetensors"),
    resume,
)
add(
    "checkpoint: its tokenizer a link to a secret",
    linked("run", "checkpoint-4/vocab.txt", "secret.txt"),
    evaluate_step,
    refused=True,
)
for name, target in {
    ".lock": "folder/kept.txt", "metrics.jsonl": "folder/kept.txt", "log.txt": "folder/kept.txt", "final": "folder",
    ".damaged": "folder", "report": "folder", ".push": "folder", "wandb": "folder", "tensorboard": "folder",
}.items():  # fmt: skip
    add(f"run: {name} a link out, resumed", linked("unfinished", name, target), resume, refused=True)
add("run: final a link out, evaluated", linked("run", "final", "model"), evaluate_run, refused=True)
add("run: report a link out, evaluated", linked("run", "report", "folder"), evaluate_run, refused=True)
add(
    "run: stories.txt a link to a secret, pushed",
    linked("run", "stories.txt", "secret.txt"),
    prepare_push,
    refused=True,
)
add(
    "run: a pickle as final/pytorch_model.bin, pushed",
    lambda case: (case.copy("run") / "final" / "pytorch_model.bin").write_bytes(case.pickle),
    prepare_push,
)


def _run_json(file: str, **values):
    return lambda case: edit(case.copy("run") / file, **values)


for name in ("../../escaped", "/tmp/escaped", "..", "a\nb", "", "x" * 500):
    add(f"run: run.json names itself {name[:12]!r}", _run_json("run.json", name=name), evaluate_step, refused=True)
add(
    "run: run.json is a list of lists",
    lambda case: (case.copy("run") / "run.json").write_text("[" * 100_000),
    evaluate_step,
    refused=True,
)
add(
    "run: run.json is not UTF-8",
    lambda case: (case.copy("run") / "run.json").write_bytes(b"\xff\xfe{"),
    evaluate_step,
    refused=True,
)
add("run: result.json has no steps", _run_json("result.json", num_steps="../../x"), evaluate_run)
add(
    "run: its recipe has tags",
    lambda case: (case.copy("run") / "recipe.yaml").write_text(
        "question: !!python/object/apply:os.system [touch escaped]\n"
    ),
    evaluate_run,
    refused=True,
)


def _sae(case: Case) -> None:
    folder = case.copy("run") / "report" / "sae" / "transformer.h.0" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text("{}")
    (folder / "sae_weights.safetensors").write_bytes(case.pickle)


def _sae_link(case: Case) -> None:
    _sae(case)
    link(
        case.folder / "run" / "report" / "sae" / "transformer.h.0" / "seed_0" / "cfg.json", case.outside / "secret.json"
    )


add("SAE: a pickle as sae_weights.safetensors, pushed", _sae, prepare_push)
add("SAE: cfg.json a link to a secret, pushed", _sae_link, prepare_push, refused=True)
