"""A child process inside a container: commits after checkpoints, a signal becomes one SIGTERM, output is passed on."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress

import modal
import pytest
from modal.exception import InputCancellation

from modal_jobs.supervise import published, supervise

CHECKPOINT = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1], "checkpoint-5")
folder.mkdir(parents=True)
(folder / "weights").write_text("half")
time.sleep(0.3)
(folder / "manifest.json").write_text("{}")
while len(os.listdir(sys.argv[1])) < 2:
    time.sleep(0.01)
"""
STOPS = """
import signal, sys, time
def stop(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    sys.exit(128 + number)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
print("ready", flush=True)
time.sleep(600)
"""
IGNORES = STOPS.replace("sys.exit(128 + number)", "pass")


@pytest.fixture
def watched(tmp_path):
    """`supervise` in a temporary run folder, and what each commit saw there."""
    seen = []

    def run(script, *arguments, commit=None, **options):
        def record():
            seen.append(sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()))
            if commit is not None:
                commit()

        command = [sys.executable, "-c", script, str(tmp_path), *arguments]
        return supervise(command, run_dir=tmp_path, commit=record, poll_s=0.02, **options)

    return run, seen


def test_a_checkpoint_is_committed_once_its_manifest_is_there(watched, tmp_path):
    run, seen = watched
    ended = run(CHECKPOINT, commit=lambda: (tmp_path / "done").touch())
    assert ended.status == 0
    assert seen == [
        ["checkpoint-5/manifest.json", "checkpoint-5/weights"],
        ["checkpoint-5/manifest.json", "checkpoint-5/weights", "done"],
    ]


@pytest.mark.parametrize("kind", [RuntimeError, modal.exception.ServiceError])
def test_a_commit_that_fails_is_tried_again_and_ends_nothing(watched, tmp_path, capsys, kind):
    run, seen = watched

    def commit():
        if len(seen) < 3:
            raise kind("there are open files\npreventing the operation")
        (tmp_path / "done").touch()

    assert run(CHECKPOINT, commit=commit).status == 0
    assert len(seen) == 4
    assert "not committed: there are open files preventing the operation" in capsys.readouterr().out


@pytest.mark.parametrize("script", [STOPS, IGNORES])
def test_an_interrupted_body_stops_its_child_and_commits(watched, capfd, script):
    run, seen = watched
    main = threading.main_thread().ident

    def interrupt():
        while "ready" not in capfd.readouterr().out:
            time.sleep(0.02)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(script, grace_s=5 if script == STOPS else 0.1)
    thread.join()
    assert len(seen) == 1
    if script == STOPS:
        assert capfd.readouterr().out == "got SIGTERM\n"


@pytest.fixture
def cancelled():
    """SIGUSR1 as Modal's container runtime takes it: the input is cancelled."""

    def cancel(number, frame):
        raise InputCancellation("Input was cancelled by user")

    before = signal.signal(signal.SIGUSR1, cancel)
    yield cancel
    signal.signal(signal.SIGUSR1, before)


STOPPED_BY = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGUSR1, InputCancellation)]


@pytest.mark.parametrize(("number", "kind"), STOPPED_BY)
def test_a_stop_that_a_commit_swallows_counts(watched, tmp_path, cancelled, number, kind):
    run, seen = watched
    before = signal.getsignal(number)

    def commit():
        (tmp_path / "done").touch()
        with suppress(kind):
            if len(seen) == 1:
                signal.raise_signal(number)

    with pytest.raises(kind):
        run(CHECKPOINT, commit=commit)
    assert len(seen) == 2
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "kind"), STOPPED_BY)
def test_a_last_commit_that_fails_or_a_second_stop_changes_nothing_about_why_it_ends(
    watched, tmp_path, cancelled, capsys, number, kind
):
    """Another exception would be a failure to Modal: tried again, where the user cancelled it."""
    run, seen = watched

    def commit():
        (tmp_path / "done").touch()
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("there are open files")

    with pytest.raises(kind):
        run(CHECKPOINT, commit=commit)
    assert len(seen) == 2
    assert "not committed: there are open files" in capsys.readouterr().out


def test_the_tail_and_the_status_come_back(watched, capsys):
    run, _ = watched
    ended = run("import os, sys; print('a'); print('b', file=sys.stderr); sys.stdout.flush(); os.kill(os.getpid(), 9)")
    assert ended.status == -9
    assert sorted(ended.tail) == ["a", "b"]
    assert sorted(capsys.readouterr().out.split()) == ["a", "b"]


def test_the_kernel_warning_is_said_once_in_our_words(watched, capsys):
    run, _ = watched
    warning = "Detected kernel version 4.4.0, which is below the recommended minimum of 5.5.0; this can cause hangs"
    run(f"print({warning!r}); print({warning!r}); print('next')")
    first, second = capsys.readouterr().out.splitlines()
    assert "gVisor" in first and second == "next"


def test_what_outlives_the_child_is_ended(watched, tmp_path):
    run, _ = watched
    orphan = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    )
    ended = run(orphan)
    pid = int(ended.tail[0])
    deadline = time.monotonic() + 10
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_alive(pid)


def _is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_only_folders_with_a_manifest_are_published(tmp_path):
    for name in ("checkpoint-1", "checkpoint-2", ".saving-3", "checkpoint-x"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-2" / "manifest.json").touch()
    (tmp_path / ".saving-3" / "manifest.json").touch()
    assert [name for name, _ in published(tmp_path)] == ["checkpoint-2"]
    assert published(tmp_path / "nowhere") == set()
    assert os.listdir(tmp_path)
