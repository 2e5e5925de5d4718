"""A Trainer whose evaluations measure: exact token-mean cross-entropy and the metrics, in the loop's own forwards.

An evaluation that a signal breaks off leaves a checkpoint of before it; the run that resumes from there does it first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_tti.evaluation import MetricAccumulator
from hf_tti.metrics.base import Metric
from hf_tti.saving import SavingTrainer, generator_states, set_generator_states
from hf_tti.signals import BrokenOff, evaluation_is_missing, with_deaf_workers


class EvaluatingTrainer(SavingTrainer):
    """A Trainer with whole checkpoints plus `interp_metrics`, by label, measured at every evaluation."""

    interp_metrics: Mapping[str, Metric]
    _accumulator: MetricAccumulator | None = None  # of the evaluation that is going on

    @property
    def _masking(self) -> dict[str, Any]:
        """What a `ForwardPass` leaves out and where documents end."""
        raise NotImplementedError

    def _new_accumulator(self) -> MetricAccumulator:
        return MetricAccumulator(self.model, self.interp_metrics, max_batches=self.args.metric_batches, **self._masking)

    def _get_dataloader(self, *args, **kwargs):
        """Stock, with workers that outlast a signal to the whole job."""
        return with_deaf_workers(super()._get_dataloader(*args, **kwargs))

    def evaluation_loop(
        self,
        dataloader,
        description,
        prediction_loss_only=None,
        ignore_keys=None,
        metric_key_prefix="eval",
    ):
        """Stock, plus the metrics; `eval_loss` is the token mean of cross-entropy and nothing else."""
        self._accumulator = self._new_accumulator()
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        finally:
            accumulator, self._accumulator = self._accumulator, None
        accumulator.gather()
        values = accumulator.finalize()
        output.metrics.update({f"{metric_key_prefix}_{key}": value for key, value in values.items()})
        return output

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs):
        """Stock; an evaluation that is broken off leaves a checkpoint of before it."""
        before = generator_states() if self.control.should_evaluate else {}
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        except BrokenOff:
            set_generator_states(before)
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
            raise

    def _load_rng_state(self, checkpoint):
        """Stock; then, where a stop left it out, the evaluation that had come next."""
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and evaluation_is_missing(self.args, self.state):
            self.evaluate()

    def _rows_to_keep(self, num_rows: int) -> int:
        """Rows of this rank's batch that are data: distributed samplers repeat rows to fill the last batch."""
        gradient_state = self.accelerator.gradient_state
        if not gradient_state.end_of_dataloader or gradient_state.remainder <= 0:
            return num_rows
        return min(max(gradient_state.remainder - self.args.process_index * num_rows, 0), num_rows)
