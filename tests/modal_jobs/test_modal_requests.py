"""What the unmodified client sends for each job: image, pins, Volumes, secrets, GPUs, time, retries."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from modal_proto import api_pb2

from modal_jobs.app import EXTRAS
from modal_jobs.lock import pins

ROOT = Path(__file__).resolve().parents[2]
JOBS = ("data", "train", "sweep", "evaluate", "report")
QUICKSTART = "recipes/quickstart/baseline.yaml"


def outcome(what="", exit_code=0, line="", metrics=None, **_):
    return {"what": what, "exit_code": exit_code, "line": line, "metrics": metrics or {}}


def trained(*, run_name, **_):
    return outcome(run_name, metrics={"eval_perplexity": 12.5})


@pytest.mark.parametrize("job", JOBS)
def test_importing_a_job_needs_no_token_and_parses_nothing(job, tmp_path):
    code = f"import sys; sys.argv = ['x', '--gpu', 'nonsense']; import modal_jobs.{job} as job; job.app"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MODAL_CONFIG_PATH": str(tmp_path / "none")}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_a_training_asks_for_what_it_needs(cloud, modal_run):
    cloud.answer = trained
    done = modal_run(
        *("train", "--recipe", QUICKSTART, "--gpu", "A100-80GB,H100", "--num-gpus", "2", "--retries", "7"),
        *("--timeout-hours", "12", "--extra", "--set training.seed=1 --set 'callbacks={}'"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (request,) = cloud.requests("FunctionCreate")
    ranked = [ranked.function for ranked in request.function_data.ranked_functions]
    gpus = [(function.resources.gpu_config.gpu_type, function.resources.gpu_config.count) for function in ranked]
    assert gpus == [("A100-80GB", 2), ("H100", 2)]
    function = ranked[0]
    assert (function.module_name, function.implementation_name) == ("modal_jobs.container", "train")
    assert function.timeout_secs == 12 * 3600
    assert (function.retry_policy.retries, function.retry_policy.initial_delay_ms) == (7, 0)
    assert function.single_use_containers
    mounts = {mount.mount_path: mount.volume_id for mount in function.volume_mounts}
    assert mounts == {"/checkpoints": "vo-tti-checkpoints", "/data": "vo-tti-data"}
    assert list(function.secret_ids) == ["st-wandb-secret", "st-huggingface-secret"]
    assert not any(request.env_dict for request in cloud.requests("SecretGetOrCreate"))
    assert cloud.inputs() == [
        {
            "recipe": QUICKSTART,
            "run_name": "baseline-seed1",
            "place": "runs/quickstart/baseline-seed1",
            "overrides": ["training.seed=1", "callbacks={}", "training.per_device_train_batch_size=8"],
            "elastic": False,
            "num_processes": 2,
            "gpu": True,
            "num_nodes": 1,
            "git_commit": cloud.inputs()[0]["git_commit"],
        }
    ]
    _check_image(cloud, function)
    assert "baseline-seed1: finished, perplexity 12.50" in done.stdout
    assert "modal volume get tti-checkpoints runs/quickstart/baseline-seed1 runs/quickstart" in done.stdout


def _check_image(cloud, function):
    lines = cloud.image_lines(function)
    (install,) = [line for line in lines if "uv pip install" in line]
    wanted = pins((ROOT / "setup.cfg").read_text(), (ROOT / "constraints.txt").read_text(), EXTRAS)
    assert re.findall(r"[\w.-]+==[\w.]+", install) == sorted(wanted)
    assert "--constraints /constraints.txt" in install
    assert any("python:3.11" in line for line in lines if line.startswith("FROM"))
    files = {file.filename for mount in cloud.mounts for file in mount}
    here = {f"/root/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").rglob("*.yaml")}
    assert here <= files and "/constraints.txt" in files
    sources = {"hf_tti/cli.py", "hf_tti/recipe/schemas/hf_tti.json", "analysis/page.py", "modal_jobs/container.py"}
    assert {f"/root/{name}" for name in sources} <= files
    assert any(name.startswith("/root/analysis/templates/") for name in files)
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in files)


def test_detached_the_call_is_spawned_and_nobody_waits(cloud, modal_run):
    cloud.answer = trained
    done = modal_run("train", "--recipe", QUICKSTART, before=("--detach",))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [request.app_state for request in cloud.requests("AppCreate")] == [api_pb2.APP_STATE_DETACHED]
    (call,) = cloud.requests("FunctionMap")
    assert call.function_call_invocation_type == api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC
    assert "FunctionGetOutputs" not in cloud.names()
    assert "baseline-seed42: fc-0    modal app logs ap-fake --function-call fc-0" in done.stdout
    assert "modal app logs -f ap-fake" in done.stdout and "modal app stop ap-fake" in done.stdout


def test_failed_attempts_are_modals_to_repeat_and_refused_ones_are_not(cloud, modal_run):
    attempts = iter([RuntimeError("CUDA error"), RuntimeError("CUDA error"), None])

    def fails_twice(*, run_name, **_):
        if error := next(attempts):
            raise error
        return outcome(run_name, 3, "runs/x: none of its 2 checkpoints is whole")

    cloud.answer = fails_twice
    done = modal_run("train", "--recipe", QUICKSTART)
    assert done.returncode == 3
    assert cloud.calls[0].attempts == ["failure", "failure", "success"]
    assert "FunctionRetryInputs" not in cloud.names()  # the server repeats; a client may be gone
    assert done.stderr.splitlines() == [
        "baseline-seed42: refused (exit code 3), not tried again: runs/x: none of its 2 checkpoints is whole"
    ]


def test_two_nodes_are_a_cluster_of_whole_hosts(cloud, modal_run):
    cloud.answer = trained
    done = modal_run("train", "--recipe", QUICKSTART, "--nodes", "2", "--gpu", "H100", "--num-gpus", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    function = cloud.function("train")
    assert function._experimental_group_size == 2 and function.i6pn_enabled
    assert function.resources.gpu_config.count == 8
    (given,) = cloud.inputs()
    assert given["overrides"] == ["training.per_device_train_batch_size=1"]
    assert (given["num_nodes"], given["num_processes"]) == (2, 8)


def test_the_data_job_needs_no_gpu(cloud, modal_run):
    cloud.answer = outcome
    done = modal_run("data", "--set", "data.max_tokens=1000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert cloud.function("tti").resources.gpu_config.count == 0
    (given,) = cloud.inputs()
    assert given["arguments"] == ["data", "recipes/expt1/baseline.yaml", "--set", "data.max_tokens=1000"]
