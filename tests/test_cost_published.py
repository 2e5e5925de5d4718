"""Laws of the predicted step: its traffic is what torch's kernels read and write, it moves with what it depends on, and
runs that others measured are within 30 % of it.
"""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GPT2Config, LlamaConfig

from benchmarks.bench_cost_published import RUNS
from hf_tti.cost.flops import meta_model
from hf_tti.cost.gpus import GPUS
from hf_tti.cost.shapes import shapes_of
from hf_tti.cost.step import predicted_step

PROOF = [run for run in RUNS if run.is_proof]
MAKE_NOTHING = {"view", "_unsafe_view", "t", "transpose", "permute", "expand", "split", "slice", "select", "unsqueeze"}
MAKE_NOTHING |= {"detach", "arange", "embedding", "embedding_dense_backward"}
NO_CACHE = replace(GPUS["T4"], cache_bytes=1)
FACTS = {"num_rows": 4, "length": 256, "precision": "bf16"}


def config(**changes) -> GPT2Config:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    shape = {"n_layer": 2, "n_embd": 384, "n_head": 6, "vocab_size": 2048, "activation_function": "gelu"}
    return GPT2Config(**ends | shape | dict.fromkeys(("resid_pdrop", "attn_pdrop", "embd_pdrop"), 0.0) | changes)


def shapes(**changes):
    return shapes_of(meta_model(config(**changes)))


@pytest.mark.parametrize("run", PROOF, ids=lambda run: f"{run.name}, {run.gpu}")
def test_published_runs_are_within_30_percent(run):
    assert run.predicted() == pytest.approx(run.milliseconds, rel=0.3)


def test_most_published_runs_gave_no_constant():
    assert len(PROOF) > 30 and {"A100-40GB", "A100-80GB", "L40S"} < {run.gpu for run in PROOF}


class Traffic(TorchDispatchMode):
    """Bytes of the tensors that each kernel takes and makes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func.name().split("::")[1].split(".")[0] not in MAKE_NOTHING:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return made


@pytest.mark.parametrize("changes", [{}, {"activation_function": "gelu_new"}, {"n_layer": 4, "vocab_size": 8192}])
@pytest.mark.parametrize("length", [128, 512])
def test_the_traffic_is_that_of_torchs_kernels(changes, length):
    model = meta_model(config(**changes)).train()
    model.set_attn_implementation("eager")
    ids = torch.zeros(4, length, dtype=torch.long, device="meta")
    with Traffic() as counted:
        logits = model(input_ids=ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    facts = {"num_rows": 4, "length": length, "precision": "fp32", "attention": "eager", "optimizer": False}
    seconds = predicted_step(shapes_of(model), NO_CACHE, **facts).memory
    assert seconds * NO_CACHE.bandwidth * 0.79 == pytest.approx(counted.bytes, rel=0.15)


@pytest.mark.parametrize(
    ("slower", "faster"),
    [
        ({"attention": "eager"}, {}),
        ({}, {"compiled": True}),
        ({"recomputed": True}, {}),
        ({"fused_optimizer": False}, {}),
        ({"precision": "fp32"}, {"precision": "tf32"}),
        ({"precision": "tf32"}, {}),
        ({"accumulation": 2}, {}),
        ({}, {"optimizer": False}),
        ({"objective_flops": 1e12}, {}),
    ],
)
def test_a_step_costs_what_it_has_to_do(slower, faster):
    facts = {"num_rows": 128, "length": 512, "precision": "bf16"}
    more, less = (predicted_step(shapes(), GPUS["A100"], **facts | each).seconds for each in (slower, faster))
    assert more > less


def test_a_small_batch_waits_for_launches_and_more_rows_are_free():
    few, more, many = (predicted_step(shapes(), GPUS["A100"], **FACTS | {"num_rows": rows}) for rows in (1, 2, 4096))
    assert few.bound == "kernel launches" and few.seconds == more.seconds
    assert many.bound != "kernel launches" and many.seconds > 10 * few.seconds


def test_an_unaligned_vocabulary_costs_three_times_its_products_unless_compiling_pads_it():
    odd, even = (shapes(vocab_size=size) for size in (50257, 50264))
    of = {s: predicted_step(s, GPUS["A100"], **FACTS).matmul for s in (odd, even)}
    assert 2 < of[odd] / of[even] < 3
    of = {s: predicted_step(s, GPUS["A100"], **FACTS, compiled=True).matmul for s in (odd, even)}
    assert of[odd] == pytest.approx(of[even], rel=1e-3)


def test_shapes_tell_a_gated_model_with_its_rotations_from_gpt2():
    llama = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=64
    )
    found = shapes_of(meta_model(llama))
    assert found.gated and found.rotary and found.composite_norm and not found.dropout
    own = shapes(activation_function="gelu_new", resid_pdrop=0.1)
    assert own.composite_activation and own.dropout and not (own.gated or own.rotary or own.composite_norm)
    assert len(own.linears) == 2 * 4 and sum(i * o for i, o in own.linears) == 2 * 12 * 384**2
    assert shapes(n_layer=4).dispatches - own.dispatches > own.dispatches / 4
