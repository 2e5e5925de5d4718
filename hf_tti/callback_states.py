"""What callbacks of transformers keep in a checkpoint (`ExportableState`), as it has to be for a resume."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import EarlyStoppingCallback
from transformers.trainer_callback import ExportableState

from hf_tti.errors import UserError


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """
    Raises:
        UserError: transformers' EarlyStoppingCallback, whose count begins anew when a run is resumed.
    """
    for callback in callbacks:
        if isinstance(callback, EarlyStoppingCallback):
            patience, threshold = callback.early_stopping_patience, callback.early_stopping_threshold
            raise UserError(
                "EarlyStoppingCallback: would count anew when the run is resumed; use "
                f"hf_tti.callbacks.early_stopping.EarlyStopping(patience={patience}, threshold={threshold})"
            )


def room_for_states(callbacks: Iterable[Any]) -> dict[str, Any]:
    """`TrainerState.stateful_callbacks` before a save, which fills it: a list for several of one class, and an entry
    for each that the checkpoint that was resumed from does not know.
    """
    names = [type(callback).__name__ for callback in callbacks if isinstance(callback, ExportableState)]
    return {name: [] if names.count(name) > 1 else {} for name in names}
