"""Laws of a run on several processes: started and stopped as one, it ends with its ranks' exit code and one line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from accelerate.commands.launch import launch_command_parser

import hf_tti.launch
from hf_tti import cli
from hf_tti.errors import UserError
from hf_tti.launch import Accelerate, Relay, exit_code
from hf_tti.processes import LOST, SIGNALS
from hf_tti.run_folder import RunFolder
from tiny_runs import write_recipe

FAULTS = Path(__file__).with_name("faults")
KILLED, ENDED = -signal.SIGKILL, -signal.SIGTERM
# A rank that is not ready: what comes is blocked, as it inherits that, until it listens.
_RANK = """
import pathlib, signal, sys
came = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: came.append(signal.Signals(number).name))
sys.stdin.readline()
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
print(*came, flush=True)
sys.stdin.readline()
"""


# ---- What is asked for ----


def test_accelerate_gets_its_options_and_knows_them_all(tmp_path):
    options = Accelerate(num_processes=2).options
    parsed = launch_command_parser().parse_args([*options, "-m", "hf_tti", "train", "r.yaml"])
    assert (parsed.num_processes, parsed.multi_gpu, parsed.main_process_port) == (2, True, 0)
    assert parsed.module and parsed.training_script_args == ["train", "r.yaml"]
    config = tmp_path / "accelerate.yaml"
    config.write_text("num_machines: 2\nmain_process_ip: 10.0.0.1\nmain_process_port: 29700\n")
    options = Accelerate(config, 4).options  # several machines have to agree on the port
    assert options == ["--config_file", str(config), "--num_processes", "4"]


@pytest.mark.parametrize("command", ["train", "resume"])
def test_ranks_get_the_command_without_what_asks_for_them(tmp_path, monkeypatch, command):
    asked = []
    monkeypatch.setattr(hf_tti.launch, "launch", lambda several, training: asked.append((several, training)) or 7)
    recipe, config = write_recipe(tmp_path), tmp_path / "accelerate.yaml"
    config.write_text("num_machines: 1\n")
    monkeypatch.setattr(RunFolder, "recipe", lambda self, overrides: None)
    what = [str(recipe), "--resume"] if command == "train" else [str(tmp_path / "run")]
    several = [f"--accelerate-config={config}", "--num-processes", "3"]
    assert cli.main([command, *several, *what, "--set", "question='two words'"]) == 7
    assert asked == [(Accelerate(config, 3), [command, *what, "--set", "question='two words'"])]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--num-processes", "0"], "'0' is not a whole number of at least 1"),
        (["--num-processes", "-2"], "'-2' is not a whole number of at least 1"),
        (["--accelerate-config", "gone.yaml"], "--accelerate-config gone.yaml: No such file"),
        (["--accelerate-config", "tiny.txt"], "--accelerate-config tiny.txt: no configuration of accelerate"),
        (["--num-processes", "2", "--accelerate-config", "one.yaml"], "2: one.yaml is for one process"),
        (["--num-processes", "2", "--set", "training.max_stepz=3"], "training.max_stepz"),
        (["--num-processes", "2", "--run", "tiny-seed8"], "--run tiny-seed8: "),
    ],
)
def test_what_cannot_be_started_is_one_line_and_nothing_is(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hf_tti.launch, "_ends_of", lambda *_: pytest.fail("it was started"))
    recipe = write_recipe(tmp_path)
    Path("tiny.txt").write_text("text")
    Path("one.yaml").write_text("distributed_type: 'NO'\n")
    try:
        code = cli.main(["train", str(recipe), *options])
    except SystemExit as error:
        code = error.code
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2 and said in line


def test_a_rank_starts_no_ranks(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert cli.main(["train", str(write_recipe(tmp_path)), "--num-processes", "2"]) == 2
    assert "--num-processes 2: this process is one of several already" in capsys.readouterr().err


# ---- Signals ----


def rank() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", _RANK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def ended(process: subprocess.Popen) -> None:
    process.stdin.close()
    process.wait()
    process.stdout.close()


def test_a_rank_gets_what_came_before_it_was_ready_and_this_process_does_not():
    relay = Relay()
    with relay:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.pthread_kill(relay.ident, number)  # pytest has threads that block nothing
        while len(relay.noted) < 2:
            time.sleep(0.01)
        later = rank()
        relay.pass_on()
        later.stdin.write("\n")
        later.stdin.flush()
        got = later.stdout.readline().split()
        ended(later)
    assert sorted(got) == ["SIGTERM", "SIGUSR1"]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGUSR1}


def test_handlers_are_afterwards_what_they_were():
    watched = (*SIGNALS, signal.SIGHUP, signal.SIGQUIT)
    before = [signal.getsignal(number) for number in watched]
    with Relay():
        for number in watched:  # as torchelastic does
            signal.signal(number, lambda number, frame: None)
    assert [signal.getsignal(number) for number in watched] == before


def test_a_closed_terminal_stops_the_run_and_with_nohup_does_not(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    relay = Relay()
    relay.take(signal.SIGHUP)
    assert relay.noted == [signal.SIGTERM]
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    relay = Relay()
    relay.take(signal.SIGHUP)
    assert relay.noted == []


def test_a_second_interrupt_ends_the_ranks_unless_it_is_the_same_one(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(hf_tti.launch.time, "monotonic", lambda: now[0])
    relay, child = Relay(), rank()
    relay.take(signal.SIGINT)
    now[0] += 0.9
    relay.take(signal.SIGINT)
    assert relay.noted == [signal.SIGINT] and not relay.gave_up
    now[0] += 0.1
    relay.take(signal.SIGINT)
    relay.noted.clear()
    relay.pass_on()
    assert relay.gave_up and child.wait() == KILLED
    ended(child)
    assert hf_tti.launch._explained({0: KILLED, 1: KILLED}, relay) == 130
    assert capsys.readouterr().err.startswith("interrupted twice: ended at once; ")


def test_a_sweep_that_is_gone_stops_the_run(monkeypatch):
    monkeypatch.setattr(hf_tti.launch, "launcher", lambda: psutil.Process().ppid() + 1)
    with (relay := Relay()):
        while not relay.noted:
            time.sleep(0.01)
    assert relay.noted == [signal.SIGTERM]


# ---- Ends ----


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        ({}, 0, None),
        ({0: 143, 1: 143}, 143, None),
        ({1: ENDED, 0: 143}, 143, None),
        ({1: -signal.SIGABRT, 0: 143}, 143, None),  # gloo's, of a rank that was slower to end
        ({0: -signal.SIGABRT, 1: 138}, 138, None),
        ({1: 2, 0: 2}, 2, None),
        ({0: 4}, 4, None),
        ({0: 1, 1: LOST}, 1, None),  # it ended with a traceback
        ({2: 138, 3: 138}, 138, None),  # rank 0 is on another machine
        ({0: LOST, 1: KILLED}, 137, "process 1 of the run was ended by SIGKILL"),
        ({0: KILLED, 1: ENDED}, 137, "process 0 of the run was ended by SIGKILL"),
        ({0: LOST, 1: -signal.SIGSEGV}, 139, "process 1 of the run was ended by SIGSEGV"),
        ({0: LOST, 1: 2}, 2, "process 1 of the run ended with exit code 2"),
        ({2: LOST, 3: LOST}, 137, "a process of the run on another machine is gone"),
        ({0: ENDED}, 143, "process 0 of the run was ended by SIGTERM"),
    ],
    ids=str,
)
def test_the_end_of_a_run_is_that_of_the_rank_that_caused_it(capsys, ends, code, said):
    assert exit_code(ends) == code == hf_tti.launch._explained(ends, Relay())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (said is not None) and all(line.startswith(f"{said}; ") for line in lines)


def test_what_accelerate_refuses_is_one_line(tmp_path):
    config = tmp_path / "accelerate.yaml"
    config.write_text("distributed_type: MULTI_GPU\nnum_processes: -1\ncompute_environment: LOCAL_MACHINE\n")
    with pytest.raises(UserError, match=r"^accelerate launch --config_file .*: ValueError: You need to manually pass"):
        hf_tti.launch.launch(Accelerate(config), ["train", "r.yaml"])


def test_two_processes_that_refuse_a_folder_say_so_once(tmp_path):
    recipe, run = write_recipe(tmp_path, training={"use_cpu": True}), tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"name": "another", "digest": "another"}))
    command = [sys.executable, "-m", "hf_tti", "train", str(recipe), "--run-dir", str(run), "--num-processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "another recipe" in line] == done.stderr.splitlines()[-1:]
    assert "Traceback" not in done.stderr and "ChildFailedError" not in done.stderr


CELLS = ("SIGTERM to launcher in step", "SIGUSR1 to launcher in step")


def test_a_signal_to_the_launcher_ends_the_run_with_one_line_and_it_goes_on_bitwise():
    command = [sys.executable, str(FAULTS / "signals.py"), "--launchers", "hf-tti", "--worlds", "2", "--only", *CELLS]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["hold"] == len(CELLS)
