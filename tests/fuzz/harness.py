"""The service without sockets: a call made of an input, beside a witness that must not notice."""

from __future__ import annotations

import asyncio
import atexit
import base64
import functools
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from gateway import Context, Ending, Step, check_responses

from streamer.audio.codec import SAMPLE_RATE
from streamer.checkpoint.resumption import Resumption
from streamer.checkpoint.serialization import Checkpoints
from streamer.client.audio_file import read_as_call
from streamer.demo.__main__ import CALL
from streamer.inference.engine import Engine
from streamer.inference.registry import ModelRegistry, ServedModel
from streamer.observability.metrics import Metrics
from streamer.rpc import voicecohort_pb2 as pb
from streamer.security.encryption import KEY_BYTES, Keys, Sealer
from streamer.service import ClassifierService
from streamer.settings import ServerSettings

MAX_AGE = 1e9
"""Seconds that a checkpoint is good for: age is not what is fuzzed here."""
LIMIT_SECONDS = 30.0
"""Of an input; what takes longer hangs."""
REFUSED = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "PERMISSION_DENIED"}
ALLOWED = {"OK", "CANCELLED", "RESOURCE_EXHAUSTED", *REFUSED}
"""How a call may end that a fuzzer made, unless the audio itself makes the fake student fail."""
CHUNK = SAMPLE_RATE // 10
SPEECH_AT, SPEECH_CHUNKS = 5 * SAMPLE_RATE, 14


