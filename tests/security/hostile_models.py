"""Hostile models: pickles, code of their own, files elsewhere, links, weights that lie."""

from __future__ import annotations

import json
import os
import struct

import torch
from hostile_list import add
from safetensors import safe_open
from world import (
    Bomb,
    Case,
    edit,
    evaluate_model,
    link,
    train_on_it,
    unfinished,
)


def _in_model(name: str, *, instead_of: str = ""):
    def plant(case: Case) -> None:
        model = case.copy("model")
        if instead_of:
            (model / instead_of).unlink()
        (model / name).write_bytes(case.pickle)

    return plant


def _zipped(name: str):
    def plant(case: Case) -> None:
        model = case.copy("model")
        (model / "model.safetensors").unlink(missing_ok=True)
        torch.save({"weight": Bomb(case.code)}, model / name)

    return plant


def _edited(name: str, **values):
    def plant(case: Case) -> None:
        model = case.copy("model")
        texts = {
            key: value.format(outside=case.outside) if isinstance(value, str) else value
            for key, value in values.items()
        }
        if not (model / name).exists():
            (model / name).write_text("{}")
        edit(model / name, **texts)
        for module in ("modeling_evil", "configuration_evil", "tokenization_evil", "custom_generate/generate"):
            place = model / f"{module}.py"
            place.parent.mkdir(exist_ok=True)
            place.write_text(case.code)

    return plant


def linked(where: str, name: str, target: str):
    """A link in a copy of `where` (or in a run to resume)."""

    def plant(case: Case) -> None:
        folder = unfinished(case) if where == "unfinished" else case.copy(where)
        link(folder / name, case.outside / target)

    return plant


for name in ("pytorch_model.bin", "pytorch_model.pt", "model.pt", "model.pkl", "tf_model.h5", "flax_model.msgpack"):
    add(f"model: a pickle as {name}", _in_model(name, instead_of="model.safetensors"), evaluate_model, refused=True)
add(
    "model: a pickle as pytorch_model.bin, trained on",
    _in_model("pytorch_model.bin", instead_of="model.safetensors"),
    train_on_it,
    refused=True,
)
for name in ("pytorch_model.bin", "model.safetensors"):
    add(f"model: a zipped pickle as {name}", _zipped(name), evaluate_model, refused=True)
for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
    add(f"model: a pickle as {name}", _in_model(name), evaluate_model, refused=True)
for name in (
    "training_args.bin",
    "optimizer.pt",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
):
    add(f"model: a pickle as {name} beside it", _in_model(name), evaluate_model)

