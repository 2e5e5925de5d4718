"""Figures of the synthetic stories: speed with labels, repetition, and how much is left to learn.

    python tests/benchmarks/bench_synthetic_stories.py [--tokenizer FOLDER] [--tokens 10000000]

Speed is generation with every label on one core, in tokens of the tokenizer (tokenisation is not
counted). Cross-entropies are of interpolated Witten-Bell n-grams, fitted on the first 1/8, 1/4, 1/2
and all of the training stream and scored on the held-out stream: they fall for as long as the text
holds something new.
"""

import argparse
import hashlib
import math
import sys
import time
from collections.abc import Iterator
from itertools import islice

import numpy as np

from hf_tti.data._packing import tokenize
from hf_tti.data._tokenizers import load_tokenizer, train_tokenizer
from hf_tti.data.synthetic_stories import generate_stories

MAX_ORDER = 4


def context_keys(ids: np.ndarray, order: int) -> np.ndarray:
    """A 64-bit key per position of its `order` latest ids."""
    key = np.zeros(len(ids), dtype=np.uint64)
    for back in range(order):
        shifted = np.concatenate([np.zeros(back, dtype=np.uint64), ids[: len(ids) - back].astype(np.uint64) + 1])
        key = (key ^ shifted) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key


def lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """values[keys == wanted], 0 where absent; keys sorted."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def cross_entropies(train: np.ndarray, test: np.ndarray, num_ids: int) -> list[float]:
    """Nats per token of the 1- to 4-gram Witten-Bell models."""
    probability = np.full(len(test), 1 / num_ids)
    result = []
    for order in range(1, MAX_ORDER + 1):
        full, full_counts = np.unique(context_keys(train, order), return_counts=True)
        context_of_train = np.concatenate([[0], context_keys(train, order - 1)[:-1]]).astype(np.uint64)
        context_of_test = np.concatenate([[0], context_keys(test, order - 1)[:-1]]).astype(np.uint64)
        contexts, totals = np.unique(context_of_train, return_counts=True)
        # distinct continuations: one context per distinct n-gram
        first = np.unique(context_keys(train, order), return_index=True)[1]
        kinds_keys, kinds = np.unique(context_of_train[first], return_counts=True)
        total = lookup(contexts, totals, context_of_test)
        kind = lookup(kinds_keys, kinds, context_of_test)
        count = lookup(full, full_counts, context_keys(test, order))
        weight = np.where(total > 0, total + kind, 1)
        probability = np.where(total > 0, (count + kind * probability) / weight, probability)
        result.append(float(-np.log(probability).mean()))
    return result


def stream(split: str, tokenizer, num_tokens: int, digests: set[bytes] | None = None) -> tuple[np.ndarray, int, int]:
    """The first num_tokens ids; the stories in them; how many repeat a text in `digests`."""
    seen = 0
    repeats = 0

    def texts() -> Iterator[str]:
        nonlocal seen, repeats
        for story in generate_stories(0, split):
            seen += 1
            digest = hashlib.blake2b(story.text.encode(), digest_size=16).digest()
            repeats += digest in digests
            digests.add(digest)
            yield story.text

    ids = np.empty(num_tokens, dtype=np.int32)
    filled = 0
    for document in tokenize(texts(), tokenizer):
        part = document[: num_tokens - filled]
        ids[filled : filled + len(part)] = part
        filled += len(part)
        if filled == num_tokens:
            break
    return ids, seen, repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="Hub id or folder; default: a BPE of 4096 trained on the stories")
    parser.add_argument("--tokens", type=int, default=10_000_000)
    args = parser.parse_args()
    if args.tokenizer:
        from pathlib import Path

        tokenizer = load_tokenizer(args.tokenizer, Path.cwd())
    else:
        tokenizer = train_tokenizer((s.text for s in generate_stories(0)), 4096)

    sample = list(islice(generate_stories(0, "validation"), 200))
    started = time.perf_counter()
    sample = list(islice(generate_stories(0, "train"), 5000))
    seconds = time.perf_counter() - started
    num_tokens = sum(map(len, tokenize((story.text for story in sample), tokenizer)))
    out = sys.stdout.write
    out(f"{num_tokens / seconds * 60 / 1e6:.1f} M tokens a minute with labels, {num_tokens / 5000:.0f} a story\n")

    digests: set[bytes] = set()
    train, num_stories, repeats = stream("train", tokenizer, args.tokens, digests)
    test, num_held_out, shared = stream("validation", tokenizer, max(args.tokens // 50, 1), digests)
    out(f"{num_stories} stories in {args.tokens:,} tokens, {repeats} repeated; ")
    out(f"{shared} of {num_held_out} held-out stories repeated or in training\n")
    out(f"{'tokens':>12} " + " ".join(f"{n}-gram nats" for n in range(1, MAX_ORDER + 1)) + "\n")
    for share in (8, 4, 2, 1):
        part = train[: args.tokens // share]
        values = cross_entropies(part, test, len(tokenizer))
        out(f"{len(part):>12,} " + " ".join(f"{value:11.5f}" for value in values) + "\n")
        assert all(map(math.isfinite, values))


if __name__ == "__main__":
    main()
