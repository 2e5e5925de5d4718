"""What is known of each objective, for the contract tests: one `Facts` per file of hf_tti/objectives.

A new objective needs an entry in `FACTS` under its file's name: a configuration, a naive oracle, an optimum with its
stated bound, a failure, a golden value, and what it claims. The laws themselves are in test_objectives.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_tti.activations import ForwardPass, Hookpoint, Site
from hf_tti.components import component_names
from hf_tti.objectives.base import Objective, Scope, Setup
from hf_tti.objectives.decorrelation import Decorrelation
from hf_tti.objectives.orthogonality import Orthogonality
from hf_tti.objectives.selectivity import Selectivity
from hf_tti.objectives.token_entropy import TokenEntropy

VOCAB, WIDTH, PATHS = 9, 6, ("h.0.mlp.act", "h.1.mlp.act")
EOS = 7
COUNTS = torch.tensor([50, 40, 30, 20, 10, 5, 0, 8, 1])
LENGTHS = (7, 3, 6, 1, 7, 5, 2, 4)  # real tokens of the rows of `ragged_forward`


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What one objective claims and what it is checked against.

    Attributes:
        objective: a configuration that suits the tiny inputs.
        oracle: the value by naive loops over [N, D] float64 rows and the batch, for one site.
        golden: the value of `objective` on `ragged_forward()`.
        optimum, bound: an input on which the objective takes its lower bound, and that bound.
        failure: an input on which it is far worse.
        rescale_invariant: the value does not change with any unit's scale.
        token_permutation: it does not change when tokens are shuffled with their activations, across rows.
        zero_under_independence: expectation 0 when units and tokens are independent.
        stops_gradient: constants computed from activations carry no gradient.
        variants: further configurations, held to every law but golden value, bound, failure, `token_permutation` and
            `zero_under_independence`; the oracle reads their fields.
    """

    objective: Objective
    oracle: Callable[[Objective, ForwardPass, Tensor], float]
    golden: float
    optimum: Callable[[], ForwardPass]
    bound: float
    failure: Callable[[], ForwardPass]
    rescale_invariant: bool = True
    token_permutation: bool = True
    zero_under_independence: bool = False
    stops_gradient: bool = False
    variants: Sequence[Objective] = ()


def facts_of(name: str) -> Facts:
    assert name in FACTS, (
        f"hf_tti/objectives/{name}.py has no entry in tests/contracts/objective_facts.py: add "
        f"FACTS[{name!r}] = Facts(objective=..., oracle=..., golden=..., optimum=..., bound=..., failure=...)"
    )
    return FACTS[name]


def setup_for(width: int = WIDTH) -> Setup:
    points = [Hookpoint("mlp.neurons", path, layer, width) for layer, path in enumerate(PATHS)]
    return Setup(points, VOCAB, COUNTS)


def evaluate(objective: Objective, forward: ForwardPass, *, width: int = WIDTH, **scope) -> Tensor:
    """The sum of the objective's terms, in a fresh scope."""
    return evaluate_with_logs(objective, forward, width=width, **scope)[0]


def evaluate_with_logs(objective: Objective, forward: ForwardPass, *, width: int = WIDTH, **scope):
    """(sum of the objective's terms, its terms, its logs) in a fresh scope."""
    own = objective.own_module(setup_for(width))
    scope = Scope(own=own, generator=torch.Generator().manual_seed(0), **scope)
    terms = objective.terms(forward, scope)
    return torch.stack([term.value for term in terms.values()]).sum(), terms, scope.logs


# ---- Inputs ----------------------------------------------------------------------------------------------------------


def make_forward(ids: Tensor, mask: Tensor, activations: Sequence[Tensor]) -> ForwardPass:
    sites = {path: Site(a, layer) for layer, (path, a) in enumerate(zip(PATHS, activations, strict=False))}
    return ForwardPass(ids, mask, sites, eos_token_id=EOS)


