"""A run's tokenizer: from the Hub or a folder, or a byte-level BPE trained on the corpus."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hf_tti.data.base import fingerprint_of
from hf_tti.errors import UserError
from hf_tti.own_files import check_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
DEFAULT_VOCAB_SIZE = 4096
TRAINING_CHARS = 4_000_000  # a corpus's beginning that is enough for a few thousand merges
LEAST_TRAINING_CHARS = 200_000
CHARS_PER_TOKEN = 4
TRAINING_VERSION = 1


def load_tokenizer(name: str, base_dir: Path) -> "PreTrainedTokenizerBase":
    """A tokenizer from a local folder, if there is one of that name, else from the Hub.

    Raises:
        UserError: not found, unreadable, or without an end-of-text token.
    """
    from transformers import AutoTokenizer

    folder = base_dir / name
    if not folder.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError(f"data.tokenizer: no folder {str(folder)!r}")
    source = str(folder) if folder.exists() else name
    try:
        check_model(source)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # OSError, ValueError, KeyError, httpx and safetensors errors alike
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(
            f"data.tokenizer: cannot load {name!r}: {reason[:300]}; give a folder or a Hub id, or "
            f"leave it "
            "out to train one on the corpus"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"data.tokenizer: {name!r} has no end-of-text (eos) token to put between stories")
    return tokenizer


def training_chars(max_tokens: int | None) -> int:
    """How much of a corpus a tokenizer is trained on: little for a run that reads little."""
    asked = TRAINING_CHARS if max_tokens is None else max_tokens * CHARS_PER_TOKEN
    return min(max(asked, LEAST_TRAINING_CHARS), TRAINING_CHARS)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, num_chars: int = TRAINING_CHARS
) -> "PreTrainedTokenizerFast":
    """A byte-level BPE with GPT-2's pre-tokenization; end-of-text is id 0, and there is no padding token.

    The same texts give the same tokenizer on every machine. A small corpus may run out of merges:
    read `len(tokenizer)`, not `vocab_size`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_first_chars(texts, num_chars), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
    )


def trained_tokenizer_key(corpus_fingerprint: str, vocab_size: int, num_chars: int) -> str:
    """What a trained tokenizer depends on, known before it is trained."""
    return fingerprint_of("bpe", TRAINING_VERSION, num_chars, vocab_size, corpus_fingerprint)


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """sha256 of what decides a text's ids: model, merges, vocabulary, end-of-text id."""
    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content.pop("padding", None)
        content.pop("truncation", None)
    else:
        content = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    return fingerprint_of("tokenizer", content, tokenizer.eos_token_id)


def _first_chars(texts: Iterable[str], num_chars: int) -> Iterator[str]:
    for text in texts:
        yield text
        num_chars -= len(text)
        if num_chars <= 0:
            return
