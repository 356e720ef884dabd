"""gRPC ignores options that it does not know: none of ours may be misspelt, or without effect."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc

from streamer import server
from streamer.client import api


@pytest.fixture(scope="module")
def core():
    """gRPC's core, in which every option's name is a C string."""
    return Path(cygrpc.__file__).read_bytes()


@pytest.mark.parametrize("name", [name for name, _ in (*server.OPTIONS, *api.OPTIONS)])
def test_grpc_knows_the_option(core, name):
    assert f"{name}\0".encode() in core


def test_the_server_allows_the_clients_pings():
    """Otherwise a call that is silent for long ends with GOAWAY, "too_many_pings"."""
    allowed = dict(server.OPTIONS)["grpc.http2.min_ping_interval_without_data_ms"]
    assert dict(api.OPTIONS)["grpc.keepalive_time_ms"] > allowed


GATEWAY = """
import grpc, sys, time
def messages():
    yield b"hello"
    time.sleep(600)
channel = grpc.insecure_channel(sys.argv[1])
call = channel.stream_stream("/a.B/C")(messages())
next(call)
print("open", flush=True)
time.sleep(600)
"""


class Echo(grpc.GenericRpcHandler):
    """One stream: answers the first message, then waits for another."""

    def __init__(self):
        self.over = asyncio.get_running_loop().create_future()

    def service(self, _details):
        async def serve(_messages, context):
            await context.write(await context.read())
            try:
                await context.read()
            finally:
                self.over.set_result(None)

        return grpc.stream_stream_rpc_method_handler(serve)


def test_keepalive_ends_streams_of_a_dead_host(run_async):
    """Times are a twentieth of the server's: pinged after 3 s, closed 1 s later."""

    def hastened(name, value):
        times = name.endswith(("keepalive_time_ms", "timeout_ms"))
        return name, value // 20 if times else value

    async def scenario():
        echo = Echo()
        serving = grpc.aio.server(options=[hastened(*option) for option in server.OPTIONS])
        serving.add_generic_rpc_handlers((echo,))
        target = f"127.0.0.1:{serving.add_insecure_port('127.0.0.1:0')}"
        await serving.start()
        command = [sys.executable, "-c", GATEWAY, target]
        gateway = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        try:
            assert await gateway.stdout.readline() == b"open\n"
            gateway.send_signal(signal.SIGSTOP)  # its connection stays, and nobody answers
            await asyncio.wait_for(echo.over, 20)
        finally:
            gateway.kill()
            await gateway.wait()
            await serving.stop(0)

    run_async(scenario())
