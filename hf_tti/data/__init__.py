"""Corpora, tokenizers, packed blocks. Importing this package loads neither torch nor datasets."""

import importlib

_HOMES = {
    "CausalLMCollator": "hf_tti.data._collate",
    "DataConfig": "hf_tti.data._config",
    "PreparedData": "hf_tti.data._prepare",
    "PreparedValidation": "hf_tti.data._prepare",
    "prepare_data": "hf_tti.data._prepare",
    "prepare_validation": "hf_tti.data._prepare",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_tti.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
