"""One rank of a distributed evaluation of a small torch model; writes what `gather` left on it."""

import json
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hf_tti.evaluation import MetricAccumulator, accumulate
from hf_tti.metrics.activation_sparsity import ActivationSparsity
from hf_tti.metrics.correlation import Correlation
from hf_tti.metrics.token_entropy import TokenEntropy

VOCAB = 23


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 8)
        self.act = nn.GELU()
        self.head = nn.Linear(8, VOCAB)

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> dict[str, Tensor]:
        return {"logits": self.head(self.act(self.embed(input_ids)))}


def model_and_batches() -> tuple[nn.Module, list[dict[str, Tensor]]]:
    torch.manual_seed(0)
    return Small(), [{"input_ids": torch.randint(0, VOCAB, (3, 7))} for _ in range(5)]


def accumulator(model: nn.Module) -> MetricAccumulator:
    sites = ("act",)
    metrics = {
        "sparsity": ActivationSparsity(sites=sites),
        "entropy": TokenEntropy(sites=sites),
        "correlation": Correlation(sites=sites),
    }
    return MetricAccumulator(model, metrics)


def main(path: str, rank: int, world: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{path}.store", rank=rank, world_size=world)
    model, batches = model_and_batches()
    own = accumulator(model)
    accumulate(model, batches[rank::world], own)
    own.gather()
    with open(f"{path}.{rank}.json", "w") as out:
        json.dump({key: value.hex() for key, value in own.finalize().items() if key != "num_tokens"}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