def _fake_student():
    """The streamer's tests have a student whose answers give every mistake away."""
    path = Path(__file__).parents[1] / "streamer" / "conftest.py"
    spec = importlib.util.spec_from_file_location("doubles_of_the_streamer", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    student = module.FakeModel()
    student.freed.set()  # nothing sticks: limits of time are not what is fuzzed
    return student


def _keys() -> Keys:
    """A key of this process."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    secret = base64.b64encode(os.urandom(KEY_BYTES)).decode()
    (folder / "keys.toml").write_text(f'[[key]]\nid = "fuzz"\nsecret = "{secret}"\n')
    return Keys(folder / "keys.toml")


@functools.cache
def speech() -> tuple[bytes, ...]:
    """1.4 s of a speaking caller, mu-law, in chunks of 100 ms."""
    caller = read_as_call(CALL).data[0::2]
    chunks = [caller[at : at + CHUNK] for at in range(SPEECH_AT, len(caller), CHUNK)]
    return tuple(chunks[:SPEECH_CHUNKS])


@functools.cache
def witness_requests() -> tuple[pb.StreamClassifyRequest, ...]:
    """A good call."""
    config = pb.StreamConfig(
        encoding=pb.AUDIO_ENCODING_MULAW, sample_rate=SAMPLE_RATE, call_id="witness"
    )
    audio = [pb.Audio(sequence=number, data=data) for number, data in enumerate(speech(), start=1)]
    requests = [pb.StreamClassifyRequest(audio=message) for message in audio]
    return (pb.StreamClassifyRequest(config=config), *requests)


class CallHarness:
    """Engine, fake student and service of one process.

    Args:
        run: runs a coroutine to its end on the loop of this harness.
    """

    def __init__(self, run: Callable[[Awaitable[object]], object] | None = None) -> None:
        self._run = run or asyncio.new_event_loop().run_until_complete
        self.student = _fake_student()
        self._run(self._build())
        self._course: dict[int, bytes] = {}
        self._final = b""
        self._calm = True
        calm = self._run(self._witnessed([], self.call))
        assert calm.status == "FAILED_PRECONDITION"
        self._calm = False

    async def _build(self) -> None:
        loop = asyncio.get_running_loop()
        self.engine = Engine(self.student, loop.call_soon_threadsafe, max_batch_delay_seconds=0.0)
        self.metrics = self._metrics()
        self.sealer = Sealer(_keys(), MAX_AGE)
        self._resumption = Resumption(
            Checkpoints(self.sealer), MAX_AGE, self.metrics, time.monotonic
        )
        self.service = ClassifierService(
            ModelRegistry(ServedModel.of(self.engine)),
            ServerSettings(max_calls=10),
            metrics=self.metrics,
            resumption=self._resumption,
        )

    def forget_ended(self) -> None:
        """Let calls be resumed that had their final predictions: one checkpoint serves many."""
        self._resumption.calls._ended.clear()

    def _metrics(self) -> Metrics:
        return Metrics()

    def close(self) -> None:
        """End the engine."""
        self._run(self._close())

    async def _close(self) -> None:
        self.engine.stop()

    def try_call(self, script: Sequence[Step], *, may_fail: bool = False) -> Ending:
        """Run a script as a call beside the witness.

        Args:
            script: what its gateway does.
            may_fail: the student may fail on this call, whatever its audio is.

        Raises:
            AssertionError: something else than a status of this call came of it.
        """
        self.student.batches.clear()
        ending = self._run(self._witnessed(script, self.call))
        made_to_fail = {self.student.RAISES, self.student.NAN, self.student.INF}
        failed = may_fail or any(made_to_fail & {*batch} for batch in self.student.batches)
        assert ending.status in ALLOWED | ({"INTERNAL"} if failed else set()), ending
        assert bool(ending.details) == (ending.status not in {"OK", "CANCELLED"})
        check_responses(ending)
        assert ending.status != "INTERNAL" or "the student failed" in ending.details, ending
        assert self.engine.alive, "the engine's thread died"
        assert self.engine.health.healthy or failed
        self.engine.health.mark_healthy()  # what its next probe would find
        return ending

    def beside_the_witness(self, script, attempt):
        """What comes of an attempt that is no call of its own."""
        return self._run(self._witnessed(script, attempt))

    async def call(self, script: Sequence[Step], before=None) -> Ending:
        """One stream to its end."""
        context = Context(script, before)
        task = asyncio.create_task(self.service.StreamClassify(None, context))
        context.cancel = task.cancel
        await asyncio.wait({task})
        context.cancel = lambda: None  # or the two would keep each other
        if task.cancelled():
            context.ending.status = "CANCELLED"
        else:
            task.result()
            context.ending.status = context.ending.status or "OK"
        return context.ending

    async def _witnessed(self, script: Sequence[Step], attempt) -> Ending:
        """An attempt between the second and the last third of a witness's call."""
        over = asyncio.Event()
        third = SPEECH_CHUNKS // 3

        async def turn(number: int) -> None:
            if self._calm or number > 2 * third:
                await over.wait()
            while self._calm and any(
                c.session.backlog.blocks for c in self.service.supervisor.calls
            ):
                await asyncio.sleep(0.001)

        before = asyncio.all_tasks()
        witness = asyncio.create_task(self.witness(turn))
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                ending = await attempt(script)
            over.set()
            async with asyncio.timeout(LIMIT_SECONDS):
                seen = await witness
                await self.nothing_left(before)
        except BaseException:
            left = asyncio.all_tasks() - before
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            raise
        self._compare(seen)
        return ending

    def witness(self, before) -> Awaitable[Ending]:
        """The good call."""
        return self.call(witness_requests(), before)

    async def nothing_left(self, before: set[asyncio.Task]) -> None:
        """No stream is open and nobody works for one any more but who did ``before``."""
        assert self.service.supervisor.open_streams == 0, "a stream is left open"
        left = asyncio.all_tasks() - before
        assert not left, f"tasks are left: {left}"

    def _compare(self, seen: Ending) -> None:
        """The witness got what it gets alone: its final prediction to the last bit."""
        assert (seen.status, seen.details) == ("OK", ""), seen
        check_responses(seen)
        (final,) = seen.finals
        for response in seen.responses:
            prediction = response.prediction
            if response.HasField("prediction"):
                nanos = prediction.speech_time.ToNanoseconds()
                posteriors = b"".join(
                    task.SerializeToString()
                    for task in (prediction.gender, prediction.age_group, prediction.age_band)
                )
                if self._calm:
                    self._course[nanos] = posteriors
                # Which predictions are sent depends on time, what they say does not.
                assert self._course.get(nanos, posteriors) == posteriors
        if self._calm:
            assert final.speech_time.ToNanoseconds() > 1e9, "the witness speaks"
            self._final = final.SerializeToString(deterministic=True)
        assert final.SerializeToString(deterministic=True) == self._final


@functools.cache
def shared_harness() -> CallHarness:
    """The one of this process."""
    return CallHarness()
