"""A Modal control plane on 127.0.0.1 for the unmodified client, and containers for the unmodified container runtime.

    with fake_modal(folder) as cloud:
        subprocess.run([sys.executable, "-m", "modal", "run", ...], env=os.environ | cloud.environment)
What it answers is what modal 1.6.4 was seen to send and to read. A container is `python -m modal._container_entrypoint`
in a folder that holds what the client uploaded and nothing else; the Volumes lose what was not committed when it ends.
Only what the jobs use is there: spawned calls with retries, preemption, Volumes, secrets and images by request.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

from grpclib.server import Server
from modal._serialization import deserialize_data_format, serialize
from modal._utils.grpc_testing import InterceptionContext
from modal_proto import api_pb2

from fakes.modal_faults import Fault
from fakes.modal_server import Files, Servicer, handle

INTERNAL_FAILURES = 8  # that one input may have
_INTERNAL = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE, exception="preempted")


@dataclass
class Call:
    """A spawned call: its input, and how many attempts it has had.

    Attributes:
        attempts: one status word each: success, failure, preempted.
    """

    id: str
    function_id: str
    input: api_pb2.FunctionInput
    attempts: list[str] = field(default_factory=list)
    output: api_pb2.FunctionPutOutputsItem | None = None
    over: threading.Event = field(default_factory=threading.Event)


@dataclass
class Volume:
    """Files as containers see them (`live`) and as they would survive (`committed`)."""

    live: Path
    committed: Path
    commits: list[list[str]] = field(default_factory=list)  # relative paths of all files, at each commit


class FakeModal:
    """State of the control plane. See the module's docstring.

    Attributes:
        secrets: name -> keys. calls: spawned so far. volumes: by name.
        faults: for successive attempts, what comes over their containers; None: nothing.
        answer: instead of containers: keywords of a call -> its value, or an exception.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.secrets = {"wandb-secret": {"WANDB_API_KEY"}, "huggingface-secret": {"HF_TOKEN"}}
        self.faults: list[Fault | None] = []
        self.answer: Callable[..., object] | None = None
        self.calls: list[Call] = []
        self.volumes: dict[str, Volume] = {}
        self.blobs: dict[str, bytes] = {}
        self.mounts: list[list[api_pb2.MountFile]] = []
        self.images: list[api_pb2.Image] = []
        self.functions: dict[str, api_pb2.Function] = {}
        self.logs: list[Path] = []
        self.queue: dict[str, list[Call]] = {}
        self.lock = threading.RLock()
        self.running = 0
        self.recorded: InterceptionContext | None = None
        self.port = self.files_port = 0

    # ---- For tests ----

    @property
    def environment(self) -> dict[str, str]:
        """For the client."""
        return {
            "MODAL_SERVER_URL": f"http://127.0.0.1:{self.port}",
            "MODAL_TOKEN_ID": "ak-fake",
            "MODAL_TOKEN_SECRET": "as-fake",
            "MODAL_CONFIG_PATH": str(self.folder / "no-such-file.toml"),
            "MODAL_LOGS_TIMEOUT": "0.2",
        }

    def requests(self, name: str) -> list:
        """What the client sent to this method, in order."""
        return self.recorded.get_requests(name)

    def names(self) -> list[str]:
        """Every method that was called, in order."""
        return [name for name, _ in self.recorded.calls]

    def volume(self, name: str) -> Volume:
        """A Volume; made at its first mention."""
        with self.lock:
            if name not in self.volumes:
                place = self.folder / "volumes" / name
                self.volumes[name] = Volume(place / "live", place / "committed")
                for path in (self.volumes[name].live, self.volumes[name].committed):
                    path.mkdir(parents=True)
            return self.volumes[name]

    def function(self, name: str) -> api_pb2.Function:
        """What the last FunctionCreate of this name asked for; of a list of GPUs, the first's."""
        return [function for function in self.functions.values() if function.function_name == name][-1]

    def wait(self) -> None:
        """Until every spawned call is over."""
        for call in list(self.calls):
            call.over.wait()

    def inputs(self) -> list[dict]:
        """The keywords of each call."""
        return [deserialize_data_format(call.input.args, call.input.data_format, None)[1] for call in self.calls]

    def log(self, number: int = -1) -> str:
        """What a container printed."""
        return self.logs[number].read_text()

    # ---- Containers ----

    def commit(self, volume_id: str) -> None:
        """What is there now will survive, half-written files too; what vanishes meanwhile does not."""
        volume = self.volume(volume_id.removeprefix("vo-"))
        with self.lock:
            new = volume.committed.with_name("new")
            _copy(volume.live, new)
            shutil.rmtree(volume.committed)
            new.rename(volume.committed)
            files = (path for path in volume.committed.rglob("*") if path.is_file())
            volume.commits.append(sorted(str(path.relative_to(volume.committed)) for path in files))

    def spawn(self, function_id: str, given: api_pb2.FunctionInput) -> Call:
        """Runs a call to its end in a thread: attempts, retries, preemptions."""
        call = Call(f"fc-{len(self.calls)}", function_id, given)
        self.calls.append(call)
        threading.Thread(target=self._attempts, args=(call,), daemon=True).start()
        return call

    def _attempts(self, call: Call) -> None:
        function, failures, losses = self.functions[call.function_id], 0, 0
        while True:
            call.output = None
            if self.answer is not None:
                self._answer(call)
            else:
                self._start(function, call)
            status = call.output.result.status if call.output is not None else None
            if status == api_pb2.GenericResult.GENERIC_STATUS_SUCCESS:
                call.attempts.append("success")
                break
            call.attempts.append("preempted" if status is None else "failure")
            losses, failures = losses + (status is None), failures + (status is not None)
            if losses > INTERNAL_FAILURES or failures > function.retry_policy.retries:
                break
        if call.output is None:
            call.output = api_pb2.FunctionPutOutputsItem(result=_INTERNAL)
        call.over.set()

    def _answer(self, call: Call) -> None:
        _, keywords = deserialize_data_format(call.input.args, call.input.data_format, None)
        try:
            data = serialize(self.answer(**keywords))
            result = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS, data=data)
        except Exception as error:  # a body may raise anything
            failure = api_pb2.GenericResult.GENERIC_STATUS_FAILURE
            result = api_pb2.GenericResult(status=failure, exception=repr(error), data=serialize(error))
        call.output = api_pb2.FunctionPutOutputsItem(result=result, data_format=api_pb2.DATA_FORMAT_PICKLE)

    def _start(self, function: api_pb2.Function, call: Call) -> None:
        """One attempt in a container of its own; afterwards what was not committed is lost."""
        with self.lock:
            self.queue.setdefault(call.function_id, []).append(call)
            fault = self.faults.pop(0) if self.faults else None
            number = len(self.logs)
            self.logs.append(self.folder / f"ta-{number}.log")
            self.running += 1
        self._container(function, call, number, fault)
        with self.lock:
            self.running -= 1
            if not self.running:
                for volume in self.volumes.values():
                    shutil.rmtree(volume.live)
                    _copy(volume.committed, volume.live)

    def _container(self, function: api_pb2.Function, call: Call, number: int, fault: Fault | None) -> None:
        place = self.folder / f"ta-{number}"
        root = self._mounted(function, place)
        layout = api_pb2.AppLayout(function_ids={function.function_name: call.function_id})
        layout.objects.append(
            api_pb2.Object(object_id=call.function_id, function_handle_metadata=handle(function, call.function_id))
        )
        arguments = api_pb2.ContainerArguments(
            task_id=f"ta-{number}",
            function_id=call.function_id,
            app_id="ap-fake",
            function_def=function,
            app_layout=layout,
            environment_name="main",
        )
        (place / "arguments.pb").write_bytes(arguments.SerializeToString())
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MODAL_")},
            **self._image_environment(function, root),
            "MODAL_SERVER_URL": f"http://127.0.0.1:{self.port}",
            "MODAL_IS_REMOTE": "1",
            "MODAL_TASK_ID": f"ta-{number}",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(place / "arguments.pb"),
        }
        announcement = place / "holds"
        if fault is not None:
            environment |= fault.environment(announcement)
        with open(self.logs[number], "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "modal._container_entrypoint"],
                cwd=root,
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
            result = fault.come(process, announcement) if fault is not None else None
            process.wait()
        if result is not None:
            call.output = api_pb2.FunctionPutOutputsItem(result=result)

    def _mounted(self, function: api_pb2.Function, place: Path) -> Path:
        """`/root` with the files of the function's mounts and `modal_hold`; files mounted elsewhere are left out."""
        root = place / "root"
        root.mkdir(parents=True)
        shutil.copy2(Path(__file__).with_name("modal_hold.py"), root)
        for mount_id in function.mount_ids:
            for file in self.mounts[int(mount_id.removeprefix("mo-"))]:
                if file.filename.startswith("/root/"):
                    target = root / file.filename.removeprefix("/root/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(self.blobs[file.sha256_hex])
        return root

    def _image_environment(self, function: api_pb2.Function, root: Path) -> dict[str, str]:
        """The image's ENV lines, with the mount points where they are on this machine."""
        places = {
            mount.mount_path: self.volume(mount.volume_id.removeprefix("vo-")).live for mount in function.volume_mounts
        }
        places["/root"] = root
        found = {}
        for line in self.image_lines(function):
            if line.startswith("ENV "):
                name, _, value = shlex.split(line)[1].partition("=")
                head = next((place for place in places if value == place or value.startswith(f"{place}/")), None)
                found[name] = value if head is None else f"{places[head]}{value.removeprefix(head)}"
        return found

    def image_lines(self, function: api_pb2.Function) -> list[str]:
        """Dockerfile lines of an image and all that it is based on, the first layer first."""
        lines: list[str] = []
        image_id = function.image_id
        while image_id:
            image = self.images[int(image_id.removeprefix("im-"))]
            lines = [*image.dockerfile_commands, *lines]
            image_id = image.base_images[0].image_id if image.base_images else ""
        return lines


def _copy(source: Path, target: Path) -> None:
    """A tree that others may be writing to."""
    target.mkdir()
    for folder, folders, files in os.walk(source):
        place = target / Path(folder).relative_to(source)
        for name in [*folders, *files]:
            with suppress(FileNotFoundError):
                path = Path(folder, name)
                if path.is_symlink():
                    os.symlink(os.readlink(path), place / name)
                elif path.is_dir():
                    (place / name).mkdir()
                else:
                    shutil.copy2(path, place / name)


@contextmanager
def fake_modal(folder: Path) -> Iterator[FakeModal]:
    """A control plane that answers until the block ends; `folder` holds its Volumes, containers and their logs."""
    cloud = FakeModal(folder)
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        servicer = Servicer(cloud)
        with servicer.intercept() as cloud.recorded:
            server = Server([servicer])
            await server.start("127.0.0.1", 0)
            cloud.port = server._server.sockets[0].getsockname()[1]
            started.set()
            await stop.wait()
            server.close()

    files = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    cloud.files_port = files.server_port
    threads = [
        threading.Thread(target=files.serve_forever, daemon=True),
        threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True),
    ]
    for thread in threads:
        thread.start()
    started.wait()
    try:
        yield cloud
    finally:
        cloud.wait()
        loop.call_soon_threadsafe(stop.set)
        threads[1].join()
        files.shutdown()
