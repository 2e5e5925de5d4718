"""A fake Hub that this process's own client talks to."""

from collections.abc import Iterator

import huggingface_hub
import pytest

from fakes.hub import TOKEN, FakeHub, fake_hub


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[FakeHub]:
    with fake_hub() as server:
        for name, value in (
            ("ENDPOINT", server.endpoint),
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_HUB_CACHE", str(tmp_path / "hub_cache")),
        ):
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        huggingface_hub.close_session()
        yield server
    huggingface_hub.close_session()
