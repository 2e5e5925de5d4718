"""nnsight: `NNsight(model)` and `LanguageModel(folder)`; reading activations, and an intervention on a neuron."""

import torch
from checkpoint import compare, expected, say_versions
from nnsight import LanguageModel, NNsight

say_versions("nnsight")
want = expected()

traced = NNsight(want.model)
with torch.no_grad(), traced.trace(want.input_ids):
    neurons = list().save()
    for block in traced.transformer.h:
        neurons.append(block.mlp.act.output)
    logits = traced.output.logits.save()
compare("NNsight(model): logits", logits, want.logits)
for layer, (theirs, ours) in enumerate(zip(neurons, want.neurons, strict=True)):
    compare(f"transformer.h.{layer}.mlp.act.output", theirs, ours)

opened = LanguageModel(str(want.folder), device_map="cpu", dispatch=True)
with torch.no_grad(), opened.trace(want.input_ids):
    logits = opened.output.logits.save()
compare("LanguageModel(folder): logits", logits, want.logits)


def without_neuron(_module, _args, output):
    return output.index_fill(-1, torch.tensor([0]), 0.0)


handle = want.model.transformer.h[0].mlp.act.register_forward_hook(without_neuron)
with torch.no_grad():
    ablated = want.model(want.input_ids).logits
handle.remove()
with torch.no_grad(), traced.trace(want.input_ids):
    traced.transformer.h[0].mlp.act.output[:, :, 0] = 0
    logits = traced.output.logits.save()
compare("neuron 0 of layer 0 ablated: logits", logits, ablated)
assert float((ablated - want.logits).abs().max()) > 1e-4, "the ablation changed nothing"
