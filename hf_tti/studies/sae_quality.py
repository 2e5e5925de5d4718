"""How well a fresh sparse autoencoder of fixed width and L0 explains activations the model was not tuned for.

    FVU = Σ_t ‖x_t − x̂_t‖² / Σ_t ‖x_t − x̄‖²          x̄ the mean of all scored tokens, float64
    CE recovered = (CE_ablated − CE_spliced) / (CE_ablated − CE)        ablated: the mean, or zero, in place of x̂

TopK SAEs (Gao et al. 2024, arXiv:2406.04093) trained by SAELens on the even documents, scored on the odd ones. Two
seeds' dictionaries are compared as in Paulo & Belrose 2025 (arXiv:2501.16615). An SAE of a random model can look as
good (Heap et al. 2025, arXiv:2501.17727): read it beside that null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from hf_tti.errors import UserError
from hf_tti.metrics.base import with_mean
from hf_tti.studies import _sae
from hf_tti.studies._splicing import Effect, Splice, effects
from hf_tti.studies.base import Study
from hf_tti.studies.sample import Sample
from hf_tti.studies.subject import Subject

if TYPE_CHECKING:
    from sae_lens import SAE

_LEAST_ABLATION = 0.01  # nats: below this there is nothing to recover
_NOTHING = float("nan")


@dataclass(frozen=True, kw_only=True)
class SaeQuality(Study):
    """FVU (`layer_<i>`, `mean`), and under their names, each the mean over seeds:

    `l0` latents that fire on a token; `dead_latents` and `dead_latents_in_training`, the share of latents that fire on
    no scored or no training token; `effective_latents` exp(H) of the latents' share of the mass Σ_t f_j(t)·‖d_j‖, and
    `effective_share` of the width; `delta_ce` and `kl` in nats a token when the reconstruction takes the activations'
    place; `ce_recovered` against mean and `ce_recovered_zero` against zero ablation, NaN where that ablation costs less
    than 0.01 nats; `dictionary_match`, the mean largest |cos| between two seeds' decoder directions, and
    `dictionary_match_one_to_one` under the best assignment, over latents that fire in training. The array
    `latent_density/` [num_seeds, width] float32: the share of scored tokens on which a latent fires.

    Scale and mean of the activations change nothing. FVU is NaN where they do not vary.
    Memory: the sample's activations. Time for 3 layers of 128 dimensions: about a minute on one core.

    Args:
        sites: see `Study`; the residual stream, the place where most SAEs are trained.
        width: latents of an SAE.
        k: latents that fire on a token.
        num_seeds: SAEs a hookpoint; one gives a NaN `dictionary_match`.
        training_tokens: for each SAE, epochs over the sample's even documents counted in.
        batch_size: tokens a step.
        learning_rate: Adam's, at its peak.
        seed: of the first SAE; the others follow.
    """

    greater_is_better: ClassVar[bool | None] = False
    null_rows: ClassVar[tuple[str, ...]] = ("random_init",)
    by_default: ClassVar[bool] = False

    sites: tuple[str, ...] = ("resid",)
    width: int = field(default=512, metadata={"min": 1, "help": "Latents of an SAE."})
    k: int = field(default=16, metadata={"min": 1, "help": "Latents that fire on a token."})
    num_seeds: int = field(default=2, metadata={"min": 1, "max": 20, "help": "SAEs a hookpoint."})
    training_tokens: int = field(default=200_000, metadata={"min": 1, "help": "For each SAE, epochs counted in."})
    batch_size: int = field(default=256, metadata={"min": 1, "help": "Tokens a step."})
    learning_rate: float = field(default=3e-3, metadata={"exclusive_min": 0, "help": "Adam's, at its peak."})
    seed: int = field(default=0, metadata={"min": 0, "help": "Of the first SAE; the others follow."})

    def __post_init__(self):
        super().__post_init__()
        if self.k > self.width:
            raise UserError(f"sae_quality.k: {self.k} must be at most the width, {self.width}")

    def check(self) -> None:
        _sae.check_sae_lens()

    def run(self, subject: Subject, sample: Sample, reference: Subject | None = None) -> dict[str, float | np.ndarray]:
        return self.score(subject, sample, self.fit(subject, sample))

    def run_and_save(
        self, subject: Subject, sample: Sample, folder: Path, reference: Subject | None = None
    ) -> dict[str, float | np.ndarray]:
        """As `run`; writes the SAEs to `folder/sae/<hookpoint>/seed_<n>/` in SAELens's format."""
        saes = self.fit(subject, sample)
        self.save(saes, folder / "sae")
        return self.score(subject, sample, saes)

    def fit(self, subject: Subject, sample: Sample) -> dict[str, list[SAE]]:
        """Hookpoint path -> one trained `sae_lens.SAE` a seed.

        Raises:
            UserError: sae-lens is not installed; fewer tokens in the even documents than latents, or none to score.
        """
        self.check()
        training = ~torch.from_numpy(sample.for_scoring)
        self._check(sample, int(training.sum()))
        settings = _sae.Training(self.width, self.k, self.training_tokens, self.batch_size, self.learning_rate)
        longest = max(map(len, sample.rows))
        saes: dict[str, list[SAE]] = {}
        for point in subject.hookpoints(self.sites):
            rows = subject.activations(sample, point)[training]
            saes[point.path] = [
                _sae.train_sae(rows, settings, seed=seed, device=subject.device)
                for seed in range(self.seed, self.seed + self.num_seeds)
            ]
            for sae in saes[point.path]:
                _sae.describe(sae, subject, point, longest)
        return saes

    def save(self, saes: Mapping[str, Sequence[SAE]], folder: Path) -> None:
        """Write them to `folder/<hookpoint>/seed_<n>/{cfg.json, sae_weights.safetensors}`, `:` in a path as `_`."""
        for path, of_seeds in saes.items():
            for seed, sae in enumerate(of_seeds, self.seed):
                _sae.save(sae, folder / path.replace(":", "_") / f"seed_{seed}")

    def score(
        self, subject: Subject, sample: Sample, saes: Mapping[str, Sequence[SAE]]
    ) -> dict[str, float | np.ndarray]:
        """What `run` gives, for SAEs that are there already."""
        scoring = torch.from_numpy(sample.for_scoring)
        points = subject.hookpoints(self.sites)
        means = {p.path: subject.activations(sample, p)[~scoring].double().mean(0).float() for p in points}
        effect = effects(subject, _odd_documents(sample), _splices(saes, means, subject.device))
        numbers: dict[str, float] = {}
        arrays: dict[str, np.ndarray] = {}
        for place, point in zip(self.layer_keys(points), points, strict=True):
            rows, of_seeds = subject.activations(sample, point), saes[point.path]
            scored = [_read(sae, rows[scoring]) for sae in of_seeds]
            trained = [_read(sae, rows[~scoring]) for sae in of_seeds]
            match, one_to_one = _sae.dictionary_match(of_seeds, [reading.density > 0 for reading in trained])
            found = {
                **_seed_means(scored),
                "dead_latents_in_training": float(np.mean([reading.dead for reading in trained])),
                **_spliced(effect, point.path, len(of_seeds)),
                "dictionary_match": match,
                "dictionary_match_one_to_one": one_to_one,
            }
            numbers |= {f"{name}/{place}".lstrip("/"): value for name, value in found.items()}
            density = torch.stack([reading.density for reading in scored])
            arrays[f"latent_density/{place}"] = density.float().numpy()
        return {**with_mean(numbers), **arrays}

    def _check(self, sample: Sample, num_training: int) -> None:
        if num_training < self.width or num_training == sample.num_tokens:
            raise UserError(
                f"sae_quality: the sample has {num_training} tokens to train on and "
                f"{sample.num_tokens - num_training} to score; width {self.width} needs at least as many of the first "
                "and some of the second: take a larger sample or a smaller width"
            )


