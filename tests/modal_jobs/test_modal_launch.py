"""What a container runs, and what its end means."""

import itertools

import pytest

from hf_tti.commands.training import train_arguments
from modal_jobs.invocation import Parser
from modal_jobs.launch import Machines, divided_batch, exit_code_of, last_words, launch_command, meaning

RUN = {"run_name": "baseline-seed1", "run_dir": "/checkpoints/runs/expt1/baseline-seed1"}
ROOT_CAUSE = """\
step 3/40  loss 6.091
RuntimeError: CUDA error
E1123 06:55:37.695000 23272 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 2) local_rank: 0
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
Failures:
[1]:
  rank      : 1 (local_rank: 1)
  exitcode  : 1 (pid: 23283)
Root Cause (first observed failure):
[0]:
  rank      : 0 (local_rank: 0)
  exitcode  : {code} (pid: 23282)
============================================================
""".splitlines()


def parsed(command: list[str]):
    """The options as `hf-tti train` reads them."""
    parser = Parser(prog="hf-tti train")
    train_arguments(parser)
    return parser.parse_args(command[command.index("hf_tti") + 2 :])


@pytest.mark.parametrize(("processes", "nodes", "gpu"), list(itertools.product((1, 2), (1, 2), (True, False))))
def test_every_launch_trains_the_same_run_and_resumes(processes, nodes, gpu):
    overrides = ["training.seed=1", "model.name=a b; rm -rf /"]
    machines = Machines(processes, gpu, nodes, main_address="10.0.0.1")
    command = launch_command("recipes/a.yaml", overrides=overrides, machines=machines, elastic=True, **RUN)
    options = parsed(command)
    assert (str(options.recipe), options.run_name, str(options.run_dir)) == ("recipes/a.yaml", *RUN.values())
    assert options.overrides == overrides and options.resume and options.elastic
    assert ("accelerate.commands.launch" in command) == (processes * nodes > 1)


def test_one_process_needs_no_launcher():
    command = launch_command("a.yaml", python="py", **RUN)
    assert command[:5] == ["py", "-m", "hf_tti", "train", "a.yaml"]
    assert not parsed(command).elastic


def test_a_cluster_counts_all_processes_and_names_its_first_node():
    machines = Machines(8, True, 2, node_rank=1, main_address="fd00::1")
    command = launch_command("a.yaml", machines=machines, **RUN)
    options = dict(zip(command, command[1:], strict=False))
    assert (options["--num_processes"], options["--num_machines"], options["--machine_rank"]) == ("16", "2", "1")
    assert options["--main_process_ip"] == "fd00::1"
    with pytest.raises(ValueError, match="address"):
        launch_command("a.yaml", machines=Machines(8, True, 2), **RUN)


@pytest.mark.parametrize(
    ("code", "end"),
    [(0, "finished"), (2, "refused"), (3, "refused"), (4, "incomplete"), (1, "again"), (130, "again"), (143, "again")],
)
def test_only_what_another_attempt_can_mend_is_tried_again(code, end):
    assert meaning(code) == end
    assert meaning(-9) == "again"


@pytest.mark.parametrize("code", [2, 3, 4, 1, -9])
def test_the_launchers_one_is_the_first_ranks_code(code):
    tail = [line.format(code=code) for line in ROOT_CAUSE]
    assert exit_code_of(1, tail) == code
    assert exit_code_of(-15, tail) == -15
    assert exit_code_of(1, ["exitcode  : 2"]) == 1
    assert last_words(tail) == "RuntimeError: CUDA error"
    assert last_words([" ", ""]) == "no output"


def test_the_global_batch_stays_or_is_refused():
    assert divided_batch(64, 8) * 8 == 64
    assert divided_batch(64, 3) is None
