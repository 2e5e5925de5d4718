"""Your own text: .txt, .jsonl, .json or .parquet files, or folders of them.

Without `validation`, a `train` folder that has both train* and validation* (valid*, val*, dev*,
else test*) files gives both splits; otherwise 1 document in 20 is held out, chosen by a hash of
its text and the seed, so that the choice depends on neither order nor neighbours, and copies of a
document stay on one side.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from hf_tti.data._files import READING, corpus_files, files_fingerprint, files_named_for, read_documents
from hf_tti.data.base import Split, StoryBuilder, fingerprint_of
from hf_tti.errors import UserError

HELD_OUT_ONE_IN = 20


class TextFiles(StoryBuilder):
    """Documents of the files at `config.train` and `config.validation`."""

    def __init__(self, config, base_dir: Path) -> None:
        super().__init__(config, base_dir)
        if config.train is None:
            raise UserError("data.train: text_files needs a .txt, .jsonl, .json or .parquet file or a folder")
        self.field = config.text_field or self.text_field
        self.files = {"train": corpus_files(base_dir / config.train, place="data.train")}
        if config.validation is not None:
            self.files["validation"] = corpus_files(base_dir / config.validation, place="data.validation")
        else:
            named = {split: files_named_for(split, self.files["train"]) for split in ("train", "validation")}
            if all(named.values()):
                self.files = named
        self._hashes: dict[Split, str] = {}

    @property
    def holds_out(self) -> bool:
        """Whether validation is a share of the training files' documents."""
        return "validation" not in self.files

    def stories(self, split: Split) -> Iterator[str]:
        if not self.holds_out:
            yield from read_documents(self.files[split], self.field)
            return
        for document in read_documents(self.files["train"], self.field):
            if self._held_out(document) == (split == "validation"):
                yield document

    def fingerprint(self, split: Split) -> str:
        source: Split = "train" if self.holds_out else split
        if source not in self._hashes:
            self._hashes[source] = files_fingerprint(self.files[source])
        held_out = [split, self.config.seed, HELD_OUT_ONE_IN] if self.holds_out else None
        return fingerprint_of("text_files", READING, self._hashes[source], self.field, held_out)

    def _held_out(self, document: str) -> bool:
        key = self.config.seed.to_bytes(8, "little")
        digest = hashlib.blake2b(document.encode(), digest_size=8, key=key).digest()
        return int.from_bytes(digest, "little") % HELD_OUT_ONE_IN == 0
