"""The README's eight commands, from nothing to a shared checkpoint, against a control plane and a Hub on 127.0.0.1.

They run as they stand there, but for the recipe: a tiny one without a tracker, on a container without a GPU.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("modal")

from fakes.hub import fake_hub
from fakes.modal import fake_modal
from fakes.modal_training import EVERY, OVERRIDES, STEPS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.split("## From zero to a shared checkpoint")[1].split("\n## ")[0]
EIGHT, COLLEAGUE = re.findall(r"```bash\n(.*?)```", SECTION, flags=re.DOTALL)
INSTEAD = {
    "orthogonality-weight0.001": "orthogonality",
    "expt1": "quickstart",
    "step5000": f"step{EVERY}",
    "--set tracking.tracker=wandb": "",
}


def commands(block: str) -> list[list[str]]:
    """Each command's words, with the tiny run in the place of the README's; continued lines are one."""
    lines = [line.split("  #")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
    found = []
    for line in filter(None, lines):
        for old, new in INSTEAD.items():
            line = line.replace(old, new)
        before, _, line = line.rpartition("&& ")
        if before:
            Path(before.split()[-1]).mkdir(parents=True)
        words = shlex.split(os.path.expandvars(line))
        smaller = [part for override in OVERRIDES for part in ("--set", override)]
        if "modal_jobs/train.py" in words:
            words[-1] += " " + shlex.join(smaller)
            words += ["--gpu", "cpu"]
        elif "modal_jobs/data.py" in words or words[:2] == ["hf-tti", "cost"]:
            words += smaller
        elif "modal_jobs/evaluate.py" in words:
            words += ["--gpu", "cpu", "--extra", "--metrics sparsity --nulls none"]
        found.append([sys.executable, "-m", words[0].replace("-", "_"), *words[1:]])
    return found


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder like a checkout, an account on each side, and nothing else."""
    for name in ("recipes", "modal_jobs", "hf_tti", "analysis", "setup.cfg", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "cloud").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with fake_hub() as hub:
        hub.accept()
        for name, value in {**hub.environment, "HF_HOME": str(tmp_path / "hf"), "COLUMNS": "300"}.items():
            monkeypatch.setenv(name, value)
        with fake_modal(tmp_path / "cloud") as cloud:
            cloud.secrets.clear()
            for name, value in cloud.environment.items():
                monkeypatch.setenv(name, value)
            yield cloud, hub


def run(words: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_eight_commands_lead_to_a_checkpoint_that_a_colleague_measures(world):
    cloud, hub = world
    eight = commands(EIGHT)
    assert len(eight) == 8
    for words in eight:
        done = run(words)
        cloud.wait()
        logs = "".join(cloud.log(number) for number in range(len(cloud.logs)))
        assert done.returncode == 0, (words, done.stdout, done.stderr, logs)
    branches = hub.repos["me/orthogonality"].branches
    assert {"main", *(f"step{step}" for step in range(EVERY, STEPS + 1, EVERY))} <= set(branches)
    assert "report/report.json" in branches["main"]
    for words in commands(COLLEAGUE):
        done = run(words)
        assert done.returncode == 0, (words, done.stderr)
    assert list(Path("reports").glob("*/report.json"))
