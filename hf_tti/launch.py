"""One run on several processes: accelerate's own launcher, in this process, around `python -m hf_tti train`.

SIGTERM, SIGINT and SIGUSR1 are passed on to the ranks, which agree, save and end; this process waits for them as long
as they take, and ends with their exit code and without a traceback. A SIGHUP is passed on as SIGTERM, unless it was
ignored (nohup). A second SIGINT, a second or more after the first, ends the ranks at once.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import yaml

from hf_tti.console import complain
from hf_tti.errors import UserError
from hf_tti.processes import LAUNCHED_BY, LOST, SIGNALS, launcher

_WATCHED = (*SIGNALS, signal.SIGHUP)
_STOPPED = {128 + number for number in SIGNALS}
_POLL_S = 0.1
_ONE_INTERRUPT_S = 1.0  # a Ctrl-C may come twice, from the terminal and from a parent that passes it on
_GOES_ON = "the same command with --resume goes on from the newest checkpoint"
_ELASTIC = "torch.distributed.elastic"
_LOUD = (f"{_ELASTIC}.agent.server.api", f"{_ELASTIC}.multiprocessing", f"{_ELASTIC}.multiprocessing.api")


@dataclass(frozen=True)
class Accelerate:
    """How `accelerate launch` is to start the processes of a run.

    Attributes:
        config_file: its configuration; None: the one that `accelerate config` wrote, if any.
        num_processes: None: the configuration's.

    Raises:
        UserError: a configuration that is not there, is no mapping, or is for one process where several are asked for.
    """

    config_file: Path | None = None
    num_processes: int | None = None

    def __post_init__(self) -> None:
        settings = self._settings()
        if (self.num_processes or 1) > 1 and settings.get("distributed_type") in ("NO", False):
            raise UserError(
                f"--num-processes {self.num_processes}: {self.config_file} is for one process (distributed_type: 'NO')"
            )

    @property
    def flags(self) -> list[str]:
        """Those of `hf-tti train` that ask for it."""
        number = [] if self.num_processes is None else ["--num-processes", str(self.num_processes)]
        return number + ([] if self.config_file is None else ["--accelerate-config", str(self.config_file)])

    @property
    def options(self) -> list[str]:
        """Those of `accelerate launch`."""
        options = []
        if self.config_file is not None:
            options += ["--config_file", str(self.config_file)]
        elif self.num_processes is not None and self.num_processes > 1:
            options += ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        if self.num_processes is not None:
            options += ["--num_processes", str(self.num_processes)]
        if not {"main_process_port", "main_process_ip"} & self._settings().keys():
            options += ["--main_process_port", "0"]  # a free one: jobs of one machine do not collide
        return options

    def _settings(self) -> Mapping[str, Any]:
        if self.config_file is None:
            return {}
        try:
            content = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no YAML"
            raise UserError(f"--accelerate-config {self.config_file}: {reason}") from error
        if not isinstance(content, dict):
            raise UserError(f"--accelerate-config {self.config_file}: no configuration of accelerate")
        return content


def as_configured() -> Accelerate:
    """By the configuration that `accelerate config` wrote; without it, a process for each GPU."""
    import torch
    from accelerate.commands.config.config_args import default_config_file

    config = Path(default_config_file)
    return Accelerate(config) if config.is_file() else Accelerate(None, max(torch.cuda.device_count(), 1))


class Relay(threading.Thread):
    """Passes signals on to this process's children, inside a `with`, in which no other thread gets them.

    They are blocked, and children inherit that: a rank gets at once what came before it was ready (`hf_tti.signals`),
    and torchelastic's own handlers, which would end the ranks after 30 s, never run.

    Attributes:
        noted: the signals that came, as they are passed on.
        gave_up: a second SIGINT ended the children.
    """

    def __init__(self) -> None:
        super().__init__(name="signals", daemon=True)
        self.noted: list[int] = []
        self.gave_up = False
        self._sent: dict[int, int] = {}  # child -> how many of them it got
        self._interrupted_at: float | None = None
        self._is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._launcher = launcher()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._handlers = {number: signal.getsignal(number) for number in (*_WATCHED, signal.SIGQUIT)}
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.join()
        while signal.sigtimedwait(_WATCHED, 0) is not None:
            pass  # it came too late to matter
        for number, handler in self._handlers.items():  # torchelastic leaves its own
            if handler is not None:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def run(self) -> None:
        while not self._over.is_set():
            came = signal.sigtimedwait(_WATCHED, _POLL_S)
            if came is not None:
                self.take(came.si_signo)
            if self._launcher is not None and os.getppid() != self._launcher:  # a sweep, by kill -9
                self._launcher = None
                self.take(signal.SIGTERM)
            self.pass_on()

    def take(self, number: int) -> None:
        """Notes a signal for the children that are there, and for those that come later."""
        if number == signal.SIGHUP and self._is_nohup:
            return
        now = time.monotonic()
        if number == signal.SIGINT and self._interrupted_at is not None:
            self.gave_up = self.gave_up or now - self._interrupted_at >= _ONE_INTERRUPT_S
            return
        if number == signal.SIGINT:
            self._interrupted_at = now
        self.noted.append(signal.SIGTERM if number == signal.SIGHUP else number)

    def pass_on(self) -> None:
        """Each child gets what it has not got yet."""
        for child in psutil.Process().children():
            try:
                for number in self.noted[self._sent.get(child.pid, 0) :]:
                    child.send_signal(number)
                self._sent[child.pid] = len(self.noted)
                if self.gave_up:
                    child.kill()
            except psutil.NoSuchProcess:
                pass  # it has ended


def launch(several: Accelerate, training: Sequence[str]) -> int:
    """Runs `hf-tti *training` on several processes, through accelerate's launcher.

    Args:
        training: `train RECIPE …` or `resume RUN …`.

    Returns:
        The exit code of the run, which its rank 0 has explained, or else this has: `exit_code`.

    Raises:
        UserError: what accelerate refuses, or a process that is a rank itself.
    """
    if "LOCAL_RANK" in os.environ:
        raise UserError(f"{' '.join(several.flags)}: this process is one of several already; leave it out here")
    with Relay() as relay:
        ends = _ends_of(several.options, training)
    return _explained(ends, relay)


def _ends_of(options: Sequence[str], training: Sequence[str]) -> dict[int, int]:
    """Rank -> exit code, of this machine's ranks that failed, the first first; negative for a signal."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed import run as _  # noqa: F401  # it sets the level of what it logs
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if "LOGLEVEL" not in os.environ:  # torchelastic's own; else it says in four lines that a rank has ended
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ[LAUNCHED_BY] = str(os.getpid())
    try:
        launch_command(launch_command_parser().parse_args([*options, "-m", "hf_tti", *training]))
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    except subprocess.CalledProcessError as error:
        return {0: error.returncode}
    except SignalException as error:  # one that is not passed on
        return {0: -error.sigval}
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UserError(f"accelerate launch {' '.join(options)}: {type(error).__name__}: {reason}") from error
    finally:
        del os.environ[LAUNCHED_BY]
    return {}


