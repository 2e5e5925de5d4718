"""Streaming metrics against the plain way, in one run: `python tests/benchmarks/bench_metrics.py [--tokens 16384]`.

The plain way walks tokens in Python (sparsity, l0, density), keeps a dense [V, D] table (token entropy, selectivity),
or keeps all rows for the end (cosine, correlation, participation ratio; top contexts then sort lists). Both get the
same activations, alternate within each repeat, and must agree; figures are medians on this machine's CPU.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from hf_tti.activations import ForwardPass, Site
from hf_tti.components import load_component

D_MODEL, D_MLP, VOCAB, BATCH, LENGTH = 384, 1536, 50257, 8, 512


def make_batches(num_tokens: int) -> list[ForwardPass]:
    """One layer of each site; token ids by Zipf's law, activations that depend on them."""
    draw = np.random.RandomState(0)
    weights = 1 / np.arange(1, 8001)
    by_type = {site: torch.from_numpy(draw.randn(8000, width)) for site, width in WIDTHS.items()}
    out_weight = torch.from_numpy(draw.randn(D_MLP, D_MODEL)).float()
    batches = []
    for _ in range(max(1, num_tokens // (BATCH * LENGTH))):
        ids = torch.from_numpy(draw.choice(8000, size=(BATCH, LENGTH), p=weights / weights.sum()))
        sites = {}
        for site, width in WIDTHS.items():
            activations = (by_type[site][ids] + torch.from_numpy(draw.randn(BATCH, LENGTH, width))).float()
            is_neurons = site == "mlp.neurons"
            activations = torch.nn.functional.gelu(activations) if is_neurons else activations
            sites[site] = Site(activations, 0, site, out_weight if is_neurons else None)
        batches.append(ForwardPass(ids, torch.ones(BATCH, LENGTH, dtype=torch.bool), sites))
    return batches


WIDTHS = {"mlp.neurons": D_MLP, "mlp.out": D_MODEL}


def rows_of(batches, site):
    for batch in batches:
        yield batch.sites[site].activations.flatten(0, 1), batch.input_ids.flatten(), batch.sites[site].write_norm


def plain_sparsity(batches):
    below = total = 0
    for rows, _, norm in rows_of(batches, "mlp.neurons"):
        for row in rows:
            write = row.abs() * norm
            below += int((write < 0.01 * write.max()).sum())
            total += len(row)
    return below / total


def plain_l0(batches):
    return D_MLP * (1 - plain_sparsity(batches))


def plain_density(batches):
    return 1 - plain_sparsity(batches)


def plain_entropy(batches):
    mass = torch.zeros(VOCAB, D_MODEL, dtype=torch.float64)
    for rows, ids, _ in rows_of(batches, "mlp.out"):
        table = torch.zeros(VOCAB, D_MODEL, dtype=torch.float64)
        mass += table.scatter_add_(0, ids[:, None].expand_as(rows), rows.abs().double())
    p = mass / mass.sum(dim=0)
    return float(-(p * (p + 1e-300).log()).sum(dim=0).mean())


def plain_selectivity(batches):
    total, squares = torch.zeros(2, VOCAB, D_MLP, dtype=torch.float64)
    counts = torch.zeros(VOCAB, dtype=torch.float64)
    for rows, ids, norm in rows_of(batches, "mlp.neurons"):
        write = rows * norm
        x = (write / (write.abs() + write.abs().mean(dim=1, keepdim=True))).double()
        total.scatter_add_(0, ids[:, None].expand_as(x), x)
        squares.scatter_add_(0, ids[:, None].expand_as(x), x * x)
        counts += torch.bincount(ids, minlength=VOCAB)
    kept = counts.argsort(descending=True, stable=True)[:256]
    n, mean, square = counts[kept, None], total[kept] / counts[kept, None], squares[kept] / counts[kept, None]
    p, variance = n / n.sum(), (square - mean**2) * n / (n - 1)
    squared = (mean**2 - variance / n).T  # unbiased
    between = ((p * (1 - p)).T * squared).sum(dim=1)
    between -= (p * mean).sum(dim=0) ** 2 - ((p * mean) ** 2).sum(dim=0)
    within = (p * variance).sum(dim=0)
    return float((between / (between + within)).mean())


def kept_rows(batches, site):
    return torch.cat([rows.double() for rows, _, _ in rows_of(batches, site)])


def mean_off_diagonal(matrix):
    return float((matrix.sum() - matrix.diagonal().sum()) / (matrix.numel() - len(matrix)))


def plain_cosine(batches):
    rows = kept_rows(batches, "mlp.out")
    rows = rows / rows.norm(dim=0)
    return mean_off_diagonal((rows.T @ rows).abs())


def plain_correlation(batches):
    rows = kept_rows(batches, "mlp.neurons")
    return mean_off_diagonal(torch.corrcoef(rows.T) ** 2) - 1 / (len(rows) - 1)


def plain_participation(batches):
    norm = batches[0].sites["mlp.neurons"].write_norm.double()
    spectrum = torch.linalg.eigvalsh(torch.cov((kept_rows(batches, "mlp.neurons") * norm).T))
    return float(spectrum.sum() ** 2 / (spectrum**2).sum())


def plain_contexts(batches):
    norm = batches[0].sites["mlp.neurons"].write_norm.double()
    best = [sorted(unit, reverse=True)[:20] for unit in kept_rows(batches, "mlp.neurons").T.tolist()]
    return float((torch.tensor(best, dtype=torch.float64).mean(dim=1) * norm).mean())


PLAIN = {
    "activation_sparsity": plain_sparsity,
    "l0": plain_l0,
    "neuron_density": plain_density,
    "token_entropy": plain_entropy,
    "token_selectivity": plain_selectivity,
    "cosine_similarity": plain_cosine,
    "correlation": plain_correlation,
    "participation_ratio": plain_participation,
    "top_contexts": plain_contexts,
}


def streamed(batches, names) -> dict[str, float]:
    metrics = {name: load_component("metrics", name)() for name in names}
    states = {name: metric.init() for name, metric in metrics.items()}
    for batch in batches:
        batch.shared.clear()
        for name, metric in metrics.items():
            view = ForwardPass(batch.input_ids, batch.token_mask, {s: batch.sites[s] for s in metric.sites})
            view.shared.update(batch.shared)
            states[name] = metric.update(states[name], view)
            batch.shared.update(view.shared)
    return {name: metric.finalize(states[name])["mean"] for name, metric in metrics.items()}


def timed(call, *args):
    start = time.perf_counter()
    result = call(*args)
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    batches = make_batches(args.tokens)
    count = len(batches) * BATCH * LENGTH
    print(f"{count} tokens, D={D_MODEL}, F={D_MLP}, V={VOCAB}, 1 layer of each site, 1 thread, {args.repeats} repeats")
    print(f"{'metric':22}{'plain s':>10}{'ours s':>10}{'ratio':>8}{'|difference|':>14}")
    alone = 0.0
    plain_total = 0.0
    for name, plain in PLAIN.items():
        times = {"plain": [], "ours": []}
        for _ in range(args.repeats):
            seconds, want = timed(plain, batches)
            times["plain"].append(seconds)
            seconds, got = timed(streamed, batches, [name])
            times["ours"].append(seconds)
        slow, fast = (statistics.median(times[way]) for way in ("plain", "ours"))
        difference = abs(got[name] - want)
        assert difference <= 1e-4 * max(1.0, abs(want)), (name, got[name], want)
        print(f"{name:22}{slow:10.3f}{fast:10.3f}{slow / fast:8.1f}{difference:14.1e}")
        alone, plain_total = alone + fast, plain_total + slow
    together = statistics.median(timed(streamed, batches, list(PLAIN))[0] for _ in range(args.repeats))
    print(f"{'all, one by one':22}{plain_total:10.3f}{alone:10.3f}{plain_total / alone:8.1f}")
    print(f"{'all, sharing a pass':22}{plain_total:10.3f}{together:10.3f}{plain_total / together:8.1f}")


if __name__ == "__main__":
    main()
