"""What a method costs, in a word: where the t interval of its paired cross-entropy difference over seeds lies.

    better: below −m     free: inside (−m, m)     costly: above m     undecided: across ±m, or one seed
    p = 2·min(p_better, p_free, p_costly), one-sided t tests, p_free that of TOST: p ≤ α iff the 1−α interval is inside
A wrong word has probability ≤ α: at any true difference the false claims are upward or downward, α/2 each way. (TOST
alone usually runs at α each way, which is α = 0.10 here.) Holm across methods.
Source: Schuirmann 1987 (TOST); Holm 1979; Shaffer 1980 (Holm with directions: proven for independent methods).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from analysis.checks import Floats, finite_array, open_share
from analysis.intervals import Estimate, PairedDifferences, paired_differences
from hf_tti.errors import UserError

Word = Literal["free", "costly", "better", "undecided"]

MARGIN = 0.005  # nats
MAX_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One method against the baseline.

    Attributes:
        word: the verdict.
        method: its name.
        differences: cross-entropy of the method minus the baseline by seed, nats.
        estimate: their mean with its t interval at 1 − alpha, which is not adjusted for the other methods.
        margin: m, nats.
        p: of the claim that is nearest to being made; 1 with one seed.
        p_holm: the same, adjusted over all methods; the claim is made where this is at most alpha.
        num_methods: how many it was adjusted over.
        num_undecided: how many of them are undecided.
        alpha: the probability of any wrong word.
        power: of the number of seeds that `undecided` asks for.
    """

    word: Word
    method: str
    differences: PairedDifferences
    estimate: Estimate
    margin: float
    p: float
    p_holm: float
    num_methods: int
    num_undecided: int
    alpha: float
    power: float

    @cached_property
    def seeds_needed(self) -> int | None:
        """For `undecided`, how many seeds would decide, with alpha shared among the undecided (see the function).

        None for another word, where no number up to 1000 would, or where one seed leaves no spread to plan with.
        """
        if self.word != "undecided" or self.estimate.interval is None:
            return None
        alpha = self.alpha / self.num_undecided
        return seeds_needed(self.differences.values, margin=self.margin, alpha=alpha, power=self.power)

    @property
    def explanation(self) -> str:
        """One line in words, with the numbers."""
        parts = [f"{self.method}: {self.word}; cross-entropy {self.estimate.value:+.4f} nats against the baseline "]
        parts += [self._evidence(), *self._plan()]
        if self.differences.unpaired:
            parts.append(f"; left out for want of a partner: seed {', '.join(map(str, self.differences.unpaired))}")
        return "".join(parts)

    def _evidence(self) -> str:
        if self.estimate.interval is None:
            return "at one seed, which has no interval: at least 2 seeds are needed"
        low, high, level = self.estimate.interval
        found = f"over {self.estimate.num_groups} seeds, {100 * level:g} % interval [{low:+.4f}, {high:+.4f}]"
        test = f"p = {self.p_holm:.2g}"
        if self.num_methods > 1:
            test = f"Holm over {self.num_methods} methods, {test}"
        places = {"better": f"below -{self.margin:g}", "free": f"inside ±{self.margin:g}"}
        places["costly"] = f"above +{self.margin:g}"
        if self.word != "undecided":
            return f"{found} {places[self.word]} ({test})"
        for word, (bottom, top) in _regions(self.margin).items():
            if bottom < low and high < top:
                return f"{found} {places[word]}, but not after {test}"
        edges = [f"{edge:+g}" for edge in (-self.margin, self.margin) if low <= edge <= high]
        return f"{found} holds {' and '.join(edges)}"

    def _plan(self) -> list[str]:
        if self.word != "undecided" or self.estimate.interval is None:
            return []
        sd = float(self.differences.values.std(ddof=1))
        seeds = f"{self.seeds_needed}" if self.seeds_needed is not None else f"not even {MAX_SEEDS}"
        assumed = f"were this the true difference and {sd:.4f} its sd over seeds"
        return [f"; {seeds} seeds would decide with {100 * self.power:g} % power, {assumed}"]


def verdicts(
    methods: Mapping[str, Mapping[int, float]],
    baseline: Mapping[int, float],
    *,
    margin: float = MARGIN,
    alpha: float = 0.05,
    power: float = 0.8,
) -> dict[str, Verdict]:
    """A verdict for every method, Holm-corrected over all of them.

    Args:
        methods: name to cross-entropy (nats a token) by seed. All that were tried: leaving one out changes the others.
        baseline: cross-entropy by seed.
        margin: the largest difference that counts as none, nats.
        alpha: the probability of any wrong word.
        power: of the number of seeds that `undecided` asks for.

    Raises:
        UserError: no method, a bad margin, alpha or power, no common seed, or a loss that is not finite.
    """
    if not methods:
        raise UserError("verdicts: no method to compare with the baseline")
    _check_plan(margin, alpha, power)
    pairs = {name: paired_differences(losses, baseline, what=name) for name, losses in methods.items()}
    claims = {name: _nearest_claim(pair.values, margin) for name, pair in pairs.items()}
    adjusted = holm([p for _, p in claims.values()])
    return {
        name: Verdict(
            word=claim if p_holm <= alpha else "undecided",
            method=name,
            differences=pairs[name],
            estimate=pairs[name].estimate(level=1 - alpha),
            margin=margin,
            p=p,
            p_holm=p_holm,
            num_methods=len(methods),
            num_undecided=int(np.sum(adjusted > alpha)),
            alpha=alpha,
            power=power,
        )
        for (name, (claim, p)), p_holm in zip(claims.items(), adjusted.tolist(), strict=True)
    }


