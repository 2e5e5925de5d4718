"""A process group of gloo ranks on this machine that evaluates every objective on its share of one batch."""

import os
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from objective_facts import CASES, evaluate, ragged_forward

from hf_tti.activations import ForwardPass
from hf_tti.distributed import all_reduce_sum


def share_of(forward: ForwardPass, rank: int, world_size: int) -> ForwardPass:
    """A rank's rows, cut to its own longest row: shapes differ between ranks."""
    rows = slice(rank * len(forward.input_ids) // world_size, (rank + 1) * len(forward.input_ids) // world_size)
    length = int(forward.token_mask[rows].sum(dim=1).max())
    sites = {
        path: replace(site, activations=site.activations[rows, :length].detach().clone().requires_grad_())
        for path, site in forward.sites.items()
    }
    return replace(
        forward,
        input_ids=forward.input_ids[rows, :length],
        token_mask=forward.token_mask[rows, :length],
        sites=sites,
    )


def run_rank(rank: int, world_size: int, folder: str) -> None:
    """Write {case: (value, gradient of the real tokens [N, D] per site)} to folder/rank.pt."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    results = {}
    for case, (_, objective) in CASES.items():
        forward = share_of(ragged_forward(), rank, world_size)
        value = evaluate(objective, forward, all_reduce=all_reduce_sum, world_size=world_size)
        value.backward()
        gradients = [site.activations.grad[forward.token_mask] for site in forward.sites.values()]
        results[case] = (value.detach(), gradients)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
