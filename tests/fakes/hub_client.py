"""The client of this process, pointed at a fake Hub: its constants are read from the environment on import."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers.utils import hub as of_transformers

from fakes.hub import TOKEN, FakeHub


def point_client_at(hub: FakeHub, patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Every request of huggingface_hub goes to `hub`, as its user `me`; what is downloaded, to `cache`."""
    for name, value in {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_CACHE": str(cache),
    }.items():
        patch.setattr(constants, name, value)
    patch.setenv("HF_TOKEN", TOKEN)
    patch.setattr(of_transformers, "_hf_api", None)  # it keeps the address that it was made with


def go_offline(patch: pytest.MonkeyPatch) -> None:
    """As with HF_HUB_OFFLINE=1: the cache alone answers."""
    patch.setattr(constants, "HF_HUB_OFFLINE", True)