def tost_p(differences: ArrayLike, *, margin: float = MARGIN) -> float:
    """p of two one-sided t tests that the mean of paired differences `[n]` lies inside ±margin; 1 for one seed.

    Raises:
        UserError: no difference, one that is not finite, or a margin that is not positive.
    """
    _check_plan(margin, 0.05, 0.8)
    return _claims(finite_array(differences, what="differences over seeds"), margin)["free"]


def holm(p_values: Sequence[float]) -> Floats:
    """Step-down adjusted p values, in the order given: max over j ≤ i of min(1, (m − j + 1)·p₍ⱼ₎).

    Raises:
        UserError: a p that is not a number between 0 and 1.
    """
    p = finite_array(p_values, what="p values")
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise UserError(f"p values: expected numbers from 0 to 1, got {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted


def _check_plan(margin: float, alpha: float, power: float) -> None:
    if not 0 < margin < np.inf:
        raise UserError(f"margin = {margin}: expected a number of nats above 0")
    open_share(alpha, what="alpha")
    open_share(power, what="power")


def _regions(margin: float) -> dict[Word, tuple[float, float]]:
    return {"better": (-np.inf, -margin), "free": (-margin, margin), "costly": (margin, np.inf)}


def _claims(differences: Floats, margin: float) -> dict[Word, float]:
    """For each region, the one-sided p against the mean lying outside of it or on its edge."""
    if differences.size == 1:
        return dict.fromkeys(_regions(margin), 1.0)
    mean, degrees = float(differences.mean()), differences.size - 1
    error = float(differences.std(ddof=1)) / np.sqrt(differences.size)

    def p_above(bound: float) -> float:
        if error == 0:  # every seed the same difference
            return 0.0 if mean > bound else 1.0
        return float(special.stdtr(degrees, (bound - mean) / error))

    def p_below(bound: float) -> float:
        if error == 0:
            return 0.0 if mean < bound else 1.0
        return float(special.stdtr(degrees, (mean - bound) / error))

    return {
        word: max(0.0 if np.isinf(low) else p_above(low), 0.0 if np.isinf(high) else p_below(high))
        for word, (low, high) in _regions(margin).items()
    }


def _nearest_claim(differences: Floats, margin: float) -> tuple[Word, float]:
    claims = _claims(differences, margin)
    word = min(claims, key=claims.__getitem__)
    return word, min(1.0, 2 * claims[word])


def decision_power(num_seeds: int, *, difference: float, sd: float, margin: float, alpha: float) -> float:
    """Probability that the 1 − alpha interval lies in the region that holds the true difference.

    Exact for normal paired differences: over the distribution of the sample variance (χ² with n − 1 degrees), the
    normal probability that the mean falls where the interval is inside. For `free` this is the power of TOST.

    Args:
        num_seeds: n, at least 2.
        difference: the true mean difference, nats.
        sd: the true standard deviation of the differences, nats; above 0.
        margin: nats.
        alpha: of the two-sided interval.
    """
    assert num_seeds >= 2 and sd > 0
    low, high = next(r for r in _regions(margin).values() if r[0] <= difference <= r[1])
    shares = (np.arange(2000) + 0.5) / 2000
    degrees = num_seeds - 1
    spread = np.sqrt(stats.chi2.ppf(shares, degrees) / degrees)  # s / σ
    half = float(special.stdtrit(degrees, 1 - alpha / 2)) * spread  # in standard errors of the mean
    error = sd / np.sqrt(num_seeds)
    inside = stats.norm.cdf((high - difference) / error - half) - stats.norm.cdf((low - difference) / error + half)
    return float(np.clip(inside, 0, None).mean())


def seeds_needed(
    differences: ArrayLike, *, margin: float = MARGIN, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """The smallest number of seeds, all told, at which the verdict would be reached with the stated probability.

    Assumes normal differences whose true mean and standard deviation are those observed, which with three seeds are
    themselves uncertain: an order of magnitude, not a promise. In `verdicts`, alpha is divided by the number of
    methods still undecided.

    Returns:
        More than `len(differences)`; None where 1000 would not do, as for a difference on the edge of the margin.

    Raises:
        UserError: fewer than two differences, or one that is not finite.
    """
    _check_plan(margin, alpha, power)
    values = finite_array(differences, what="differences over seeds")
    if values.ndim != 1 or values.size < 2:
        raise UserError(f"seeds needed: at least 2 differences are needed to know the spread, got {values.size}")
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if sd == 0:
        return None if abs(mean) == margin else values.size + 1
    low, high = values.size, MAX_SEEDS + 1  # low is too few, high is enough or out of reach
    while high - low > 1:
        middle = (low + high) // 2
        reached = decision_power(middle, difference=mean, sd=sd, margin=margin, alpha=alpha) >= power
        low, high = (low, middle) if reached else (middle, high)
    return high if high <= MAX_SEEDS else None
