"""A corpus on the Hugging Face Hub, downloaded once (or streamed) through `datasets.load_dataset`.

`train:` names a local copy, read as text_files reads it, or another Hub data set of the same
layout.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from hf_tti.data._files import READING
from hf_tti.data.base import Split, StoryBuilder, fingerprint_of
from hf_tti.data.text_files import TextFiles
from hf_tti.errors import UserError, did_you_mean
from hf_tti.redaction import masked_forms


class HubStories(StoryBuilder):
    """Base of the Hub corpora; a subclass names its data set, splits and text column.

    Raises:
        UserError: the Hub cannot be reached and nothing is cached, or the split or column is not
        there.
    """

    hub_id: ClassVar[str]
    hub_splits: ClassVar[dict[str, str]] = {"train": "train", "validation": "validation"}

    def __init__(self, config, base_dir: Path) -> None:
        super().__init__(config, base_dir)
        self.field = config.text_field or self.text_field
        self.source = config.train or self.hub_id
        self.local: TextFiles | None = None
        if config.train is not None and (base_dir / config.train).exists():
            self.local = TextFiles(replace(config, text_field=self.field), base_dir)
        elif config.validation is not None:
            raise UserError(
                f"data.validation: {config.validation!r} goes with a local data.train; "
                f"{self.source!r} on the Hub has its own split {self.hub_splits['validation']!r}"
            )

    def stories(self, split: Split) -> Iterator[str]:
        if self.local is not None:
            yield from self.local.stories(split)
            return
        for row in self._load(split):
            if text := (row[self.field] or "").strip():
                yield masked_forms(text)

    def fingerprint(self, split: Split) -> str:
        if self.local is not None:
            return self.local.fingerprint(split)
        return fingerprint_of("hub", READING, self.source, self.revision, self.hub_splits[split], self.field)

    @cached_property
    def revision(self) -> str:
        """The commit of the data on the Hub; offline, that of the cached copy."""
        if not self.config.streaming:
            # <cache>/<owner>___<name>/<config>/<version>/<commit>/<file>.arrow
            return Path(self._load("train").cache_files[0]["filename"]).parent.name
        from huggingface_hub import HfApi

        try:
            return HfApi().dataset_info(self.source).sha
        except Exception as error:
            raise self._unreachable(error) from error

    def _load(self, split: Split) -> Any:
        import datasets

        asked = self.hub_splits[split]
        try:
            rows = datasets.load_dataset(self.source, split=asked, streaming=self.config.streaming)
        except Exception as error:  # the client raises OSError, ValueError, httpx and its own classes
            raise self._unreachable(error, split=asked) from error
        names = list(rows.column_names or [])
        if names and self.field not in names:
            raise UserError(
                f"data.text_field: {self.source!r} has no column {self.field!r}"
                f"{did_you_mean(self.field, names)}; columns there: {', '.join(names)}"
            )
        return rows

    def _unreachable(self, error: Exception, split: str | None = None) -> UserError:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        part = f" (split {split!r})" if split else ""
        return UserError(
            f"data: cannot load {self.source!r}{part} from the Hub: {type(error).__name__}: "
            f"{reason[:200]}; "
            "with a local copy set data.train to its folder, or use data.name=synthetic_stories "
            "offline"
        )
