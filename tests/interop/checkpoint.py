"""What transformers and hf_tti themselves say of the checkpoint, and how close another tool has to come."""

import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from hf_tti.activations import capture

logging.disable_progress_bar()

TOLERANCE = 1e-5  # largest difference of a logit or an activation, float32, values of order 1 to 10
TEXT = "One day, a little girl named Lily went to the park. She saw a big dog and was happy."


@dataclass(frozen=True)
class Expected:
    """`neurons` and `resid`: [B, T, D] of each layer."""

    folder: Path
    model: PreTrainedModel
    input_ids: Tensor
    logits: Tensor
    neurons: list[Tensor]
    resid: list[Tensor]


def expected() -> Expected:
    """From the folder named on the command line: one text, and rows of random ids as long as the model allows."""
    folder = Path(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    length = model.config.max_position_embeddings
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer(TEXT)["input_ids"][:length]
    ids = torch.randint(model.config.vocab_size, (4, length), generator=torch.Generator().manual_seed(0))
    ids[0, : len(text)] = torch.tensor(text)
    with torch.no_grad(), capture(model, ["mlp.neurons", "resid"]) as recorder:
        logits = model(ids).logits
    sites = list(recorder.sites.values())
    neurons = [site.activations for site in sites if site.name == "mlp.neurons"]
    resid = [site.activations for site in sites if site.name == "resid"]
    assert len(neurons) == len(resid) == model.config.num_hidden_layers
    assert float(logits.std()) > 0.1, "a model that says nothing compares with anything"
    return Expected(folder, model, ids, logits, neurons, resid)


def compare(what: str, theirs: Tensor, ours: Tensor, tolerance: float = TOLERANCE) -> None:
    """Print max |difference| and fail above the tolerance."""
    assert theirs.shape == ours.shape, (what, theirs.shape, ours.shape)
    difference = float((theirs.detach().double() - ours.double()).abs().max())
    print(f"{what}: max |difference| {difference:.1e}, tolerance {tolerance:.0e}, largest value {ours.abs().max():.2g}")
    assert difference <= tolerance, what


def say_versions(*packages: str) -> None:
    print(", ".join(f"{package} {version(package)}" for package in (*packages, "transformers", "torch")))
