"""SAELens: the model through the metadata of an SAE that `sae_quality` wrote, the SAE itself, SAELens's evaluation."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from checkpoint import compare, expected, say_versions
from sae_lens import SAE
from sae_lens.evals import get_recons_loss
from sae_lens.load_model import load_model
from sae_lens.training.activation_scaler import ActivationScaler
from transformers import AutoTokenizer

from hf_tti.data import DataConfig
from hf_tti.labels import build_sample
from hf_tti.studies.sae_quality import SaeQuality
from hf_tti.studies.subject import Subject

say_versions("sae-lens", "transformer-lens")
want = expected()
tokenizer = AutoTokenizer.from_pretrained(want.folder)
data = DataConfig(name="synthetic_stories", vocab_size=len(tokenizer), max_tokens=60_000, max_validation_tokens=4000)
sample = build_sample(tokenizer, data=data, max_tokens=4000, max_length=want.model.config.n_positions)
# Documents of one length, so that they make a batch for SAELens without padding.
sample = replace(sample, rows=[row[:32] for row in sample.rows if len(row) >= 32], labels={})
subject = Subject(want.model)
study = SaeQuality(width=256, k=8, training_tokens=40_000, num_seeds=1)
last = want.model.config.num_hidden_layers - 1

with tempfile.TemporaryDirectory() as temporary:
    found = study.run_and_save(subject, sample, Path(temporary))
    for layer in range(last + 1):
        sae = SAE.load_from_disk(Path(temporary) / "sae" / f"h.{layer}" / "seed_0")
        ours = study.fit(subject, sample)[f"h.{layer}"][0]
        compare(f"SAE of h.{layer}: reconstructions", sae(want.resid[layer]), ours(want.resid[layer]))

        metadata = sae.cfg.metadata
        model = load_model(metadata.model_class_name, metadata.model_name, "cpu", hook_names=[metadata.hook_name])
        logits, cache = model.run_with_cache(want.input_ids, names_filter=[metadata.hook_name])
        compare("logits", logits, want.logits)
        compare(metadata.hook_name, cache[metadata.hook_name], want.resid[layer])

ids = torch.tensor(sample.rows[1::2])
end_of_text = int(ids[0, 0])
with torch.no_grad():
    theirs = get_recons_loss(sae, model, ActivationScaler(), ids, True, True, ignore_tokens=[end_of_text])
tokens = ids != end_of_text
mean = {key: value[tokens[:, :-1] if "ce" in key else tokens].mean() for key, value in theirs.items()}
delta = mean["ce_loss_with_sae"] - mean["ce_loss_without_sae"]
expectations = {
    "delta_ce": delta,
    "kl": mean["kl_div_with_sae"],
    "ce_recovered_zero": 1 - delta / (mean["ce_loss_with_ablation"] - mean["ce_loss_without_sae"]),
}
for name, value in expectations.items():
    compare(f"{name}/layer_{last} against SAELens", value, torch.tensor(found[f"{name}/layer_{last}"]))
