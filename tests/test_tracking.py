"""Laws of tracking: the tracker's files lie in the run's folder, and its environment is gone
afterwards.
"""

import os
from pathlib import Path

import pytest

from hf_tti.errors import UserError
from hf_tti.recipe.sections import TrackingSection
from hf_tti.tracking import tracked, tracker_run_id

RUN = {"run_name": "tiny-seed7", "group": "tiny_runs", "run_id": "0123456789abcdef"}


def test_no_tracker_reports_nowhere(tmp_path):
    with tracked(TrackingSection(), run_dir=tmp_path, **RUN) as report_to:
        assert report_to == []
    assert not list(tmp_path.iterdir())


def test_tensorboard_writes_into_the_run_folder(tmp_path):
    before = dict(os.environ)
    section = TrackingSection(tracker="tensorboard")
    with tracked(section, run_dir=tmp_path, **RUN) as report_to:
        assert report_to == ["tensorboard"]
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard")
    assert dict(os.environ) == before


@pytest.mark.parametrize("tracker", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_one_line(tracker, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    section = TrackingSection(tracker=tracker)
    with pytest.raises(UserError, match=f"{tracker}.*pip install {tracker}"):
        with tracked(section, run_dir=tmp_path, **RUN):
            pass


def test_run_ids_belong_to_a_recipe_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = {tracker_run_id(digest, Path(folder)) for digest in "ab" for folder in ("runs/x", "runs/y")}
    assert len(ids) == 4
    assert tracker_run_id("a", Path("runs/x")) == tracker_run_id("a", tmp_path / "runs" / "x")