def ragged_forward(dtype: torch.dtype = torch.float32, seed: int = 0) -> ForwardPass:
    """Eight ragged rows, two layers of unlike units; layer 0 is ReLU-like with exact zeros."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS), WIDTH)
    ids = torch.randint(VOCAB, shape[:2], generator=generator)
    mask = torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None]
    normal = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in PATHS]
    first = (normal[0] + 0.5).clamp(min=0)
    second = normal[1] @ (torch.eye(WIDTH) + 0.4).double() * torch.linspace(0.2, 3, WIDTH) + 0.7
    return make_forward(ids, mask, [first.to(dtype), second.to(dtype)])


def with_activations(forward: ForwardPass, change: Callable[[Tensor], Tensor]) -> ForwardPass:
    sites = {p: replace(s, activations=change(s.activations)) for p, s in forward.sites.items()}
    return replace(forward, sites=sites)


def one_row(ids: Sequence[int] | Tensor, rows: Tensor) -> ForwardPass:
    """One sequence [1, N] whose two layers both have the activations `rows` [N, D]."""
    ids = torch.as_tensor(ids)[None]
    rows = rows[None].float()
    return make_forward(ids, torch.ones_like(ids, dtype=torch.bool), [rows, rows.clone()])


def independent_forward(num_tokens: int, generator: torch.Generator, width: int) -> ForwardPass:
    """Skewed units, all independent of one another and of the tokens."""
    ids = torch.randint(EOS, (1, num_tokens), generator=generator)
    activations = [
        torch.randn(1, num_tokens, width, generator=generator, dtype=torch.float64).clamp(min=-0.3) for _ in PATHS
    ]
    return make_forward(ids, torch.ones_like(ids, dtype=torch.bool), activations)


def _one_hot_units() -> ForwardPass:
    return one_row(torch.arange(WIDTH), torch.eye(WIDTH))


def _copies() -> ForwardPass:
    column = torch.randn(12, 1, generator=torch.Generator().manual_seed(1))
    return one_row(torch.arange(12) % VOCAB, column * torch.linspace(0.5, 2, WIDTH))


def _hadamard() -> ForwardPass:
    """8 tokens, 6 units: centred and exactly uncorrelated."""
    matrix = torch.ones(1, 1)
    for _ in range(3):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return one_row(torch.arange(8) % VOCAB, matrix[:, 1 : WIDTH + 1] * torch.linspace(0.5, 2, WIDTH) + 0.3)


def _fires_by_class() -> ForwardPass:
    ids = torch.arange(20) % 5
    return one_row(ids, torch.eye(5)[ids] @ torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(2)))


def _fires_anyhow() -> ForwardPass:
    return one_row(torch.arange(20) % 5, torch.arange(20.0).mul(1.7).sin()[:, None] + torch.zeros(WIDTH))


# ---- Oracles: one site, real tokens only, naive loops in float64 -----------------------------------------------------


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(count) if i != j]


def orthogonality_oracle(objective: Orthogonality, forward: ForwardPass, rows: Tensor) -> float:
    columns = rows.T
    cosines = [
        abs(float(columns[i] @ columns[j])) / float(columns[i].norm() * columns[j].norm())
        for i, j in _pairs(len(columns))
    ]
    return sum(cosines) / len(cosines)


def token_entropy_oracle(objective: TokenEntropy, forward: ForwardPass, rows: Tensor) -> float:
    ids = forward.input_ids[forward.token_mask].tolist()
    entropies = []
    for column in rows.T.tolist():
        mass: dict[int, float] = {}
        for token_id, value in zip(ids, column, strict=True):
            mass[token_id] = mass.get(token_id, 0.0) + abs(value)
        shares = [m / sum(mass.values()) for m in mass.values() if m]
        entropies.append(-sum(p * math.log(p) for p in shares))
    return sum(entropies) / len(entropies)


def decorrelation_oracle(objective: Decorrelation, forward: ForwardPass, rows: Tensor) -> float:
    correlations = torch.corrcoef(rows.T)
    squared = [
        max(rho, 0.0) ** 2 if objective.positive_only else rho**2
        for rho in (float(correlations[i, j]) for i, j in _pairs(len(correlations)))
    ]
    sampling = (0.5 if objective.positive_only else 1.0) / (len(rows) - 1)
    return sum(squared) / len(squared) - sampling


def _classes_by_hand(objective: Selectivity, forward: ForwardPass) -> list[int]:
    frequent = sorted(range(VOCAB), key=lambda v: -COUNTS[v])[: objective.num_classes]
    class_of = {v: c for c, v in enumerate(frequent) if COUNTS[v] > 0}
    classes = []
    for ids, mask in zip(forward.input_ids.tolist(), forward.token_mask.tolist(), strict=True):
        for t, token_id in enumerate(ids):
            if not mask[t]:
                continue
            if objective.classes == "next_token":
                last = t + 1 == len(ids) or not mask[t + 1] or token_id == EOS
                token_id = None if last else ids[t + 1]
            classes.append(class_of.get(token_id, -1))
    return classes


def selectivity_oracle(objective: Selectivity, forward: ForwardPass, rows: Tensor) -> float:
    """Mean half squared differences over all pairs of tokens, class by class."""
    classes = _classes_by_hand(objective, forward)
    shares = []
    for column in rows.T:
        x = (column / (column.abs() + column.square().mean().sqrt())).tolist()
        members = {c: [v for v, k in zip(x, classes, strict=True) if k == c] for c in set(classes) - {-1}}
        members = {c: values for c, values in members.items() if len(values) >= 2}
        total = sum(map(len, members.values()))
        p = {c: len(values) / total for c, values in members.items()}

        def half_squares(left: list[float], right: list[float], skip_same: bool) -> float:
            squares = [
                (a - b) ** 2 / 2 for i, a in enumerate(left) for j, b in enumerate(right) if not (skip_same and i == j)
            ]
            return sum(squares) / len(squares)

        w = {c: half_squares(values, values, True) for c, values in members.items()}
        between = sum(
            p[c] * p[d] * (2 * half_squares(members[c], members[d], False) - w[c] - w[d])
            for c in members
            for d in members
            if c < d
        )
        within = sum(p[c] * w[c] for c in members)
        shares.append(between / (between + within))
    return -sum(shares) / len(shares)


FACTS = {
    "orthogonality": Facts(
        objective=Orthogonality(),
        oracle=orthogonality_oracle,
        golden=0.56286573,
        optimum=_one_hot_units,
        bound=0.0,
        failure=_copies,
    ),
    "token_entropy": Facts(
        objective=TokenEntropy(),
        oracle=token_entropy_oracle,
        golden=1.95242,
        optimum=_one_hot_units,
        bound=0.0,
        failure=_copies,
    ),
    "decorrelation": Facts(
        objective=Decorrelation(),
        oracle=decorrelation_oracle,
        golden=0.23645228,
        optimum=_hadamard,
        bound=-1 / 7,
        failure=_copies,
        zero_under_independence=True,
        variants=(Decorrelation(positive_only=True, cross_half=True),),
    ),
    "selectivity": Facts(
        objective=Selectivity(num_classes=5),
        oracle=selectivity_oracle,
        golden=0.084695786,
        optimum=_fires_by_class,
        bound=-1.0,
        failure=_fires_anyhow,
        zero_under_independence=True,
        stops_gradient=True,
        variants=(Selectivity(num_classes=5, classes="next_token"),),
    ),
}

CASES = {
    f"{name}-{index}" if index else name: (name, objective)
    for name in component_names("objectives")
    if name in FACTS
    for index, objective in enumerate((FACTS[name].objective, *FACTS[name].variants))
}
