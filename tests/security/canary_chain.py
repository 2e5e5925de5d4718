"""Train, evaluate, report and push in one process, as the command line does it; run by `test_canaries.py`."""

import json
import sys
from pathlib import Path

from hf_tti.cli import main
from hf_tti.console import say


def chain(folder: Path) -> list[int]:
    """Exit codes of the commands, in the order of the list."""
    run, recipe = folder / "runs" / "canary", folder / "canary.yaml"
    commands = [
        ["train", str(recipe), "--run-dir", str(run)],
        [
            "evaluate",
            str(run),
            "--metrics",
            "top_contexts,activation_sparsity",
            "--nulls",
            "none",
            "--max-tokens",
            "512",
        ],
        ["report", str(run), "--out", str(folder / "page")],
        ["push", str(run), "--repo", "me/canary"],
        *(["train", str(recipe), *words] for words in json.loads((folder / "arguments.json").read_text())),
    ]
    return [main(command) for command in commands]


if __name__ == "__main__":
    codes = chain(Path(sys.argv[1]))
    say(json.dumps(codes))
