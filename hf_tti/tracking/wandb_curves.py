"""Logs and configuration of a training in its W&B run.

`train/*` and `eval/*` over `train/global_step`, as transformers' own callback names them; the run's summary has the
lowest `eval/loss` and `eval/perplexity`, and of a metric with a direction its best mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import wandb
from transformers import TrainerCallback
from transformers.integrations import rewrite_logs

from hf_tti.metrics.base import Metric
from hf_tti.tracking.public import public
from hf_tti.tracking.wandb_run import WandbRun

STEP = "train/global_step"
_ONCE = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos")


class WandbCurves(TrainerCallback):
    """Logs to an open run. Steps that a resumed run repeats are logged once, as far as the server knows of them.

    Args:
        metrics: label -> Metric, which says which way is better.
    """

    def __init__(self, run: WandbRun, metrics: Mapping[str, Metric]):
        self._run = run
        self._steps_there = 0
        run.set_up(lambda run: _define(run, metrics))
        run.do(self._look_back)

    def _look_back(self, run: wandb.Run) -> None:
        if run.resumed:
            self._steps_there = run.summary.get(STEP) or 0

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        config = {**model.config.to_dict(), **args.to_dict(), "model/num_parameters": model.num_parameters()}
        self._run.set_up(lambda run: run.config.update(public(config), allow_val_change=True))

    def on_log(self, args, state, control, logs=None, **kwargs):
        step = state.global_step
        curves = rewrite_logs({key: value for key, value in logs.items() if key not in _ONCE})
        if step >= self._steps_there and curves:  # the last one again: it may have been cut off
            self._run.do(lambda run: run.log({**curves, STEP: step}))
        if once := {key: value for key, value in logs.items() if key in _ONCE}:
            self._run.do(lambda run: run.summary.update(once))


def _define(run: wandb.Run, metrics: Mapping[str, Metric]) -> None:
    run.define_metric(STEP)
    for name in ("train/*", "eval/*"):
        run.define_metric(name, step_metric=STEP)
    for name, summary in _summaries(metrics).items():
        run.define_metric(name, step_metric=STEP, summary=summary)


def _summaries(metrics: Mapping[str, Metric]) -> dict[str, str]:
    """Key -> `min` or `max`, whichever is better."""
    found = {"eval/loss": "min", "eval/perplexity": "min"}
    for label, metric in metrics.items():
        if metric.greater_is_better is not None:
            found[f"eval/{label}/mean"] = "max" if metric.greater_is_better else "min"
    return found
