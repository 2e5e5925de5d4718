"""A training of a second or two for containers of `fakes.modal`, and the same one uninterrupted here."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fakes.modal import FakeModal

RECIPE, RUN = "recipes/quickstart/baseline.yaml", "runs/quickstart/baseline-seed42"
STEPS, EVERY = 40, 5
OVERRIDES = [
    *("data.max_tokens=20000", "data.max_validation_tokens=2000", "data.vocab_size=512", "data.block_size=32"),
    *("model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.n_positions=32"),
    *(f"training.max_steps={STEPS}", f"training.save_steps={EVERY}", "training.eval_steps=100"),
    *("training.per_device_train_batch_size=4", "training.logging_steps=1", "model.resid_pdrop=0.1"),
]
HOLDING = "callbacks.modal_hold:Hold={}"  # an override, for what faults are to come over
ROOT = Path(__file__).resolve().parents[2]


def extra(*overrides: str) -> str:
    """`--extra` of the job."""
    return shlex.join(part for override in (*OVERRIDES, *overrides) for part in ("--set", override))


def train_words(run_dir: Path, overrides: Sequence[str] = ()) -> list[str]:
    """The arguments of `hf-tti` for the same training here, without Modal."""
    return ["train", str(ROOT / RECIPE), *shlex.split(extra(*overrides)), "--run-dir", str(run_dir)]


def reference(folder: Path, *, launcher: Sequence[str] = (), overrides: Sequence[str] = ()) -> Path:
    """The run folder of a training that nothing interrupts; its prepared data lie in `folder/cache/hf_tti`."""
    run = folder / "reference"
    command = [sys.executable, "-m", *launcher, "hf_tti", *train_words(run, overrides)]
    environment = {**os.environ, "HF_TTI_CACHE": str(folder / "cache" / "hf_tti")}
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return run


def put_data(cloud: FakeModal, folder: Path) -> None:
    """What the data job would have left on its Volume."""
    volume = cloud.volume("tti-data")
    for place in (volume.live, volume.committed):
        shutil.copytree(folder / "cache", place, dirs_exist_ok=True)


def noting(cloud: FakeModal, seen: list[str]) -> Callable[[], None]:
    """Appends the `run.json` that the run has on the Volume; for a fault's `look`."""

    def look() -> None:
        seen.append((cloud.volume("tti-checkpoints").live / RUN / "run.json").read_text())

    return look


def differences(run: Path, other: Path) -> list[str]:
    """Files whose bytes differ between two finished runs, and the names of differing results."""
    names = ["final/model.safetensors", f"checkpoint-{STEPS}/optimizer.safetensors", "stories.txt"]
    return [name for name in names if (run / name).read_bytes() != (other / name).read_bytes()]