AUTO_MAP = {"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
add(
    "model: auto_map of a type of its own",
    _edited("config.json", model_type="evil", auto_map=AUTO_MAP),
    evaluate_model,
    refused=True,
)
add("model: auto_map of a known type", _edited("config.json", auto_map=AUTO_MAP), evaluate_model)
add(
    "model: auto_map to another repository",
    _edited("config.json", model_type="evil", auto_map={"AutoConfig": "evil/evil--configuration_evil.C"}),
    evaluate_model,
    refused=True,
)
add(
    "model: auto_map of the tokenizer",
    _edited(
        "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["tokenization_evil.Evil", None]}
    ),
    evaluate_model,
)
add(
    "model: auto_map, trained on",
    _edited("config.json", model_type="evil", auto_map=AUTO_MAP),
    train_on_it,
    refused=True,
)
add(
    "model: generation code of its own",
    _edited("generation_config.json", custom_generate="custom_generate/generate.py"),
    train_on_it,
)
for key in ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"):
    add(
        f"model: config.json {key} from the Hub",
        _edited("config.json", **{key: "evil/evil-attention"}),
        evaluate_model,
        refused=True,
    )
add(
    "model: a part's attention from the Hub",
    _edited("config.json", text_config={"_attn_implementation": "evil/evil-attention"}),
    evaluate_model,
    refused=True,
)


def _weights_named(name: str, *, nested: bool = False):
    """`config.json` names the weights: a pickle, or an index whose shards lie outside."""

    def plant(case: Case) -> None:
        model = case.copy("model")
        named = {"transformers_weights": name}
        edit(model / "config.json", **({"text_config": named} if nested else named))
        if name.endswith(".bin"):
            torch.save({"weight": Bomb(case.code)}, model / name)
        elif name.endswith(".json"):
            with safe_open(model / "model.safetensors", "pt") as weights:
                shards = dict.fromkeys(weights.keys(), "../../../outside/model/model.safetensors")
            (model / name).write_text(json.dumps({"metadata": {}, "weight_map": shards}))

    return plant


for name in ("adapter_model.bin", "other.safetensors.index.json", "other.safetensors", "model.safetensors"):
    for use in (evaluate_model, train_on_it):
        trained = ", trained on" * (use is train_on_it)
        add(f"model: transformers_weights {name}{trained}", _weights_named(name), use, refused=True)
add(
    "model: transformers_weights of a part",
    _weights_named("adapter_model.bin", nested=True),
    evaluate_model,
    refused=True,
)
add(
    "model: quantised by code elsewhere",
    _edited("config.json", quantization_config={"quant_method": "evil.module"}),
    evaluate_model,
)
add(
    "model: an adapter to a model elsewhere",
    _edited("adapter_config.json", base_model_name_or_path="evil/evil", peft_type="LORA"),
    evaluate_model,
    refused=True,
)
for key in ("vocab_file", "merges_file", "tokenizer_file", "added_tokens_file", "special_tokens_map_file"):
    values = {"tokenizer_class": "BertTokenizer", key: "{outside}/secret.txt"}
    add(
        f"model: the tokenizer's {key} outside",
        _edited("tokenizer_config.json", **values),
        evaluate_model,
        refused=True,
    )
add(
    "model: the tokenizer's vocab_file by ..",
    _edited("tokenizer_config.json", tokenizer_class="BertTokenizer", vocab_file="../../outside/secret.txt"),
    evaluate_model,
    refused=True,
)
add(
    "model: fast_tokenizer_files by ..",
    _edited("tokenizer_config.json", fast_tokenizer_files=["../../outside/tokenizer.0.0.json"]),
    evaluate_model,
    refused=True,
)
add(
    "model: the tokenizer's files outside, trained on",
    _edited("tokenizer_config.json", tokenizer_class="BertTokenizer", vocab_file="{outside}/secret.txt"),
    train_on_it,
    refused=True,
)
for shard in ("../../outside/model/model.safetensors", "pytorch_model-00001.bin"):
    add(
        f"model: an index of shards that names {shard.rpartition('/')[2]}{' outside' * ('/' in shard)}",
        _edited("model.safetensors.index.json", metadata={}, weight_map={"transformer.wte.weight": shard}),
        evaluate_model,
        refused=True,
    )
for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
    add(f"model: {name} a link out", linked("model", name, f"model/{name}"), evaluate_model, refused=True)
add("model: vocab.txt a link to a secret", linked("model", "vocab.txt", "secret.txt"), evaluate_model, refused=True)
add(
    "model: chat_template.jinja a link to a secret",
    linked("model", "chat_template.jinja", "secret.txt"),
    train_on_it,
    refused=True,
)


def _safetensors(header: dict | bytes, *, length: int | None = None, body: bytes = b"", size: int = 0):
    def plant(case: Case) -> None:
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = case.copy("model") / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + body)
        if size:
            os.truncate(path, size)

    return plant


F32 = {"dtype": "F32", "shape": [4]}
LYING = {
    "a header longer than the file": _safetensors({}, length=2**40),
    "a header of 2^63 bytes": _safetensors({}, length=2**63),
    "a header that nests deeply": _safetensors(b"[" * 100_000),
    "offsets that overlap": _safetensors(
        {"a": {**F32, "data_offsets": [0, 16]}, "b": {**F32, "data_offsets": [8, 24]}}, body=b"0" * 24
    ),
    "offsets beyond the file": _safetensors({"a": {**F32, "data_offsets": [0, 2**50]}}, body=b"0" * 16),
    "offsets that are negative": _safetensors({"a": {**F32, "data_offsets": [-16, 0]}}, body=b"0" * 16),
    "a shape of 2^80 numbers": _safetensors(
        {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}}, body=b"0" * 16
    ),
    "a sparse terabyte": _safetensors(
        {"transformer.wte.weight": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}, size=2**40
    ),
}
for name, plant in LYING.items():
    add(f"model: safetensors with {name}", plant, evaluate_model, refused=True)