def _explained(ends: Mapping[int, int], relay: Relay) -> int:
    """The exit code of the run, explained in a line where its rank 0 has not done so."""
    if relay.gave_up and -signal.SIGKILL in ends.values():
        complain(f"interrupted twice: ended at once; {_GOES_ON}")
        return 128 + signal.SIGINT
    if ends and not _is_said(ends):
        complain(f"{_in_words(ends)}; {_GOES_ON}")
    return exit_code(ends)


def exit_code(ends: Mapping[int, int]) -> int:
    """The run's, of its ranks' that failed, the first first."""
    if not ends:
        return 0
    end = _cause(ends)[1]
    return end if end > 0 else 128 - end


def _cause(ends: Mapping[int, int]) -> tuple[int, int]:
    """The first end with a cause of its own, which neither a rank that another one left alone has, nor the SIGTERM that
    it then gets from torchelastic. A stop is the cause where one rank ended by it: all had agreed and saved, and gloo
    may abort a rank that is slower to end.
    """
    stops = [(rank, end) for rank, end in ends.items() if end in _STOPPED]
    if stops:
        return stops[0]
    of_their_own = [(rank, end) for rank, end in ends.items() if end not in (LOST, -signal.SIGTERM)]
    return next(iter(of_their_own or ends.items()))


def _is_said(ends: Mapping[int, int]) -> bool:
    """Whether rank 0 ended with a line, or a rank with a traceback; on another machine if all here end alike."""
    told = {rank for rank, end in ends.items() if end > 0 and end != LOST}
    if 0 in ends and _STOPPED & set(ends.values()):
        return True
    return 0 in told or 1 in ends.values() or (0 not in ends and told == set(ends) and len({*ends.values()}) == 1)


def _in_words(ends: Mapping[int, int]) -> str:
    rank, end = _cause(ends)
    if end == LOST:
        return "a process of the run on another machine is gone"
    how = f"ended with exit code {end}" if end > 0 else f"was ended by {signal.Signals(-end).name}"
    return f"process {rank} of the run {how}"
