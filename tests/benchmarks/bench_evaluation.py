"""Metric time of a streaming evaluation against two plain ways of measuring the same, on the same activations.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_evaluation.py [--tokens 98304 --repeats 5]

Measured: activation_sparsity, l0, token_entropy, cosine_similarity and the top 20 contexts of every unit of `mlp.out`
in 6 layers, D 384, V 50,257. Activations are given (the forward is nobody's time): 8,000 token types by Zipf's law, a
low-rank mixture of a token's and its neighbours' vectors, and noise.

    row by row   as the published study describes it: every row is offered to a reservoir of 32,768 rows for the cosine
                 matrix; each unit has a heap, to which the 20 largest of each batch are offered (one, as published,
                 would not be exact), and a context that enters brings its text; dense [V, D] tables
    one filter   the same, a row compared with the smallest of all heaps at once: no longer straightforward
    all at once  the plain vectorised way: keep every activation, then one dense formula a metric; texts at the end
    ours         hf_tti.metrics, batch by batch; at the end the text of each token in a context, as reports have it

One process, one thread, the order rotates with each repeat; CPU time, which other processes disturb less than wall.
`--no-texts`: contexts are token ids, nobody decodes.
Memory: how far a process of its own rises (VmHWM) from the first batch to the end.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerFast

from hf_tti.activations import ForwardPass, Site
from hf_tti.components import load_component

LAYERS, WIDTH, VOCAB, BATCH, LENGTH = 6, 384, 50_257, 8, 512
TYPES, RANK, RESERVOIR, K, WINDOW, THRESHOLD = 8000, 96, 32_768, 20, 10, 0.01
NAMES = ("activation_sparsity", "l0", "token_entropy", "cosine_similarity", "top_contexts")
SITE = "mlp.out"
Values = dict[str, Any]  # per layer: sparsity, l0, entropy, cosine [D, D], contexts (values, tokens, positions)


def make_batches(num_tokens: int) -> Iterator[ForwardPass]:
    draw = torch.Generator().manual_seed(0)
    frequency = 1 / (torch.arange(TYPES) + 4.0) ** 1.3
    id_of_type = torch.randperm(VOCAB, generator=draw)[:TYPES]
    vectors = torch.randn(LAYERS, TYPES, RANK, generator=draw)
    mixing = torch.randn(LAYERS, RANK, WIDTH, generator=draw) / RANK**0.5
    for _ in range(num_tokens // (BATCH * LENGTH)):
        types = torch.multinomial(frequency, BATCH * LENGTH, replacement=True, generator=draw).view(BATCH, LENGTH)
        sites = {}
        for layer in range(LAYERS):
            own = vectors[layer][types]
            context = sum(own.roll(back, dims=1) / (back + 1) for back in range(1, 4))
            noise = torch.randn(BATCH, LENGTH, WIDTH, generator=draw)
            sites[f"h.{layer}.mlp"] = Site((own + context) @ mixing[layer] + 0.5 * noise, layer, SITE)
        yield ForwardPass(id_of_type[types], torch.ones(BATCH, LENGTH, dtype=torch.bool), sites)


# ---- Three ways --------------------------------------------------------------------------------


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A word a token, behind the decoder of transformers' fast tokenizers."""
    words = Tokenizer(WordLevel({f"word{i}": i for i in range(VOCAB)}, unk_token="word0"))
    return PreTrainedTokenizerFast(tokenizer_object=words)


def text_of(ids: list[int]) -> str:
    return tokenizer().decode([token for token in ids if token >= 0], clean_up_tokenization_spaces=False)


def ours(batches: Iterable[ForwardPass], texts: bool = True) -> list[Values]:
    metrics = {name: load_component("metrics", name)(sites=(SITE,)) for name in NAMES}
    states = {name: metric.init() for name, metric in metrics.items()}
    for batch in batches:
        batch.shared.clear()
        for name, metric in metrics.items():
            states[name] = metric.update(states[name], batch)
        batch.shared.clear()
    values = {name: metric.finalize(states[name]) for name, metric in metrics.items()}
    contexts = values["top_contexts"]
    if texts:
        ids = np.unique(np.concatenate([np.unique(v) for name, v in contexts.items() if name.startswith("tokens/")]))
        tokenizer().batch_decode([[token] for token in ids[ids >= 0].tolist()], clean_up_tokenization_spaces=False)
    return [
        {
            "sparsity": values["activation_sparsity"][f"layer_{layer}"],
            "l0": values["l0"][f"layer_{layer}"],
            "entropy": values["token_entropy"][f"layer_{layer}"],
            "cosine": values["cosine_similarity"][f"matrix/layer_{layer}"],
            "contexts": [contexts[f"{name}/layer_{layer}"] for name in ("values", "tokens", "positions")],
        }
        for layer in range(LAYERS)
    ]


