"""Laws of what stands between a training and its tracker: failures stop there, and so do secrets and local paths."""

from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_tti.tracking.guarded import Guarded
from hf_tti.tracking.public import public
from test_tracking import SECRETS


class FullDisk(TrainerCallback):
    def __init__(self):
        self.events = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.events.append("begin")

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.events.append(logs)
        raise OSError(28, "No space left on device")

    def on_train_end(self, args, state, control, **kwargs):
        self.events.append("end")


def test_a_tracker_that_fails_is_left_alone_and_the_training_goes_on(tmp_path, capsys):
    inner = FullDisk()
    guarded, event = Guarded("trackio", inner), (TrainingArguments(str(tmp_path)), TrainerState(), TrainerControl())
    guarded.on_train_begin(*event)
    for step in (1, 2):
        guarded.on_log(*event, logs={"loss": step})
    guarded.on_train_end(*event)
    assert inner.events == ["begin", {"loss": 1}]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trackio failed ([Errno 28] No space left on device)")


def test_a_tracker_is_told_names_but_no_places_and_no_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    told = public(
        {
            "data": {"train": "/home/somebody/stories.jsonl", "validation": Path("/data/v"), "name": "text_files"},
            "sites": ["mlp.out", "a/relative/path"],
            "weight": 0.1,
            "tags": ("x", None, True),
            "note": f"begun with {SECRETS['HF_TOKEN']}",
        }
    )
    assert told == {
        "data": {"train": "stories.jsonl", "validation": "v", "name": "text_files"},
        "sites": ["mlp.out", "a/relative/path"],
        "weight": 0.1,
        "tags": ["x", None, True],
        "note": "begun with [masked]",
    }
