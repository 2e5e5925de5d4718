"""A Trainer whose model carries modules that are trained beside it and are no part of what it exports.

An objective's parameters and running statistics become a submodule of the model before it is wrapped, so that
DistributedDataParallel reduces their gradients and the loop zeroes them. They have an optimizer group and a gradient
clipping of their own, stay out of the exported weights, and lie beside them in `objectives.safetensors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from hf_tti.arguments import InterpTrainingArguments
from hf_tti.errors import UserError
from hf_tti.logging_window import WindowTrainer

OBJECTIVES_FILE = "objectives.safetensors"
SUBMODULE = "interp_objectives"


class _Misfit(Exception):
    """Names that only the model or only the file has."""


@contextmanager
def _readable_weights(checkpoint: Path) -> Iterator[None]:
    """One line where a checkpoint's weights are none. The stock Trainer would look for a pickle instead."""
    if not any((checkpoint / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        raise UserError(f"{checkpoint}: holds no {SAFE_WEIGHTS_NAME}; pickled weights are not read")
    try:
        yield
    except SafetensorError as error:
        raise UserError(f"{checkpoint}: its weights cannot be read: {error}") from error
    except _Misfit as error:
        raise UserError(f"{checkpoint}: its weights are of another model: {error}") from error


class OwningTrainer(WindowTrainer):
    """A Trainer that measures plus `own`, the modules attached to the model for training only, by label."""

    args: InterpTrainingArguments
    own: nn.ModuleDict

    def train(self, *args, **kwargs):
        """Stock, with the objectives' modules part of the model until it returns."""
        with self._own_attached():
            return super().train(*args, **kwargs)

    @contextmanager
    def _own_attached(self):
        if not len(self.own):
            yield
            return
        model, before = self.model, self.model._keys_to_ignore_on_save
        model.add_module(SUBMODULE, self.own.to(self.args.device))
        own_keys = {f"{SUBMODULE}.{name}" for name in self.own.state_dict()}
        model._keys_to_ignore_on_save = {*(before or ()), *own_keys}
        try:
            yield
        finally:
            model._keys_to_ignore_on_save = before
            delattr(model, SUBMODULE)

    def create_optimizer(self, *args, **kwargs):
        """Stock, with objectives' parameters in a group of their own, without weight decay."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        own = [p for p in self.own.parameters() if p.requires_grad]
        ids = {id(p) for p in own}
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if own and not fresh and self.lr_scheduler is not None and not ids <= known:
            raise UserError(
                f"the optimizer lacks the parameters of {', '.join(self.own)}, and its scheduler is made already; pass "
                "optimizers=(optimizer, None)"
            )
        if own and (fresh or not ids <= known):
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in ids]
            rate = self.args.objective_learning_rate
            optimizer.add_param_group({"params": own, "weight_decay": 0.0, **({} if rate is None else {"lr": rate})})
        return optimizer

    @contextmanager
    def _own_gradients_aside(self):
        parameters = list(self.own.parameters())
        gradients = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient

    def _clip_grad_norm(self, model):
        """Stock on the model's gradients; objectives' own are clipped apart, so that neither shrinks the other."""
        own = list(self.own.parameters())
        if not own:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        if self.args.objective_max_grad_norm > 0:
            nn.utils.clip_grad_norm_(own, self.args.objective_max_grad_norm)
        with self._own_gradients_aside():
            return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model, grad_norm=None):
        with self._own_gradients_aside():
            return super()._get_grad_norm(model, grad_norm=grad_norm)

    def _save(self, output_dir=None, state_dict=None):
        """What objectives own, beside the weights."""
        super()._save(output_dir, state_dict)
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        if self.args.should_save and len(self.own):
            state = {name: value.contiguous() for name, value in self.own.state_dict().items()}
            save_file(state, folder / OBJECTIVES_FILE, metadata={"format": "pt"})

    def _load_own(self, checkpoint: str | Path) -> None:
        if not len(self.own):
            return
        path = Path(checkpoint) / OBJECTIVES_FILE
        if not path.is_file():
            raise UserError(f"{path}: missing; the objectives {', '.join(self.own)} cannot resume without it")
        self.own.load_state_dict(load_file(path))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with _readable_weights(Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            self._load_own(resume_from_checkpoint)

    def _load_best_model(self):
        """Stock, from a checkpoint of this run alone: `trainer_state.json` may name any folder."""
        best = Path(self.args.output_dir) / Path(self.state.best_model_checkpoint).name
        self.state.best_model_checkpoint = str(best)
        with _readable_weights(best):
            super()._load_best_model()
            self._load_own(best)

    def _issue_warnings_after_load(self, load_result):
        """Where stock warns: nothing of a model may keep what it was drawn with. Tied names and own files are fine."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        loaded = {id(parameter) for name, parameter in parameters.items() if name not in load_result.missing_keys}
        fine = {name for name, parameter in parameters.items() if id(parameter) in loaded}
        fine |= set(self.model._keys_to_ignore_on_save or ())
        missing = [name for name in load_result.missing_keys if name not in fine]
        wrong = [f"no {name}" for name in missing] + [f"unknown {name}" for name in load_result.unexpected_keys]
        if wrong:
            raise _Misfit(", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""))
