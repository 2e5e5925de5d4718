"""Time of each objective's value and gradient against the straightforward autograd formulation, and against a CE step.

One process, rotating order, CPU time, medians and interquartile ranges. The rivals compute the same statistic the plain
way: the published study's for its two terms (normalise and multiply; a dense [V, D] table), else textbook autograd.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_objectives.py [--batch 8 --length 128 --width 384 --vocab 50257]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_tti.activations import ForwardPass, Hookpoint, Site
from hf_tti.objectives.base import Objective, Scope, Setup
from hf_tti.objectives.decorrelation import Decorrelation
from hf_tti.objectives.orthogonality import Orthogonality
from hf_tti.objectives.selectivity import Selectivity
from hf_tti.objectives.token_entropy import TokenEntropy

Rival = Callable[[Tensor, Tensor, Tensor], Tensor]  # real tokens' rows [N, D], ids [N], classes [N] -> value


def plain_orthogonality(rows: Tensor, ids: Tensor, classes: Tensor) -> Tensor:
    vectors = F.normalize(rows.T, dim=1)
    cosines = vectors @ vectors.T
    off_diagonal = cosines - torch.diag(cosines.diagonal())
    return off_diagonal.abs().sum() / (len(cosines) * (len(cosines) - 1))


def plain_token_entropy(rows: Tensor, ids: Tensor, classes: Tensor) -> Tensor:
    table = torch.zeros(int(ids.max()) + 1, rows.shape[1])
    mass = table.scatter_add(0, ids[:, None].expand_as(rows), rows.abs())
    mass = mass[mass.sum(dim=1) > 0]
    share = mass / (mass.sum(dim=0, keepdim=True) + 1e-10)
    return -(share * (share + 1e-10).log()).sum(dim=0).mean()


def plain_decorrelation(rows: Tensor, ids: Tensor, classes: Tensor) -> Tensor:
    standard = F.normalize(rows - rows.mean(dim=0), dim=0)
    squared = (standard.T @ standard).square()
    width = len(squared)
    return (squared.sum() - squared.diagonal().sum()) / (width * (width - 1)) - 1 / (len(rows) - 1)


def plain_selectivity(rows: Tensor, ids: Tensor, classes: Tensor) -> Tensor:
    rms = rows.square().mean(dim=0).sqrt().detach()
    x = rows / (rows.abs() + rms)
    one_hot = F.one_hot(classes + 1).float()[:, 1:]
    sizes = one_hot.sum(dim=0)
    one_hot, sizes = one_hot[:, sizes >= 2], sizes[sizes >= 2, None]
    p = sizes / sizes.sum()
    means = one_hot.T @ x / sizes
    variances = (one_hot.T @ x.square() / sizes - means.square()) * sizes / (sizes - 1)
    spread = (p * (means - (p * means).sum(dim=0)).square()).sum(dim=0)
    between = spread - ((1 - p) * variances).sum(dim=0) / sizes.sum()
    return -(between / (between + (p * variances).sum(dim=0))).mean()


# label -> (objective, the site's width in units of d_model, its rival)
CASES: dict[str, tuple[Objective, int, Rival]] = {
    "orthogonality at mlp.out": (Orthogonality(), 1, plain_orthogonality),
    "orthogonality at mlp.neurons": (Orthogonality(), 4, plain_orthogonality),
    "token_entropy at mlp.out": (TokenEntropy(), 1, plain_token_entropy),
    "token_entropy at mlp.neurons": (TokenEntropy(), 4, plain_token_entropy),
    "decorrelation at mlp.neurons": (Decorrelation(), 4, plain_decorrelation),
    "decorrelation, block of 384": (Decorrelation(neuron_block=384), 4, plain_decorrelation),
    "selectivity at mlp.neurons": (Selectivity(), 4, plain_selectivity),
}


def make_batch(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """(ids [B, T] with Zipf frequencies, mask: packed rows, or `--ragged` ones)."""
    frequency = 1 / torch.arange(1, args.vocab + 1).float()
    ids = torch.multinomial(frequency, args.batch * args.length, replacement=True).view(args.batch, args.length)
    shortest = args.length // 2 if args.ragged else args.length
    lengths = torch.linspace(shortest, args.length, args.batch).long()
    return ids, torch.arange(args.length) < lengths[:, None]


def ours(objective: Objective, ids: Tensor, mask: Tensor, layers: Sequence[Tensor], vocab: int) -> Callable[[], Tensor]:
    sites = {f"h.{i}.mlp": Site(a, i) for i, a in enumerate(layers)}
    forward = ForwardPass(ids, mask, sites)
    points = [Hookpoint("mlp", path, i, a.shape[-1]) for i, (path, a) in enumerate(zip(sites, layers, strict=True))]
    own = objective.own_module(Setup(points, vocab, torch.arange(vocab, 0, -1)))

    def step() -> Tensor:
        scope = Scope(own=own, generator=torch.Generator().manual_seed(0))
        value = sum(term.value for term in objective.terms(forward, scope).values())
        torch.autograd.grad(value, layers)
        return value.detach()

    return step


def rival(
    function: Rival, ids: Tensor, mask: Tensor, layers: Sequence[Tensor], num_classes: int
) -> Callable[[], Tensor]:
    def step() -> Tensor:
        real = ids[mask]
        classes = torch.where(real < num_classes, real, -1)
        value = torch.stack([function(a[mask], real, classes) for a in layers]).mean()
        torch.autograd.grad(value, layers)
        return value.detach()

    return step


def ce_step(args: argparse.Namespace, ids: Tensor, mask: Tensor) -> Callable[[], Tensor]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=args.layers,
        n_embd=args.width,
        n_head=6,
        vocab_size=args.vocab,
        n_positions=args.length,
        use_cache=False,
    )
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"
    labels = ids.masked_fill(~mask, -100)

    def step() -> Tensor:
        model.zero_grad()
        loss = model(input_ids=ids, attention_mask=mask.long(), labels=labels).loss
        loss.backward()
        return loss.detach()

    return step


def measure(steps: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, list[float]]:
    """CPU milliseconds of every repeat after one warm-up, in an order that rotates."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for repeat in range(-1, repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.process_time()
            steps[name]()
            if repeat >= 0:
                times[name].append(1e3 * (time.process_time() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"batch": 8, "length": 128, "width": 384, "vocab": 50_257, "layers": 2, "repeats": 9}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--no-ce", action="store_true", help="leave out the CE step")
    parser.add_argument("--ragged", action="store_true", help="pad a quarter of the tokens instead of packing")
    args = parser.parse_args()
    torch.manual_seed(0)
    ids, mask = make_batch(args)
    steps = {} if args.no_ce else {"ce": ce_step(args, ids, mask)}
    for label, (objective, factor, function) in CASES.items():
        width = factor * args.width
        layers = [F.gelu(torch.randn(*ids.shape, width)).requires_grad_() for _ in range(args.layers)]
        steps[f"{label}/ours"] = ours(objective, ids, mask, layers, args.vocab)
        steps[f"{label}/plain"] = rival(function, ids, mask, layers, num_classes=256)
        if "block" not in label:
            torch.testing.assert_close(steps[f"{label}/ours"](), steps[f"{label}/plain"](), rtol=1e-4, atol=1e-6)
    report(args, measure(steps, args.repeats), int(mask.sum()), len(ids[mask].unique()))


def report(args: argparse.Namespace, times: dict[str, list[float]], num_tokens: int, num_types: int) -> None:
    print(
        f"{args.layers} layers, d_model {args.width}, {num_tokens} real tokens of {num_types} types, V {args.vocab}, "
    )
    print(f"{torch.get_num_threads()} thread(s), {args.repeats} repeats; CPU ms: median (interquartile range)")
    median = {name: statistics.median(values) for name, values in times.items()}
    spread = {name: q[2] - q[0] for name, q in ((n, statistics.quantiles(v, n=4)) for n, v in times.items())}
    if "ce" in times:
        print(f"cross-entropy step, forward and backward: {median['ce']:.1f} ({spread['ce']:.1f})")
    print(f"{'objective':<32}{'ours':>16}{'plain':>18}{'plain/ours':>12}{'ours/CE':>10}")
    for label in CASES:
        mine, plain = f"{label}/ours", f"{label}/plain"
        pairs = [p / o for o, p in zip(times[mine], times[plain], strict=True)]
        overhead = f"{100 * median[mine] / median['ce']:.2f} %" if "ce" in times else "-"
        print(
            f"{label:<32}{median[mine]:>9.2f} ({spread[mine]:.2f}){median[plain]:>11.2f} ({spread[plain]:.2f})"
            f"{statistics.median(pairs):>10.2f}x{overhead:>10}"
        )


if __name__ == "__main__":
    main()