def row_by_row(batches: Iterable[ForwardPass], texts: bool = True, one_filter: bool = False) -> list[Values]:
    draw = random.Random(0)
    below, seen = [0] * LAYERS, 0
    tables = [torch.zeros(VOCAB, WIDTH) for _ in range(LAYERS)]
    reservoirs: list[list[Tensor]] = [[] for _ in range(LAYERS)]
    heaps = [[[] for _ in range(WIDTH)] for _ in range(LAYERS)]
    floors = [np.zeros(WIDTH, dtype=np.float32) for _ in range(LAYERS)]
    for batch in batches:
        ids = batch.input_ids.flatten()
        rows_of_ids, shown = batch.input_ids.tolist(), {}
        for layer, site in enumerate(batch.sites.values()):
            rows = site.activations.flatten(0, 1)
            write = rows.abs()
            below[layer] += int((write < THRESHOLD * write.amax(dim=1, keepdim=True)).sum())
            tables[layer].scatter_add_(0, ids.unsqueeze(1).expand_as(rows), write)
            offer_rows(reservoirs[layer], rows, seen, draw)
            shower = partial(show, shown=shown, rows_of_ids=rows_of_ids, texts=texts)
            if one_filter:
                offer_to_all_heaps(heaps[layer], floors[layer], rows.numpy(), shower)
            else:
                offer_to_each_heap(heaps[layer], rows, shower)
        seen += len(ids)
    pairs = seen * WIDTH
    return [
        {
            "sparsity": below[layer] / pairs,
            "l0": WIDTH * (1 - below[layer] / pairs),
            "entropy": dense_entropy(tables[layer]),
            "cosine": cosine_matrix(torch.stack(reservoirs[layer])).numpy(),
            "contexts": sorted_heaps(heaps[layer]),
        }
        for layer in range(LAYERS)
    ]


def offer_rows(reservoir: list[Tensor], rows: Tensor, seen: int, draw: random.Random) -> None:
    """Algorithm R."""
    for number, row in enumerate(rows, seen):
        if len(reservoir) < RESERVOIR:
            reservoir.append(row.clone())  # a view would keep its whole batch
        elif (place := draw.randint(0, number)) < RESERVOIR:
            reservoir[place] = row.clone()


def offer_to_each_heap(heaps: list[list], rows: Tensor, shower: Callable[[int], tuple]) -> None:
    values, indices = (found.T.tolist() for found in rows.topk(K, dim=0))
    for heap, largest, places in zip(heaps, values, indices, strict=True):
        for value, index in zip(largest, places, strict=True):
            if len(heap) < K:
                heapq.heappush(heap, (value, *shower(index)))
            elif value > heap[0][0]:
                heapq.heapreplace(heap, (value, *shower(index)))
            else:
                break  # the others are smaller


def offer_to_all_heaps(heaps: list[list], floors: np.ndarray, rows: np.ndarray, shower: Callable[[int], tuple]) -> None:
    for index, row in enumerate(rows):
        for unit in (row > floors).nonzero()[0].tolist():
            heap, context = heaps[unit], (float(row[unit]), *shower(index))
            if len(heap) < K:
                heapq.heappush(heap, context)
            else:
                heapq.heapreplace(heap, context)
            if len(heap) == K:
                floors[unit] = heap[0][0]


def show(index: int, *, shown: dict, rows_of_ids: list, texts: bool) -> tuple[list[int], int, str]:
    """Window, position and text of a token, made once a batch."""
    if index not in shown:
        line, column = divmod(index, LENGTH)
        ids, before = rows_of_ids[line], max(WINDOW - column, 0)
        window = ids[max(column - WINDOW, 0) : column + WINDOW + 1]
        window = [-1] * before + window + [-1] * (2 * WINDOW + 1 - before - len(window))
        shown[index] = (window, column, text_of(window) if texts else "")
    return shown[index]


def sorted_heaps(heaps: list[list]) -> list[np.ndarray]:
    best = [sorted(heap, reverse=True) for heap in heaps]
    types = (np.float32, np.int32, np.int32)
    return [np.array([[c[part] for c in heap] for heap in best], dtype=t) for part, t in enumerate(types)]


def all_at_once(batches: Iterable[ForwardPass], texts: bool = True) -> list[Values]:
    kept = list(batches)
    input_ids = torch.cat([batch.input_ids for batch in kept])
    windows = pad(input_ids, (WINDOW, WINDOW), value=-1).unfold(1, 2 * WINDOW + 1, 1).flatten(0, 1)
    result = []
    for path in kept[0].sites:
        rows = torch.cat([batch.sites[path].activations.flatten(0, 1) for batch in kept])
        write = rows.abs()
        written = (write >= THRESHOLD * write.amax(dim=1, keepdim=True)).sum().item()
        table = torch.zeros(VOCAB, WIDTH).scatter_add_(0, input_ids.view(-1, 1).expand_as(rows), write)
        values, index = rows.T.topk(K, dim=1)
        if texts:
            for window in windows[index].flatten(0, 1).tolist():
                text_of(window)
        result.append(
            {
                "sparsity": 1 - written / rows.numel(),
                "l0": written / len(rows),
                "entropy": dense_entropy(table),
                "cosine": cosine_matrix(rows).numpy(),
                "contexts": [values.numpy(), windows[index].int().numpy(), (index % LENGTH).int().numpy()],
            }
        )
    return result


