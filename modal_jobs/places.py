"""Names and mount points that the client and its containers agree on. Imports neither modal nor hf_tti."""

import os
from pathlib import Path, PurePosixPath

APP = "hf-tti"
CHECKPOINTS_VOLUME, DATA_VOLUME = "tti-checkpoints", "tti-data"
CHECKPOINTS, DATA, SOURCE = PurePosixPath("/checkpoints"), PurePosixPath("/data"), PurePosixPath("/root")
CHECKPOINTS_VARIABLE = "HF_TTI_CHECKPOINTS"
SECRETS = {"wandb-secret": "WANDB_API_KEY", "huggingface-secret": "HF_TOKEN"}  # name -> the variable that it holds
RUNS, REPORTS = PurePosixPath("runs"), PurePosixPath("reports")  # on the checkpoints' Volume
VOLUME = "volume:"  # before a place there, in the arguments of a command
ROOT = Path(__file__).resolve().parents[1]  # of the checkout; in a container of the copy of it in SOURCE

ENVIRONMENT = {
    CHECKPOINTS_VARIABLE: str(CHECKPOINTS),
    "HF_TTI_CACHE": str(DATA / "hf_tti"),
    "HF_HOME": str(DATA / "huggingface"),
    "PYTHONPATH": str(SOURCE),
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def on_volume(place: str) -> Path:
    """Inside a container: where something on the checkpoints' Volume is."""
    return Path(os.environ[CHECKPOINTS_VARIABLE], place)
