"""Arrays inside a page: laid end to end (little endian, C order), compressed, in base64.

Tokens become codes from 1 in one table of texts, 0 is no token. Activations become int8 steps of the largest
|activation| of their context: at most 0.4 % of it off.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STEPS = 127  # of int8 either side of zero


def pack(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """`arrays`: name, type and shape of each; `data`: their bytes. The same arrays give the same text."""
    stored = {name: array.astype(array.dtype.newbyteorder("<"), order="C") for name, array in arrays.items()}
    raw = b"".join(array.tobytes() for array in stored.values())
    return {
        "arrays": [[name, array.dtype.name, list(array.shape)] for name, array in stored.items()],
        "data": base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode(),
    }


def encode_tokens(
    tokens: NDArray[np.int32], texts: Mapping[int, str], codes: dict[str, int]
) -> NDArray[np.unsignedinteger]:
    """Codes of token ids, -1 for none, in their shape. A text without a code gets the next one in `codes`."""
    ids, inverse = np.unique(tokens, return_inverse=True)
    of_id = [0 if i < 0 else codes.setdefault(texts.get(int(i), f"[{i}]"), len(codes) + 1) for i in ids]
    return smallest(np.array(of_id, dtype=np.int64)[inverse].reshape(tokens.shape))


def quantised(activations: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Steps [U, k, W] and, for each context, the activation [U, k] that 127 of them are."""
    scales = np.abs(activations).max(axis=2, initial=0)
    steps = np.rint(activations / np.where(scales > 0, scales, 1)[:, :, None] * _STEPS)
    return steps.astype(np.int8), scales.astype(np.float32)


def smallest(codes: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
    """Whole numbers from 0 in as few bytes as they need: 2 or 4."""
    return codes.astype(np.uint16 if codes.max(initial=0) < 1 << 16 else np.uint32)
