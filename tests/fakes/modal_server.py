"""The answers of `fakes.modal`: what modal 1.6.4 asks of its control plane, and blocks of files on a Volume."""

from __future__ import annotations

import asyncio
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal._utils.grpc_testing import patch_mock_servicer
from modal_proto import api_grpc, api_pb2

BLOCK = 8 * 2**20
_SUCCESS = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)


def handle(function: api_pb2.Function, function_id: str) -> api_pb2.FunctionHandleMetadata:
    """What the client and a container know a function by."""
    return api_pb2.FunctionHandleMetadata(
        function_name=function.function_name,
        function_type=function.function_type,
        definition_id=f"de-{function_id}",
        supported_input_formats=function.supported_input_formats or [api_pb2.DATA_FORMAT_PICKLE],
        supported_output_formats=function.supported_output_formats or [api_pb2.DATA_FORMAT_PICKLE],
        app_id="ap-fake",
    )


@patch_mock_servicer
class Servicer(api_grpc.ModalClientBase):
    """Answers; methods that are not here are UNIMPLEMENTED."""

    def __init__(self, cloud):
        self.cloud = cloud
        self.disconnected = asyncio.Event()

    async def ClientHello(self, stream):
        await stream.recv_message()
        await stream.send_message(api_pb2.ClientHelloResponse())

    async def EnvironmentGetOrCreate(self, stream):
        await stream.recv_message()
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06", webhook_suffix="")
        metadata = api_pb2.EnvironmentMetadata(name="main", settings=settings)
        await stream.send_message(api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-fake", metadata=metadata))

    async def AppCreate(self, stream):
        await stream.recv_message()
        self.disconnected.clear()
        await stream.send_message(api_pb2.AppCreateResponse(app_id="ap-fake", app_page_url="http://127.0.0.1/ap-fake"))

    async def AppHeartbeat(self, stream):
        await stream.recv_message()
        await stream.send_message(Empty())

    async def AppGetLogs(self, stream):
        await stream.recv_message()
        await self.disconnected.wait()
        await stream.send_message(api_pb2.TaskLogsBatch(app_done=True))

    async def AppPublish(self, stream):
        await stream.recv_message()
        await stream.send_message(api_pb2.AppPublishResponse(url=""))

    async def AppClientDisconnect(self, stream):
        await stream.recv_message()
        self.disconnected.set()
        await stream.send_message(Empty())

    # ---- What a function needs ----

    async def SecretGetOrCreate(self, stream):
        request = await stream.recv_message()
        if request.env_dict:  # modal secret create
            self.cloud.secrets[request.deployment_name] = set(request.env_dict)
        keys = self.cloud.secrets.get(request.deployment_name)
        if keys is None:
            raise GRPCError(Status.NOT_FOUND, f"Secret '{request.deployment_name}' not found in environment 'main'")
        missing = [key for key in request.required_keys if key not in keys]
        if missing:
            raise GRPCError(Status.FAILED_PRECONDITION, f"Secret is missing key(s): {', '.join(missing)}")
        await stream.send_message(api_pb2.SecretGetOrCreateResponse(secret_id=f"st-{request.deployment_name}"))

    async def VolumeGetOrCreate(self, stream):
        request = await stream.recv_message()
        self.cloud.volume(request.deployment_name)
        metadata = api_pb2.VolumeMetadata(version=api_pb2.VOLUME_FS_VERSION_V1, name=request.deployment_name)
        await stream.send_message(
            api_pb2.VolumeGetOrCreateResponse(volume_id=f"vo-{request.deployment_name}", metadata=metadata)
        )

    async def MountGetOrCreate(self, stream):
        request = await stream.recv_message()
        self.cloud.mounts.append(list(request.files))
        await stream.send_message(api_pb2.MountGetOrCreateResponse(mount_id=f"mo-{len(self.cloud.mounts) - 1}"))

    async def MountBatchedCheckExistence(self, stream):
        request = await stream.recv_message()
        missing = [digest for digest in request.sha256_hex_hashes if digest not in self.cloud.blobs]
        await stream.send_message(api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing))

    async def MountPutFile(self, stream):
        request = await stream.recv_message()
        if request.WhichOneof("data_oneof"):
            self.cloud.blobs[request.sha256_hex] = request.data
        exists = request.sha256_hex in self.cloud.blobs
        await stream.send_message(api_pb2.MountPutFileResponse(exists=exists))

    async def ImageGetOrCreate(self, stream):
        request = await stream.recv_message()
        self.cloud.images.append(request.image)
        metadata = api_pb2.ImageMetadata(image_builder_version="2025.06")
        await stream.send_message(
            api_pb2.ImageGetOrCreateResponse(
                image_id=f"im-{len(self.cloud.images) - 1}", result=_SUCCESS, metadata=metadata
            )
        )

    async def FunctionPrecreate(self, stream):
        request = await stream.recv_message()
        function_id = request.existing_function_id or f"fu-{len(self.cloud.functions)}"
        function = api_pb2.Function(
            function_name=request.function_name,
            function_type=request.function_type,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )
        self.cloud.functions[function_id] = function
        await stream.send_message(
            api_pb2.FunctionPrecreateResponse(function_id=function_id, handle_metadata=handle(function, function_id))
        )

    async def FunctionCreate(self, stream):
        request = await stream.recv_message()
        ranked = request.function_data.ranked_functions
        function = ranked[0].function if ranked else request.function
        function_id = request.existing_function_id or f"fu-{len(self.cloud.functions)}"
        self.cloud.functions[function_id] = function
        data = api_pb2.FunctionData()
        data.CopyFrom(request.function_data)
        if not ranked:
            data.ranked_functions.append(api_pb2.FunctionData.RankedFunction(rank=0, function=function))
        await stream.send_message(
            api_pb2.FunctionCreateResponse(
                function_id=function_id, function_data=data, handle_metadata=handle(function, function_id)
            )
        )

    # ---- Calls, from the client ----

    async def FunctionMap(self, stream):
        request = await stream.recv_message()
        if request.function_call_invocation_type != api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC:
            raise GRPCError(Status.UNIMPLEMENTED, "only spawned calls")
        (item,) = request.pipelined_inputs
        number = len(self.cloud.calls)
        call = self.cloud.spawn(request.function_id, item.input)
        await stream.send_message(
            api_pb2.FunctionMapResponse(
                function_call_id=call.id,
                pipelined_inputs=[api_pb2.FunctionPutInputsResponseItem(input_id=f"in-{number}", input_jwt="jwt")],
                retry_policy=self.cloud.functions[request.function_id].retry_policy,
                function_call_jwt="jwt",
            )
        )

    async def FunctionGetOutputs(self, stream):
        request = await stream.recv_message()
        call = next(call for call in self.cloud.calls if call.id == request.function_call_id)
        await asyncio.get_running_loop().run_in_executor(None, call.over.wait, request.timeout)
        response = api_pb2.FunctionGetOutputsResponse(num_unfinished_inputs=int(not call.over.is_set()))
        if call.over.is_set():
            item = api_pb2.FunctionGetOutputsItem(result=call.output.result, data_format=call.output.data_format)
            response.outputs.append(item)
        await stream.send_message(response)

    # ---- Calls, from the container ----

    async def ContainerHello(self, stream):
        await stream.recv_message()
        await stream.send_message(Empty())

    async def ContainerHeartbeat(self, stream):
        await stream.recv_message()
        await stream.send_message(api_pb2.ContainerHeartbeatResponse())

    async def FunctionGetInputs(self, stream):
        request = await stream.recv_message()
        with self.cloud.lock:
            call = self.cloud.queue[request.function_id].pop(0)
        item = api_pb2.FunctionGetInputsItem(
            input_id=call.id.replace("fc", "in"),
            input=call.input,
            function_call_id=call.id,
            retry_count=len(call.attempts),
            function_call_invocation_type=api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
        )
        await stream.send_message(api_pb2.FunctionGetInputsResponse(inputs=[item]))

    async def FunctionPutOutputs(self, stream):
        request = await stream.recv_message()
        for output in request.outputs:
            call = next(call for call in self.cloud.calls if call.id == output.input_id.replace("in", "fc"))
            call.output = output
        await stream.send_message(Empty())

    async def TaskResult(self, stream):
        await stream.recv_message()
        await stream.send_message(Empty())

    # ---- Volumes ----

    async def VolumeCommit(self, stream):
        request = await stream.recv_message()
        await asyncio.get_running_loop().run_in_executor(None, self.cloud.commit, request.volume_id)
        await stream.send_message(api_pb2.VolumeCommitResponse(skip_reload=True))

    async def VolumeListFiles(self, stream):
        request = await stream.recv_message()
        root = self.cloud.volume(request.volume_id.removeprefix("vo-")).committed
        place = root / request.path.strip("/")
        if not place.exists():
            raise GRPCError(Status.NOT_FOUND, f"{request.path}: no such file or directory")
        paths = sorted(place.rglob("*") if request.recursive else place.iterdir())
        entries = [
            api_pb2.FileEntry(
                path=str(path.relative_to(root)),
                type=api_pb2.FileEntry.DIRECTORY if path.is_dir() else api_pb2.FileEntry.FILE,
                size=path.stat().st_size,
            )
            for path in paths
        ]
        await stream.send_message(api_pb2.VolumeListFilesResponse(entries=entries))

    async def VolumeGetFile2(self, stream):
        request = await stream.recv_message()
        name = request.volume_id.removeprefix("vo-")
        path = self.cloud.volume(name).committed / request.path.strip("/")
        if not path.is_file():
            raise GRPCError(Status.NOT_FOUND, f"{request.path}: no such file")
        size = path.stat().st_size
        base = f"http://127.0.0.1:{self.cloud.files_port}{quote(str(path))}"
        urls = [f"{base}?{start}" for start in range(0, size, BLOCK)]
        await stream.send_message(api_pb2.VolumeGetFile2Response(get_urls=urls, size=size, start=0, len=size))


class Files(BaseHTTPRequestHandler):
    """Blocks of files, as a Volume's storage serves them."""

    def do_GET(self):
        parts = urlsplit(self.path)
        start = int(parts.query)
        body = Path(unquote(parts.path)).read_bytes()[start : start + BLOCK]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """Quiet."""
