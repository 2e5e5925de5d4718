"""A Trainer whose evaluations measure: exact token-mean cross-entropy and the metrics, in the loop's own forwards.

An evaluation that a signal breaks off leaves a checkpoint of before it; the run that resumes from there does it first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import IntervalStrategy

from hf_tti.evaluation import MetricAccumulator
from hf_tti.metrics.base import Metric
from hf_tti.sampling import SeededLengthSampler, streams_dealt_out
from hf_tti.saving import SavingTrainer, generator_states, set_generator_states
from hf_tti.signals import BrokenOff, due_after, evaluation_is_missing, is_evaluation, with_deaf_workers


class EvaluatingTrainer(SavingTrainer):
    """A Trainer with whole checkpoints plus `interp_metrics`, by label, measured at every evaluation."""

    interp_metrics: Mapping[str, Metric]
    _accumulator: MetricAccumulator | None = None  # of the evaluation that is going on
    _resumed_from: str | None = None  # until it is known whether an evaluation is missing there
    _after_evaluation: Mapping[str, Any] | None = None  # generators, where one was
    _epoch = 0  # that is trained

    @property
    def _masking(self) -> dict[str, Any]:
        """What a `ForwardPass` leaves out and where documents end."""
        raise NotImplementedError

    def _new_accumulator(self) -> MetricAccumulator:
        return MetricAccumulator(self.model, self.interp_metrics, max_batches=self.args.metric_batches, **self._masking)

    def _get_dataloader(self, *args, is_training=False, **kwargs):
        """Stock, with workers that outlast a signal to the whole job, and all rows of an evaluation: stock leaves out
        its last batch as well where training does (`dataloader_drop_last`).
        """
        drops = self.args.dataloader_drop_last
        try:
            self.args.dataloader_drop_last = drops and is_training
            return with_deaf_workers(super()._get_dataloader(*args, is_training=is_training, **kwargs))
        finally:
            self.args.dataloader_drop_last = drops

    def _get_train_sampler(self, *args, **kwargs):
        """Stock; rows grouped by length in an order that the seed and the epoch decide."""
        return self._seeded(super()._get_train_sampler(*args, **kwargs), lambda: self._epoch)

    def _get_eval_sampler(self, *args, **kwargs):
        """Stock; rows grouped by length in one order for all evaluations."""
        return self._seeded(super()._get_eval_sampler(*args, **kwargs), lambda: 0)

    def _seeded(self, sampler, epoch):
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        return SeededLengthSampler(sampler, self.args.data_seed, self.args.world_size, epoch)

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
            with streams_dealt_out():
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
            step, log = self.state.global_step, self.state.log_history  # of several data sets some had their line
            self.state.log_history = [line for line in log if not is_evaluation(line, step)]
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
            raise

    # ---- The evaluation that a stop left out ----

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        self._resumed_from, self._after_evaluation = checkpoint, None

    def _load_rng_state(self, checkpoint):
        super()._load_rng_state(checkpoint)
        if self._after_evaluation is not None:
            set_generator_states(self._after_evaluation)

    def _evaluate(self, trial, ignore_keys_for_eval, skip_scheduler=False):
        """Stock; a run that goes on had its evaluation at the start (`eval_on_start`) when it started."""
        if skip_scheduler and self._resumed_from is not None:
            return None
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler=skip_scheduler)

    def _run_epoch(self, **kwargs):
        """Stock, after the evaluation that a stop left out, which may end training."""
        self._epoch = kwargs["epoch"]
        loop = kwargs["trial"], kwargs["epoch"], kwargs["ignore_keys_for_eval"], kwargs["start_time"]
        if not self._make_up_evaluation(*loop):
            with streams_dealt_out():
                super()._run_epoch(**kwargs)
        elif self.args.eval_strategy == IntervalStrategy.STEPS:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._maybe_log_save_evaluate(self._tr_loss, None, kwargs["model"], *loop)

    def _finalize_training(self, trial, num_train_samples, start_time):
        """Stock; a run that stopped at the end of its last epoch has no epoch to evaluate in."""
        self._make_up_evaluation(trial, self.state.epoch, None, start_time)
        return super()._finalize_training(trial, num_train_samples, start_time)

    def _make_up_evaluation(self, trial, epoch, ignore_keys_for_eval, start_time) -> bool:
        """Does what stock does after a step, where a stop left it out; whether that ends training."""
        checkpoint, self._resumed_from = self._resumed_from, None
        if checkpoint is None or not evaluation_is_missing(self.args, self.state):
            return False
        before = generator_states()
        self._load_rng_state(checkpoint)
        self.control.should_log, self.control.should_evaluate = False, True
        self.control.should_save = due_after(self.args, self.state).should_save
        self._maybe_log_save_evaluate(
            self._tr_loss, None, self.model_wrapped, trial, epoch, ignore_keys_for_eval, start_time
        )
        self._after_evaluation = generator_states()
        set_generator_states(before)
        return self.control.should_training_stop

    def _rows_to_keep(self, num_rows: int) -> int:
        """Rows of this rank's batch that are data: distributed samplers repeat rows to fill the last batch."""
        gradient_state = self.accelerator.gradient_state
        if not gradient_state.end_of_dataloader or gradient_state.remainder <= 0:
            return num_rows
        return min(max(gradient_state.remainder - self.args.process_index * num_rows, 0), num_rows)
