"""The `data:` section of a recipe. Standard library only: recipes are checked without torch."""

from dataclasses import dataclass, field, fields

from hf_tti.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which corpus to train on, and how it becomes blocks of token ids.

    Raises:
        UserError: a number below its range, or options that contradict each other.
    """

    name: str = field(
        default="synthetic_stories",
        metadata={
            "component": "data",
            "help": (
                "Corpus: a file of hf_tti/data (synthetic_stories, tinystories, "
                "simplestories, text_files), or package.module:Class."
            ),
        },
    )
    train: str | None = field(
        default=None,
        metadata={
            "help": (
                "text_files: a .txt, .jsonl, .json or .parquet file, or a folder of "
                "them, found from the recipe's folder or else the current directory. Hub corpora: a local copy or "
                "another Hub id."
            )
        },
    )
    validation: str | None = field(
        default=None,
        metadata={
            "help": (
                "As `train`. text_files without it hold out 1 document in 20, chosen by "
                "a hash of its text, unless the `train` folder has train* and "
                "validation* files."
            )
        },
    )
    text_field: str | None = field(
        default=None,
        metadata={"help": ("Column that holds the text; default: the corpus's own (`text`, or `story`).")},
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": ("Hub id or local folder; default: a byte-level BPE trained on the corpus.")},
    )
    vocab_size: int | None = field(
        default=None,
        metadata={
            "min": 257,
            "help": (
                "Size of the tokenizer trained on the corpus (default 4096), on at most "
                "its first 4 M characters (fewer where max_tokens is small). Not "
                "allowed with `tokenizer`."
            ),
        },
    )
    block_size: int = field(default=512, metadata={"min": 2, "help": "Tokens in a row."})
    packing: bool = field(
        default=True,
        metadata={
            "help": (
                "Join stories, each followed by the end-of-text token, into full blocks "
                "without padding; false: one story a row, truncated to block_size."
            )
        },
    )
    max_tokens: int | None = field(
        default=None,
        metadata={
            "min": 1,
            "help": (
                "Training tokens: stop after the row that reaches this. Default: the "
                "whole corpus; synthetic_stories 10,000,000."
            ),
        },
    )
    max_validation_tokens: int | None = field(
        default=None,
        metadata={
            "min": 1,
            "help": ("As max_tokens, for validation. Default: the whole split; synthetic_stories 200,000."),
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": ("Tokenise while training instead of preparing a cached data set first. Needs training.max_steps.")
        },
    )
    seed: int = field(
        default=0,
        metadata={
            "min": 0,
            "help": "Seed of synthetic_stories and of the held-out documents of text_files.",
        },
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            value, least = getattr(self, item.name), item.metadata.get("min")
            if value is not None and least is not None and value < least:
                raise UserError(f"data.{item.name}: {value} is too small; at least {least}")
        if self.tokenizer is not None and self.vocab_size is not None:
            raise UserError(
                f"data.vocab_size: {self.vocab_size} sizes a tokenizer trained on the corpus, but "
                f"data.tokenizer is {self.tokenizer!r}; remove one of the two"
            )
