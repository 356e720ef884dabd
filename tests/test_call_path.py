"""How far one audio message travels through the server's files: few, and in one direction.

The trace follows the event loop's thread of a real server: every function of ``streamer`` that is
entered or left, periodic work (supervisor, watchdog) and generated code aside.
"""

import asyncio
import itertools
import sys
from pathlib import Path

import grpc
import pytest

import streamer
from streamer.audio.codec import Encoding, decode
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.server import Server
from streamer.settings import ServerSettings

PACKAGE = Path(streamer.__file__).parent
ASIDE = ("client", "rpc", "process")
PERIODIC = {
    ("call/supervisor.py", "run"),
    ("inference/watchdog.py", "run"),
    ("server.py", "_reload_on_request"),
}
CHUNK, CHUNKS = 800, 120
"""100 ms at 8 kHz; 12 s."""
MAX_FILES, MAX_PACKAGES = 25, 8
MAX_FILE_CHANGES, MAX_PACKAGE_CHANGES = 28, 16


class Trace:
    """Files of ``streamer`` in the order in which they have control."""

    def __init__(self):
        self.visits = []  # (file, function entered or None)
        self._stack = []
        self._periodic = 0

    def __call__(self, frame, event, _argument):
        path = Path(frame.f_code.co_filename)
        if event not in {"call", "return"} or PACKAGE not in path.parents:
            return
        file = str(path.relative_to(PACKAGE))
        if file.startswith(ASIDE):
            return
        entered = event == "call"
        if self._periodic or (file, frame.f_code.co_name) in PERIODIC:
            self._periodic += 1 if entered else -1
        elif entered:
            self._stack.append(file)
            self.visits.append((file, frame.f_code.co_name))
        elif self._stack:
            self._stack.pop()
            if self._stack:
                self.visits.append((self._stack[-1], None))


def changes(names):
    return sum(a != b for a, b in itertools.pairwise(names))


def package(file):
    return file.partition("/")[0]


@pytest.fixture(scope="module")
def traced(demo_call):
    """Visits of a call of 12 s, and the visits of each of its messages."""
    speech = decode(demo_call.data, Encoding.MULAW)[0::2]

    async def main():
        server = Server(ServerSettings(listen="127.0.0.1:0", provider="cpu"))
        await server.start()
        trace, starts = Trace(), []
        async with grpc.aio.insecure_channel(server.address) as channel:
            call = pb_grpc.ClassifierServiceStub(channel).StreamClassify()
            sys.setprofile(trace)
            await call.write(
                pb.StreamClassifyRequest(
                    config=pb.StreamConfig(encoding=pb.AUDIO_ENCODING_LINEAR16, sample_rate=8000)
                )
            )
            await call.read()
            for number in range(CHUNKS):
                starts.append(len(trace.visits))
                data = speech[number * CHUNK : (number + 1) * CHUNK].astype("<i2").tobytes()
                audio = pb.Audio(sequence=number + 1, data=data)
                await call.write(pb.StreamClassifyRequest(audio=audio))
                await asyncio.sleep(0.05)  # its block is processed before the next message
            starts.append(len(trace.visits))
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass
            sys.setprofile(None)
        await server.stop()
        messages = [trace.visits[a:b] for a, b in itertools.pairwise(starts)]
        return trace.visits, messages

    return asyncio.run(main())


def test_a_call_enters_few_files(traced):
    files = {file for file, _ in traced[0]}
    assert len(files) <= MAX_FILES, sorted(files)
    assert len({package(file) for file in files}) <= MAX_PACKAGES, sorted(files)


def test_a_message_that_fills_a_block_changes_files_seldom(traced):
    """From its arrival until its block is processed, without the update it may make due."""
    paths = []
    for visits in traced[1]:
        entered = [function for _, function in visits]
        if "submit" in entered and "_on_result" in entered and "_response" not in entered:
            files = [file for file, _ in visits]
            files = files[files.index("transport/stream.py") :]  # the stream delivers it
            paths.append((changes(files), files))
    assert paths, "no message filled a block"
    least, files = min(paths)
    assert least <= MAX_FILE_CHANGES, files
    assert changes([package(file) for file in files]) <= MAX_PACKAGE_CHANGES, files
