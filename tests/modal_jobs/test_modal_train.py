"""Real attempts: Modal's own container runtime, the job's body, the training, on what the client uploaded."""

import json
import re

import pytest

from fakes.modal_faults import preempt
from fakes.modal_training import HOLDING, RECIPE, RUN, differences, extra, noting, put_data, train_words
from hf_tti.cli import main
from hf_tti.tracking import tracker_run_id


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TTI_CACHE", str(folder / "cache" / "hf_tti"))
        assert main(train_words(folder / "reference")) == 0
    return folder


def test_a_preempted_attempt_changes_nothing(cloud, modal_run, uninterrupted):
    put_data(cloud, uninterrupted)
    records = []
    cloud.faults = [preempt(7, noting(cloud, records))]
    done = modal_run("train", "--recipe", RECIPE, "--gpu", "cpu", "--extra", extra(HOLDING))
    logs = "\n".join(cloud.log(number) for number in range(len(cloud.logs)))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert cloud.calls[0].attempts == ["preempted", "success"]
    assert "stopped by SIGTERM after step 7; " in cloud.log(0)
    assert re.search(r"resuming from \S+/checkpoint-7\n", cloud.log(1))
    run = cloud.volume("tti-checkpoints").committed / RUN
    assert differences(run, uninterrupted / "reference") == []
    records.append((run / "run.json").read_text())
    ids = {json.loads(record)["tracker_run_id"] for record in records}
    live = cloud.volume("tti-checkpoints").live / RUN
    assert len(records) == 2 and ids == {tracker_run_id(json.loads(records[0])["digest"], live)}
    assert "baseline-seed42: finished, perplexity" in done.stdout
    for files in cloud.volume("tti-checkpoints").commits:  # after the manifest: no commit without a whole checkpoint
        assert any(name.startswith(RUN) and name.endswith("/manifest.json") for name in files)
