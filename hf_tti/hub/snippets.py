"""How to open a model of the Hub in transformers, TransformerLens, nnsight and SAELens: lines of Python for its card.

tests/interop runs the same calls on a run's own `final/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({repo})
tokenizer = AutoTokenizer.from_pretrained({repo})
inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens={length})[0]))
"""
_STEP_ALONE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({repo}, revision={revision})
tokenizer = AutoTokenizer.from_pretrained({repo}, revision={revision})
"""
_STEP = """\
model = AutoModelForCausalLM.from_pretrained({repo}, revision={revision})
"""
_BRIDGE = """\
from huggingface_hub import snapshot_download
from transformer_lens.model_bridge import TransformerBridge

bridge = TransformerBridge.boot_transformers(snapshot_download({repo}), device="cpu")
logits, cache = bridge.run_with_cache(inputs["input_ids"])
neurons = cache["blocks.0.mlp.hook_post"]
"""
_HOOKED = """\
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

theirs = model.config
config = HookedTransformerConfig(
    n_layers=theirs.n_layer,
    d_model=theirs.n_embd,
    n_ctx=theirs.n_positions,
    d_head=theirs.n_embd // theirs.n_head,
    n_heads=theirs.n_head,
    d_mlp=theirs.n_inner or 4 * theirs.n_embd,
    d_vocab=theirs.vocab_size,
    act_fn=theirs.activation_function,
    eps=theirs.layer_norm_epsilon,
    normalization_type="LN",
    original_architecture="GPT2LMHeadModel",
    device="cpu",
)
hooked = HookedTransformer(config)
weights = convert_gpt2_weights(model, config)
hooked.load_and_process_state_dict(
    weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
)
"""
_NNSIGHT = """\
import torch
from huggingface_hub import snapshot_download
from nnsight import LanguageModel

traced = LanguageModel(snapshot_download({repo}), device_map="cpu", dispatch=True)
with torch.no_grad(), traced.trace(inputs["input_ids"]):
{read}    logits = traced.output.logits.save()
"""
_SAE = """\
from huggingface_hub import snapshot_download
from sae_lens import SAE
from sae_lens.load_model import load_model

folder = snapshot_download({repo})
sae = SAE.load_from_disk(f"{{folder}}/sae/{sae}")
about = sae.cfg.metadata
subject = load_model(about.model_class_name, folder, "cpu", hook_names=[about.hook_name])
_, cache = subject.run_with_cache(inputs["input_ids"], names_filter=[about.hook_name])
reconstruction = sae(cache[about.hook_name])
"""


def in_transformers(repo: str, positions: int) -> str:
    """Model, tokenizer, the beginning of a story, which leaves room in a context of so many positions."""
    return _TRANSFORMERS.format(repo=_quoted(repo), length=min(40, positions // 4))


def of_a_step(repo: str, revision: str, *, alone: bool = False) -> str:
    """The model of an earlier step, after `in_transformers` or alone."""
    return (_STEP_ALONE if alone else _STEP).format(repo=_quoted(repo), revision=_quoted(revision))


def in_other_tools(repo: str, model_type: str, saes: Sequence[str]) -> Mapping[str, str]:
    """Title -> code, after `in_transformers`. SAELens where there are SAEs, TransformerLens 3 for GPT-2 alone."""
    is_gpt2 = model_type == "gpt2"
    read = "    neurons = traced.transformer.h[0].mlp.act.output.save()\n" if is_gpt2 else ""
    found: dict[str, str | None] = {
        "TransformerLens 4": _BRIDGE.format(repo=_quoted(repo)),
        "TransformerLens 3": _HOOKED if is_gpt2 else None,
        "nnsight": _NNSIGHT.format(repo=_quoted(repo), read=read),
        "SAELens 6, with TransformerLens 3": _SAE.format(repo=_quoted(repo), sae=saes[0]) if saes else None,
    }
    return {title: code for title, code in found.items() if code}


def _quoted(text: str) -> str:
    return f'"{text}"' if '"' not in text and "\\" not in text else repr(text)
