"""Shared fixtures: tiny models of four families, tiny ragged data, and quiet, offline, deterministic runs."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _seeded():
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data named by HF_TTI_DATA; skips where it is not set."""
    folder = os.environ.get("HF_TTI_DATA")
    if not folder:
        pytest.skip("HF_TTI_DATA is not set")
    return Path(folder)
