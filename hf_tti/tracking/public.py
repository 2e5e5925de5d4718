"""What of a configuration a tracker is told: no secret, and of a local path its last name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_tti.redaction import masked


def public(value: Any) -> Any:
    """The same nested containers with every text masked, and absolute paths cut to their last name."""
    if isinstance(value, Mapping):
        return {str(key): public(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [public(item) for item in value]
    if isinstance(value, Path):
        return public(str(value))
    if isinstance(value, str):
        return masked(Path(value).name if os.path.isabs(value) else value)
    return value
