"""TransformerLens 3: `HookedTransformer` with a configuration by hand and the weights that its GPT-2 converter gives.

`HookedTransformer.from_pretrained` takes names of its own list only, and its converter of configurations asks for an
`n_ctx` that transformers 5 no longer writes. TransformerLens 4 opens the folder as it is.
"""

from checkpoint import Expected, compare, expected, say_versions
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights


def opened(want: Expected, *, processed: bool) -> HookedTransformer:
    """With the processing that `from_pretrained` does, or as `from_pretrained_no_processing` leaves it."""
    theirs = want.model.config
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
        normalization_type="LNPre" if processed else "LN",
        original_architecture="GPT2LMHeadModel",
        device="cpu",
    )
    model = HookedTransformer(config)
    model.load_and_process_state_dict(
        convert_gpt2_weights(want.model, config),
        fold_ln=processed,
        center_writing_weights=processed,
        center_unembed=processed,
        fold_value_biases=processed,
    )
    return model


say_versions("transformer-lens")
want = expected()

logits, cache = opened(want, processed=False).run_with_cache(want.input_ids)
compare("logits, no processing", logits, want.logits)
for layer, (neurons, resid) in enumerate(zip(want.neurons, want.resid, strict=True)):
    compare(f"blocks.{layer}.mlp.hook_post", cache[f"blocks.{layer}.mlp.hook_post"], neurons)
    compare(f"blocks.{layer}.hook_resid_post", cache[f"blocks.{layer}.hook_resid_post"], resid)

# Folding the layer norms and centring the unembedding shift all logits of a token alike.
log_probs = opened(want, processed=True)(want.input_ids).log_softmax(-1)
compare("log-probabilities, processed", log_probs, want.logits.log_softmax(-1))
