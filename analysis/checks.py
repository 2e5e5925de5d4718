"""Numbers that come from reports, checked once: what is missing or not finite is named by where it stands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_tti.errors import UserError

Floats = NDArray[np.float64]


def finite_array(values: ArrayLike, *, what: str, labels: Sequence[Sequence[object]] = ()) -> Floats:
    """`values` as float64.

    Args:
        values: any shape; None counts as missing.
        what: the name of these numbers in an error.
        labels: for each leading axis, the names of its entries; an axis without names is numbered from 0.

    Raises:
        UserError: something is not a number, missing or not finite; names the first.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{what}: expected numbers, as many in every row; got {_shortened(values)}") from None
    if not np.isfinite(array).all():
        index = np.unravel_index(np.argmin(np.isfinite(array)), array.shape)
        place = [str(labels[axis][i] if axis < len(labels) else i) for axis, i in enumerate(index)]
        raise UserError(f"{what}: the value at {', '.join(place) or 'its only place'} is {array[index]}, not a number")
    return array


def _shortened(values: object, length: int = 80) -> str:
    text = " ".join(repr(values).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def open_share(value: float, *, what: str) -> float:
    """`value`, which has to lie between 0 and 1, both excluded.

    Raises:
        UserError: it does not.
    """
    if not 0 < value < 1:
        raise UserError(f"{what} = {value}: expected a number between 0 and 1, both excluded")
    return value
