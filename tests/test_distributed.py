"""One optimizer step is the same function of the global batch, however it is split over ranks and micro-batches."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_tti.components import component_names

WORLDS = (1, 2, 4)


def launch(script: Path, *args: str, world: int, timeout: int = 900) -> None:
    """Start `world` gloo ranks of a script on this machine and wait for all of them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "ACCELERATE_USE_CPU": "true",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), *args],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [rank.communicate(timeout=timeout)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, output in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, output[-3000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, Path]:
    """World size -> folder with the results of every case."""
    script = Path(__file__).with_name("distributed_worker.py")
    folders = {world: tmp_path_factory.mktemp(f"world{world}") for world in WORLDS}
    for world, folder in folders.items():
        launch(script, str(folder), str(folders[1]), world=world)
    return folders


def relative_difference(a: dict, b: dict, start: dict) -> float:
    """Largest difference of two sets of weights relative to the largest distance that training moved them."""
    moved = max((b[name] - start[name]).abs().max().item() for name in b)
    return max((a[name] - b[name]).abs().max().item() for name in b) / moved


@pytest.fixture(scope="module")
def start() -> dict:
    from tiny import without_dropout

    return without_dropout().transformer.state_dict()


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_token_sum_agrees_over_accumulation_and_world_size(results, start, world, accumulation):
    name = f"token_sum-{accumulation}"
    reference, here = (load_file(results[w] / f"{n}.safetensors") for w, n in ((1, "token_sum-1"), (world, name)))
    assert relative_difference(here, reference, start) <= 2e-6
    logs, expected = (
        json.loads((results[w] / f"{n}.json").read_text())["logs"] for w, n in ((world, name), (1, "token_sum-1"))
    )
    for key in ("loss", "ce_loss", "objective/MeanSquare", "reg_to_ce_ratio"):
        assert logs[key] == pytest.approx(expected[key], rel=2e-6)


@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("name", component_names("objectives"))
def test_every_objective_agrees_over_world_size(results, start, world, name):
    reference, here = (load_file(results[w] / f"{name}.safetensors") for w in (1, world))
    assert relative_difference(here, reference, start) <= 2e-5
    logs, expected = (json.loads((results[w] / f"{name}.json").read_text())["logs"] for w in (world, 1))
    for key in ("loss", "ce_loss", f"objective/{name}"):
        assert logs[key] == pytest.approx(expected[key], rel=2e-5)


@pytest.mark.parametrize("world", WORLDS[1:])
def test_evaluation_counts_every_row_once(results, world):
    """Ten rows in batches of four over two and four ranks: samplers repeat rows, the numbers must not."""
    metrics, expected = (json.loads((results[w] / "token_sum-1.json").read_text())["metrics"] for w in (world, 1))
    assert metrics["eval_num_tokens"] == expected["eval_num_tokens"]
    for key, value in expected.items():
        assert metrics[key] == pytest.approx(value, rel=1e-5, nan_ok=True), key


@pytest.mark.parametrize("world", WORLDS)
def test_an_evaluation_before_training_changes_nothing(results, start, world):
    """The stock Trainer would then not wrap the model, and its ranks would train on their own."""
    reference, here = (load_file(results[world] / f"token_sum-{n}.safetensors") for n in ("1", "evaluated_first"))
    assert relative_difference(here, reference, start) <= 2e-6


@pytest.mark.parametrize("world", WORLDS[1:])
def test_other_processes_are_refused_and_with_elastic_resume_go_on(results, world):
    found, alone = (json.loads((results[w] / "resumed.json").read_text()) for w in (world, 1))
    assert f"world_size was 1, is {world}; per_device_train_batch_size was 16, is {16 // world}" in found["said"]
    assert "\n" not in found["said"]
    assert len(found["losses"]) == 4 and found["losses"] == pytest.approx(alone["losses"], rel=1e-6)


def test_the_tolerance_would_notice_a_factor_five_percent_off(results, start):
    """Five percent is what a wrong treatment of two accumulation steps was seen to cost."""
    right, wrong = (load_file(results[1] / f"{n}.safetensors") for n in ("token_sum-1", "token_sum-5_percent_off"))
    assert relative_difference(wrong, right, start) > 100 * 2e-6