@dataclass(frozen=True)
class _Reading:
    """One SAE on some tokens. `density` [width] float64: the share of tokens on which a latent fires."""

    fvu: float
    l0: float
    effective: float
    density: Tensor

    @property
    def dead(self) -> float:
        return float((self.density == 0).double().mean())


def _read(sae: SAE, rows: Tensor) -> _Reading:
    norms = sae.W_dec.detach().norm(dim=1).cpu().double()
    error = 0.0
    fired, mass = torch.zeros_like(norms), torch.zeros_like(norms)
    for block, reconstruction, latents in _sae.encode(sae, rows):
        error += float((block.double() - reconstruction.double()).square().sum())
        fired += (latents != 0).sum(0)
        mass += latents.double().abs().sum(0) * norms
    return _Reading(fvu(error, rows), float(fired.sum()) / len(rows), _effective(mass), fired / len(rows))


def fvu(error: float, rows: Tensor) -> float:
    """A sum of squared errors over the variation of [N, D] rows about their mean; NaN where there is none."""
    variation = float((rows.double() - rows.double().mean(0)).square().sum())
    return error / variation if variation else _NOTHING


def _effective(mass: Tensor) -> float:
    """exp(H) of [width] non-negative masses; NaN without any."""
    share = mass[mass > 0] / mass.sum()
    return float(torch.exp(-(share * share.log()).sum())) if len(share) else _NOTHING


def _seed_means(readings: Sequence[_Reading]) -> dict[str, float]:
    effective = float(np.mean([reading.effective for reading in readings]))
    return {
        "": float(np.mean([reading.fvu for reading in readings])),
        "l0": float(np.mean([reading.l0 for reading in readings])),
        "dead_latents": float(np.mean([reading.dead for reading in readings])),
        "effective_latents": effective,
        "effective_share": effective / len(readings[0].density),
    }


def _splices(saes: Mapping[str, Sequence[SAE]], means: Mapping[str, Tensor], device: torch.device) -> dict[str, Splice]:
    """`<path> zero`, `<path> mean` and `<path> <seed's index>`."""
    splices = {}
    for path, of_seeds in saes.items():
        mean = means[path].to(device)
        splices[f"{path} zero"] = Splice(path, torch.zeros_like)
        splices[f"{path} mean"] = Splice(path, mean.expand_as)
        splices |= {f"{path} {i}": Splice(path, sae) for i, sae in enumerate(of_seeds)}
    return splices


def _spliced(effect: Mapping[str, Effect], path: str, num_seeds: int) -> dict[str, float]:
    spliced = [effect[f"{path} {i}"] for i in range(num_seeds)]
    delta_ce = float(np.mean([one.delta_ce for one in spliced]))
    return {
        "ce_recovered": _recovered(effect[f"{path} mean"].delta_ce, delta_ce),
        "ce_recovered_zero": _recovered(effect[f"{path} zero"].delta_ce, delta_ce),
        "delta_ce": delta_ce,
        "kl": float(np.mean([one.kl for one in spliced])),
    }


def _recovered(ablated: float, spliced: float) -> float:
    """Of what an ablation costs, the share that the reconstruction does not; both as ΔCE."""
    return (ablated - spliced) / ablated if ablated >= _LEAST_ABLATION else _NOTHING


def _odd_documents(sample: Sample) -> Sample:
    return replace(sample, rows=sample.rows[1::2], labels={})
