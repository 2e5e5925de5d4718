"""The parts of a recipe that belong to no other module, as dataclasses.

`data:` is `hf_tti.data.DataConfig`, `training:` is `InterpTrainingArguments`, `model:` a
HuggingFace config class; entries under `objectives:`, `metrics:` and `callbacks:` are the
component's own dataclass plus the entry's keys below.
"""

from dataclasses import dataclass, field
from typing import Literal

LABEL_PATTERN = r"[A-Za-z][A-Za-z0-9_-]*"
MODEL_TYPES = ("gpt2", "llama", "gpt_neox", "qwen2", "qwen3")
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
NULL_ROWS = ("random_init", "rotated", "shuffled_labels")


def _help(text: str, **limits) -> dict:
    return {"help": text, **limits}


@dataclass(frozen=True, kw_only=True)
class Head:
    """Keys at the top of a recipe."""

    experiment: str = field(default="", metadata=_help("name of the group of runs", pattern=NAME_PATTERN))
    question: str = field(default="", metadata=_help("the question that the runs answer, in one sentence"))
    extends: str | None = field(default=None, metadata=_help("another recipe to start from, relative to this file"))


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Keys of `model:` beside those of the architecture's own config class."""

    model_type: str = field(default="gpt2", metadata=_help("architecture to train from scratch", choices=MODEL_TYPES))
    pretrained: str | None = field(
        default=None, metadata=_help("Hub id or folder to go on from, instead of model_type")
    )
    revision: str | None = field(default=None, metadata=_help("branch, tag or commit of `pretrained`"))
    attn_implementation: str | None = field(
        default=None,
        metadata=_help("attention kernel", choices=["eager", "sdpa", "flash_attention_2", "flex_attention"]),
    )


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Keys of `training:` beside the training arguments."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = field(
        default="auto", metadata=_help("auto: bf16 where the device has it, else fp32")
    )


@dataclass(frozen=True, kw_only=True)
class ObjectiveEntry:
    """Keys of an entry under `objectives:` beside the objective's own."""

    weight: float = field(metadata=_help("λ; the term is added to the loss this many times", min=0))
    objective: str | None = field(default=None, metadata=_help("name or package.module:Class; default: the label"))
    warmup_steps: int = field(default=0, metadata=_help("optimizer steps over which the weight rises from 0", min=0))


@dataclass(frozen=True, kw_only=True)
class MetricEntry:
    """Keys of an entry under `metrics:` beside the metric's own."""

    metric: str | None = field(default=None, metadata=_help("name or package.module:Class; default: the label"))


@dataclass(frozen=True, kw_only=True)
class StudyEntry:
    """Keys of an entry under `studies:` beside the study's own."""

    study: str | None = field(default=None, metadata=_help("name or package.module:Class; default: the label"))


@dataclass(frozen=True, kw_only=True)
class EvaluationSection:
    """What `hf-tti evaluate` does beyond the metrics of training; no part of a run's identity."""

    labels: str | None = field(
        default=None,
        metadata=_help(
            "labels for probes: a JSONL file of words and labels, spacy, spacy:MODEL or nltk; "
            "default: the corpus's own where it has some"
        ),
    )
    sample_tokens: int = field(default=16_384, metadata=_help("tokens that studies look at, whole documents", min=64))
    nulls: list[str] = field(
        default_factory=lambda: list(NULL_ROWS),
        metadata=_help("what else is measured in the same way", choices=NULL_ROWS, unique=True),
    )


@dataclass(frozen=True, kw_only=True)
class AnalysisSection:
    """How `hf-tti report` judges the runs, declared before they are trained; no part of a run's identity."""

    baseline: str | None = field(
        default=None, metadata=_help("method to compare with; default: the longest one without objectives")
    )
    margin: float = field(default=0.005, metadata=_help("nats of cross-entropy that count as free", exclusive_min=0))
    composite: dict[str, dict] = field(
        default_factory=dict,
        metadata=_help("metric or study label -> {direction: lower or higher, weight: number, 1 by default}"),
    )
    method: Literal["z-score", "rank"] = field(
        default="z-score", metadata=_help("how the composite adds up: in sds of the baseline's seeds, or by rank")
    )


@dataclass(frozen=True, kw_only=True)
class CompositePart:
    """Keys of an entry under `analysis.composite`."""

    direction: Literal["lower", "higher"] = field(metadata=_help("what is more interpretable"))
    weight: float = field(default=1.0, metadata=_help("its share", exclusive_min=0))


@dataclass(frozen=True, kw_only=True)
class TrackingSection:
    """Where the curves go."""

    tracker: Literal["none", "wandb", "trackio", "tensorboard"] = field(
        default="none",
        metadata=_help("experiment tracker; the run's own log file is always written"),
    )
    project: str = field(
        default="training-time-interpretability",
        metadata=_help("project in the tracker", pattern=NAME_PATTERN),
    )
    group: str | None = field(default=None, metadata=_help("group in the tracker; default: experiment"))
    tags: list[str] = field(default_factory=list, metadata=_help("tags in the tracker"))


@dataclass(frozen=True, kw_only=True)
class HubSection:
    """What of a run is published."""

    push: Literal["none", "final", "steps"] = field(
        default="none",
        metadata=_help(
            "to the HuggingFace Hub: the final model, or also every checkpoint as a branch `step1000`; "
            "needs a token (HF_TOKEN or hf auth login)"
        ),
    )
    repo: str | None = field(default=None, metadata=_help("repository, owner/name; `{run}` in it is the run's name"))
    private: bool = field(default=True, metadata=_help("whether a new repository is private"))
    license: str | None = field(
        default=None,
        metadata=_help("licence of the model, as the Hub names it: apache-2.0, cc-by-4.0", pattern=r"[a-z0-9.-]+"),
    )
    wait_minutes: float = field(
        default=10.0,
        metadata=_help(
            "how long a run that is done goes on without progress of its pushes; 0: each is tried once", min=0
        ),
    )


@dataclass(frozen=True, kw_only=True)
class SweepSection:
    """The runs that one recipe stands for: every combination of the grid, with every seed."""

    seeds: list[int] = field(
        default_factory=list,
        metadata=_help("training.seed and training.data_seed, one run each", min=0, max=2**32 - 1, unique=True),
    )
    grid: dict[str, list] = field(default_factory=dict, metadata=_help("dotted key -> list of values"))