def dense_entropy(table: Tensor) -> float:
    share = table / table.sum(dim=0)
    return float(-(share * (share + 1e-10).log()).sum(dim=0).mean())


def cosine_matrix(rows: Tensor) -> Tensor:
    unit = rows / rows.norm(dim=0)
    return unit.T @ unit


WAYS: dict[str, Callable[..., list[Values]]] = {
    "row by row": row_by_row,
    "one filter": partial(row_by_row, one_filter=True),
    "all at once": all_at_once,
    "ours": ours,
}


# ---- Are they right? ---------------------------------------------------------------------------


def truth(batches: list[ForwardPass]) -> list[Values]:
    """By brute force in float64, and all tokens sorted for the contexts."""
    result = []
    for values, path in zip(all_at_once(batches, False), batches[0].sites, strict=True):
        rows = torch.cat([batch.sites[path].activations.flatten(0, 1) for batch in batches])
        order = rows.T.argsort(dim=1, descending=True)[:, : K + 1]
        best = rows.T.gather(1, order)
        assert bool((best[:, :-1] > best[:, 1:]).all()), "a value occurs twice: values would not name their tokens"
        assert np.array_equal(values["contexts"][0], best[:, :K].numpy())
        result.append({**values, "cosine": cosine_matrix(rows.double()).numpy()})
    return result


def errors(got: list[Values], want: list[Values]) -> Values:
    pairs = list(zip(got, want, strict=True))
    return {
        "identical top 20": all(
            np.array_equal(a, b) for g, w in pairs for a, b in zip(g["contexts"], w["contexts"], strict=True)
        ),
        "max |cos| error": max(float(abs(abs(g["cosine"]) - abs(w["cosine"])).max()) for g, w in pairs),
        "max other error": max(abs(g[name] / w[name] - 1) for g, w in pairs for name in ("sparsity", "l0", "entropy")),
    }


# ---- Time and memory ---------------------------------------------------------------------------


def times(batches: list[ForwardPass], repeats: int, texts: bool) -> dict[str, list[float]]:
    """CPU seconds of every repeat, in an order that rotates."""
    result: dict[str, list[float]] = {name: [] for name in WAYS}
    names = list(WAYS)
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            start = time.process_time()
            WAYS[name](batches, texts)
            result[name].append(time.process_time() - start)
    return result


def rise_in_memory(way: str, num_tokens: int) -> int:
    """MB that this process rises above what it holds after a first batch of activations, one batch held at a time."""
    list(make_batches(BATCH * LENGTH))
    tokenizer()
    WAYS["ours"](make_batches(BATCH * LENGTH))  # imports, pools of threads
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    base = status("VmRSS")
    WAYS[way](make_batches(num_tokens))
    return (status("VmHWM") - base) // 1000


def status(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def in_own_process(way: str, num_tokens: int) -> int:
    command = [sys.executable, __file__, "--memory-of", way, "--tokens", str(num_tokens)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=98_304)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", choices=list(WAYS), help="print the memory of one way and stop")
    parser.add_argument("--no-texts", dest="texts", action="store_false", help="contexts are token ids for all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory_of:
        print(rise_in_memory(args.memory_of, args.tokens))
        return
    batches = list(make_batches(args.tokens))
    num_types = len(torch.cat([batch.input_ids for batch in batches]).unique())
    print(f"{args.tokens} tokens of {num_types} types, {LAYERS} layers, D={WIDTH}, V={VOCAB}, 1 thread")
    want = truth(batches)
    for name, way in WAYS.items():
        print(f"{name:12}", ", ".join(f"{key} {value:.3g}" for key, value in errors(way(batches, False), want).items()))
    seconds = times(batches, args.repeats, args.texts)
    for name, values in seconds.items():
        ratios = [plain / mine for plain, mine in zip(values, seconds["ours"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name:12}{statistics.median(values):8.2f} s, / ours {statistics.median(ratios):.2f} ({spread})")
    for name in WAYS:
        sizes = (args.tokens // 2, args.tokens, 2 * args.tokens) if name == "ours" else (args.tokens,)
        print(f"{name:12}", ", ".join(f"{in_own_process(name, size)} MB at {size} tokens" for size in sizes))


if __name__ == "__main__":
    main()
