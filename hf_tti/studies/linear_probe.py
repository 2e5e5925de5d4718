"""Linear probe: how well a linear readout of a site's activations tells the classes of a label, such as part of speech.

    accuracy = share of scored tokens with argmax_c (x W + b)_c = c_t         multinomial logistic regression, L2
    selectivity = accuracy − accuracy of the same probe on a control task: a random class for every token type

Even documents fit, odd ones score. Beside it the token's most common label and the majority class: a probe at the
level of the former may read nothing but the token. Sources: Alain & Bengio 2016 (arXiv:1610.01644); Hewitt & Liang 2019
(arXiv:1909.03368).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from hf_tti.studies._probes import ProbeStudy, ProbeTask, logistic_predictions, standardised
from hf_tti.studies.sample import Sample


@dataclass(frozen=True, kw_only=True)
class LinearProbe(ProbeStudy):
    """Accuracy (`layer_<i>`, `mean`), and under their names: `balanced_accuracy`, the mean recall of the classes;
    `macro_f1`; `control`, the accuracy on the control task; `selectivity`; `converged`, the share of the two fits that
    did. Of the sample alone, `<name>/mean`: `majority`, `token_identity`, `num_classes`, `num_classes_left_out`,
    `num_scored_tokens`. Arrays: `confusion/` [C, C] int64, true classes by rows; `class_names` uint8, a line each.

    With several fields the keys carry theirs: `pos/layer_<i>`, `control/pos/layer_<i>`, `majority/pos/mean`. A field
    that the sample does not have, or that has fewer than two classes, gives a NaN `mean`; activations that are not
    finite give NaN. A rotation of the site changes what L2 and standardisation see, and little else. 8,192 tokens of
    1,536 units: 3 to 8 s a fit on one core, two fits a layer.

    Args:
        sites: see `Study`.
        fields: of the sample's labels, each with a probe of its own.
        l2: weight of ½‖W‖² beside the mean loss in nats a token.
        min_class_tokens: a class with fewer in either half is left out.
        max_tokens: at most this many tokens of each half and the rest of the document that reaches them.
        seed: of the control task; the same types have the same class for every model.
    """

    null_rows: ClassVar[tuple[str, ...]] = ("random_init", "shuffled_labels")

    l2: float = field(
        default=0.01, metadata={"exclusive_min": 0.0, "help": "Weight of ½‖W‖² beside the mean loss in nats a token."}
    )
    seed: int = field(default=0, metadata={"min": 0, "help": "Of the control task's random classes."})

    def facts(self, sample: Sample, task: ProbeTask) -> dict[str, float]:
        majority = np.bincount(task.fit_classes).argmax()
        return {
            "majority": float(np.mean(task.score_classes == majority)),
            "token_identity": float(np.mean(token_identity_predictions(sample, task) == task.score_classes)),
            **super().facts(sample, task),
            "num_scored_tokens": float(len(task.score)),
        }

    def probe(
        self, activations: np.ndarray, sample: Sample, task: ProbeTask
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

        names = ("", "balanced_accuracy/", "macro_f1/", "control/", "selectivity/", "converged/")
        classes = range(len(task.names))
        rows = standardised(activations, task)
        if rows is None:
            nothing = np.zeros((len(classes), len(classes)), dtype=np.int64)
            return dict.fromkeys(names, float("nan")), {"confusion": nothing}
        fit, score = rows
        control = _control_task(sample, task, self.seed)
        predicted, converged = logistic_predictions(fit, task.fit_classes, score, l2=self.l2)
        control_predicted, control_converged = logistic_predictions(fit, control[0], score, l2=self.l2)
        accuracy = np.mean(predicted == task.score_classes)
        control_accuracy = np.mean(control_predicted == control[1])
        values = (
            accuracy,
            balanced_accuracy_score(task.score_classes, predicted),
            f1_score(task.score_classes, predicted, average="macro", zero_division=0),
            control_accuracy,
            accuracy - control_accuracy,
            (converged + control_converged) / 2,
        )
        confusion = confusion_matrix(task.score_classes, predicted, labels=classes)
        return {name: float(value) for name, value in zip(names, values, strict=True)}, {"confusion": confusion}


def token_identity_predictions(sample: Sample, task: ProbeTask) -> np.ndarray:
    """[m]: the most common class of the same token type among the tokens to fit, the most common of all for a type that
    is not there; the first class among equals.
    """
    types, index = np.unique(sample.token_ids[task.fit], return_inverse=True)
    counts = np.zeros((len(types) + 1, len(task.names)), dtype=np.int64)
    np.add.at(counts, (index, task.fit_classes), 1)
    counts[-1] = np.bincount(task.fit_classes, minlength=len(task.names))
    tokens = sample.token_ids[task.score]
    place = np.searchsorted(types, tokens).clip(max=len(types) - 1)
    return counts.argmax(axis=1)[np.where(types[place] == tokens, place, len(types))]


def _control_task(sample: Sample, task: ProbeTask, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """[n] and [m]: for every token type one class, drawn from the classes' shares of the tokens to fit."""
    fit, score = sample.token_ids[task.fit], sample.token_ids[task.score]
    types = np.unique(np.concatenate([fit, score]))
    shares = np.bincount(task.fit_classes, minlength=len(task.names)) / len(fit)
    drawn = np.random.default_rng(seed).choice(len(task.names), size=len(types), p=shares)
    return drawn[np.searchsorted(types, fit)], drawn[np.searchsorted(types, score)]
