"""What a corpus is: story texts per split, in a fixed order, and a fingerprint of their content."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from hf_tti.data._config import DataConfig

Split = Literal["train", "validation"]


def fingerprint_of(*parts: Any) -> str:
    """Hex sha256 of JSON-able values; the same in every process and on every machine."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class StoryBuilder:
    """A corpus. A file `hf_tti/data/<name>.py` with a subclass of the same name is all it takes to
    add one.

    Args:
        config: the recipe's `data:` section.
        base_dir: the folder that relative paths start from.
    """

    text_field: ClassVar[str] = "text"
    default_num_tokens: ClassVar[dict[str, int]] = {}  # split -> bound where the recipe states none

    def __init__(self, config: DataConfig, base_dir: Path) -> None:
        self.config = config
        self.base_dir = base_dir

    def stories(self, split: Split) -> Iterator[str]:
        """The split's texts, from the start on each call, always in the same order."""
        raise NotImplementedError

    def fingerprint(self, split: Split) -> str:
        """A string that changes whenever the split's texts do."""
        raise NotImplementedError

    def max_tokens(self, split: Split) -> int | None:
        """The bound on a split's tokens: the recipe's, else the corpus's own; None: no bound."""
        asked = self.config.max_tokens if split == "train" else self.config.max_validation_tokens
        return asked if asked is not None else self.default_num_tokens.get(split)
