"""TransformerLens 4: `TransformerBridge.boot_transformers` of the folder, as it is and in compatibility mode."""

from checkpoint import compare, expected, say_versions
from transformer_lens.model_bridge import TransformerBridge

say_versions("transformer-lens")
want = expected()

bridge = TransformerBridge.boot_transformers(str(want.folder), device="cpu")
logits, cache = bridge.run_with_cache(want.input_ids)
compare("logits", logits, want.logits)
for layer, (neurons, resid) in enumerate(zip(want.neurons, want.resid, strict=True)):
    compare(f"blocks.{layer}.mlp.hook_post", cache[f"blocks.{layer}.mlp.hook_post"], neurons)
    compare(f"blocks.{layer}.hook_resid_post", cache[f"blocks.{layer}.hook_resid_post"], resid)

# Folding the layer norms and centring the unembedding shift all logits of a token alike.
bridge.enable_compatibility_mode(disable_warnings=True)
compare("log-probabilities, processed", bridge(want.input_ids).log_softmax(-1), want.logits.log_softmax(-1))
