"""W&B's own `wandb sweep` and `wandb agent` train the runs of two recipes from what `hf-tti sweep --wandb` prints.

    python tests/interop/check_wandb_agent.py    (wandb installed; the server is tests/fakes/wandb.py, on 127.0.0.1)

Says the runs in JSON; the exit code is 1 where one is missing, in another folder, or not the agent's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes.wandb import fake_wandb
from fakes.wandb_answers import ENTITY
from tiny_runs import write_recipe

PROJECT = "training-time-interpretability"
FOLDERS = ["runs/tiny_runs/a-seed1", "runs/tiny_runs/a-seed2", "runs/tiny_runs/b-seed7"]


def check(folder: Path) -> bool:
    write_recipe(folder, "a", sweep={"seeds": [1, 2]}, training={"max_steps": 2})
    write_recipe(folder, "b", training={"max_steps": 2})
    with fake_wandb() as server:
        beside = {"HF_TTI_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "HOME": str(folder)}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, **server.environment, **beside, "PATH": path}

        def run(*command: str) -> str:
            done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            return done.stdout

        definition = run("hf-tti", "sweep", "--wandb", "a.yaml", "b.yaml", "--set", "training.learning_rate=0.02")
        (folder / "sweep.yaml").write_text(definition)
        run("wandb", "sweep", "sweep.yaml")
        (sweep,) = server.sweeps.values()
        run("wandb", "agent", f"{ENTITY}/{PROJECT}/{sweep.name}")
    found = {
        name: {
            "run": run.last("displayName"),
            "sweep": run.last("sweep"),
            "finished": run.is_complete and run.exit_code == 0,
        }
        for name, run in server.runs.items()
    }
    print(json.dumps(found, indent=1))
    kept = {
        name: json.loads((folder / name / "run.json").read_text())["tracker_run_id"]
        for name in FOLDERS
        if (folder / name / "result.json").is_file()
    }
    return list(kept) == FOLDERS and kept == {
        f"runs/tiny_runs/{facts['run']}": name
        for name, facts in found.items()
        if facts["sweep"] == sweep.name and facts["finished"]
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(0 if check(Path(temporary)) else 1)
