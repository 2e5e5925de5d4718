"""Fresh sparse autoencoders by SAELens: its TopK architecture, its trainer, its folders.

The rows are centred and, all by one number, scaled to a mean variance of 1 a dimension for training, and SAELens folds
both back into the weights, so that the SAE reads the model's own activations and neither their scale nor their mean
matters. Of the trainer, the step that SAELens offers to outside loops: its `fit` draws a progress bar.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_tti.activations import Hookpoint
from hf_tti.errors import UserError
from hf_tti.studies.subject import Subject

if TYPE_CHECKING:
    from sae_lens import SAE

_DEAD_AFTER = 50  # steps without firing after which the auxiliary loss revives a latent
_ROWS = 4096  # tokens at a time


@dataclass(frozen=True)
class Training:
    """How one SAE is trained: Adam, the rate warmed up over 5 % of the steps and brought to 0 over the last 20 %."""

    width: int
    k: int
    training_tokens: int
    batch_size: int
    learning_rate: float


def check_sae_lens() -> None:
    """
    Raises:
        UserError: sae-lens cannot be imported; says how to install it.
    """
    try:
        import sae_lens  # noqa: F401
    except ImportError as error:
        reason = "is not installed" if error.name == "sae_lens" else f"cannot be imported ({error})"
        raise UserError(f'sae_quality: sae-lens {reason}; pip install "hf-tti[saelens]"') from error


def train_sae(rows: Tensor, training: Training, *, seed: int, device: torch.device) -> SAE:
    """A TopK SAE of these activations, ready for use. Leaves the global generators alone.

    Args:
        rows: [N, D] float32, passed over in a new order each epoch until `training_tokens` have been seen.
        seed: of the initial weights and of the order.
        device: where it is trained and left.
    """
    from sae_lens import SAE, SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig

    mean, scale = _mean_and_scale(rows)
    batch_size = min(training.batch_size, len(rows))
    steps = max(1, training.training_tokens // batch_size)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the step that torch's SequentialLR itself takes, and the like
        torch.manual_seed(seed)
        config = TopKTrainingSAEConfig(d_in=rows.shape[1], d_sae=training.width, k=training.k, device=str(device))
        settings = SAETrainerConfig(
            total_training_samples=steps * batch_size,
            train_batch_size_samples=batch_size,
            lr=training.learning_rate,
            lr_end=training.learning_rate,
            lr_warm_up_steps=_at_least_two(steps // 20),
            lr_decay_steps=_at_least_two(steps // 5),
            device=str(device),
            dead_feature_window=_DEAD_AFTER,
        )
        batches = _epochs((rows - mean) / scale, batch_size, seed)
        trainer = SAETrainer(settings, TopKTrainingSAE(config), batches)
        with torch.enable_grad():
            for batch, _ in zip(batches, range(steps), strict=False):
                trainer.step(batch)
                trainer.n_training_steps += 1
        trainer.set_final_sae_metadata()
        eye = torch.eye(rows.shape[1])
        trainer.sae.fold_activation_whitening(mean, eye / scale, eye * scale)
        weights = trainer.sae.state_dict()
        trainer.sae.process_state_dict_for_saving_inference(weights)
        sae = SAE.from_dict(trainer.sae.cfg.get_inference_sae_cfg_dict())
        sae.load_state_dict(weights)
    return sae.eval().requires_grad_(False)


@torch.no_grad()
def encode(sae: SAE, rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Activations [n, D], their reconstruction [n, D] and their latents [n, width] on the CPU, a block at a time."""
    for block in rows.split(_ROWS):
        latents = sae.encode(block.to(sae.device))
        yield block, sae.decode(latents).cpu(), latents.cpu()


def describe(sae: SAE, subject: Subject, point: Hookpoint, longest: int) -> None:
    """Tell the SAE where it belongs, so that SAELens finds model and hookpoint: metadata of its `cfg.json`.

    `hook_name` is the module path below the whole model (`transformer.h.1.mlp.c_proj`), as `HookedProxyLM` names its
    hooks. A module's input keeps its `:in`, which SAELens refuses rather than take the output.

    Args:
        longest: tokens of the longest row, the end-of-text token before it included.
    """
    base = getattr(subject.model, "base_model", subject.model)
    prefix = next(name for name, module in subject.model.named_modules() if module is base)
    sae.cfg.metadata.model_name = subject.model.name_or_path
    sae.cfg.metadata.model_class_name = "AutoModelForCausalLM"
    sae.cfg.metadata.hook_name = f"{prefix}.{point.path}".lstrip(".")
    sae.cfg.metadata.context_size = longest
    sae.cfg.metadata.prepend_bos = True
    sae.cfg.metadata.exclude_special_tokens = True


def save(sae: SAE, folder: Path) -> None:
    """`cfg.json` and `sae_weights.safetensors`, which `sae_lens.SAE.load_from_disk` reads."""
    _, config = sae.save_model(folder)
    config.write_text(json.dumps(json.loads(config.read_text()), indent=2) + "\n", encoding="utf-8")


def dictionary_match(saes: Sequence[SAE], alive: Sequence[Tensor]) -> tuple[float, float]:
    """How far two SAEs agree on directions, over all pairs of them: NaN where there is none.

    Args:
        alive: [width] bool for each SAE, the latents that count.

    Returns:
        The mean over latents of the largest |cos| to a latent of the other SAE, both ways; and the mean |cos| of the
        best one-to-one assignment (Hungarian).
    """
    from scipy.optimize import linear_sum_assignment

    directions = [_unit(sae.W_dec.detach().cpu().double()[living]) for sae, living in zip(saes, alive, strict=True)]
    nearest, assigned = [], []
    for i, ours in enumerate(directions):
        for theirs in directions[i + 1 :]:
            cosines = (ours @ theirs.T).abs()
            if cosines.numel():
                nearest.append(float((cosines.amax(0).mean() + cosines.amax(1).mean()) / 2))
                pairs = linear_sum_assignment(cosines.numpy(), maximize=True)
                assigned.append(float(cosines[pairs].mean()))
    return _mean(nearest), _mean(assigned)


def _mean_and_scale(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[D], and the root mean square of a centred coordinate; 1 where nothing varies."""
    mean = rows.double().mean(0)
    scale = (rows.double() - mean).square().mean().sqrt()
    return mean.float(), torch.where(scale > 0, scale, 1.0).float()


def _epochs(rows: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches without end; what does not fill one waits for the next epoch's order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for start in range(0, len(rows) - batch_size + 1, batch_size):
            yield rows[order[start : start + batch_size]]


def _at_least_two(steps: int) -> int:
    """A ramp of one step is none."""
    return steps if steps > 1 else 0


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)


def _mean(values: Sequence[Any]) -> float:
    return sum(values) / len(values) if values else float("nan")
