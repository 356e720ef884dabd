"""Turn planned calls into audio, stream them through the server, collect the predictions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc
import numpy as np
import soundfile
from scoring.manifest import CallPlan

from streamer.audio.codec import SAMPLE_RATE, Encoding, encode
from streamer.client import Call, Client, Prediction
from streamer.client.audio_file import TelephoneCall, read_as_call
from train.corpora.audio import read_audio
from train.telephone import TrunkBand

Band = Literal["full", "telephone"]

TASKS = ("gender", "age_group", "age_band")
CHUNK_SECONDS = 0.1
"""Audio per message; also the shortest update interval of the protocol."""
PAUSE_SECONDS = 0.6
"""Silence between two utterances of one speaker's call."""
MAX_CALL_SECONDS = 60.0
TRUNK = TrunkBand(300.0, 3400.0)
CALL_TIMEOUT_SECONDS = 120.0
"""Limit for the end of a call, and for retrying a server that refuses calls because it is full."""
PREDICTION_TIMEOUT_SECONDS = 1.0
"""An overloaded server leaves out running predictions: one that is this late counts as lost."""
RETRY_SECONDS = 2.0

_CHUNK_BYTES = round(CHUNK_SECONDS * SAMPLE_RATE)
_PAUSE = encode(np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE), np.int16), Encoding.MULAW)


@dataclass(frozen=True)
class RunningPrediction:
    """The likeliest class by task, and the speech that it rests on, above 0."""

    speech_seconds: float
    best: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """Result of a call.

    Attributes:
        seconds: audio that was sent.
        running: one entry per new posterior, oldest first, the final one included; empty if the
            server found no speech.
        final: the final prediction, or None if the call failed, with ``reason``.
        updates_due: running predictions that the protocol promises; ``updates``: received.
    """

    plan: CallPlan
    seconds: float = 0.0
    running: tuple[RunningPrediction, ...] = ()
    final: Prediction | None = None
    model: str = ""
    updates_due: int = 0
    updates: int = 0
    reason: str = ""


def read_sound(path: Path, band: Band) -> bytes:
    """Read the first channel of a sound file as 8 kHz mu-law, cut to 300-3400 Hz for "telephone".

    Raises ValueError if it cannot be read; the message gives the file's name, not its folder.
    """
    try:
        if band == "full":
            call = read_as_call(path)
            return call.data[:: call.channels]
        samples = TRUNK(read_audio(str(path), SAMPLE_RATE), np.random.default_rng(0))
        return encode(samples, Encoding.MULAW)
    except (ValueError, OSError, soundfile.SoundFileError) as error:
        # Results are published; folders of the machine that made them are not.
        reason = str(error).replace(str(path), path.name)
        raise ValueError(reason if path.name in reason else f"{path.name}: {reason}") from error


def join(parts: Iterable[bytes]) -> bytes:
    """Join mu-law utterances with pauses, up to the longest call; later parts stay unread."""
    data = bytearray()
    longest = round(MAX_CALL_SECONDS * SAMPLE_RATE)
    for part in parts:
        if data:
            data += _PAUSE
        data += part
        if len(data) >= longest:
            break
    return bytes(data[:longest])


def build_audio(plan: CallPlan, band: Band) -> TelephoneCall:
    """Build the audio of a call; raises ValueError naming a file that cannot be read."""
    sounds = (read_sound(path, band) for path in plan.paths)
    data = next(sounds) if len(plan.paths) == 1 else join(sounds)
    return TelephoneCall(data, channels=1)


def likeliest(prediction: Prediction, task: str) -> str:
    """Return the class of greatest calibrated probability, decided or not."""
    posterior: dict[str, float] = getattr(prediction, task).posterior
    return max(posterior, key=posterior.__getitem__)


class _Receiver:
    """Receives a call in its own task, so that a wait that times out does not end the call."""

    def __init__(self, call: Call) -> None:
        self.running: list[RunningPrediction] = []
        self.updates = 0
        self.final: Prediction | None = None
        self._sequence = -1
        self._received = asyncio.Event()
        self._task = asyncio.create_task(self._receive(call))
        self._task.add_done_callback(lambda _: self._received.set())

    async def _receive(self, call: Call) -> None:
        async for event in call:
            if isinstance(event, Prediction):
                self._record(event)
                self._sequence = event.sequence
                self._received.set()

    def _record(self, prediction: Prediction) -> None:
        if prediction.final:
            self.final = prediction
        else:
            self.updates += 1
        before = self.running[-1].speech_seconds if self.running else 0.0
        # The same amount of speech is the same posterior.
        if prediction.speech_time > before:
            best = {task: likeliest(prediction, task) for task in TASKS}
            self.running.append(RunningPrediction(prediction.speech_time, best))

    async def wait_for(self, sequence: int) -> None:
        """Wait for the prediction of a message; raises the error that ended the call."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PREDICTION_TIMEOUT_SECONDS):
                while self._sequence < sequence:
                    if self._task.done():
                        self._task.result()
                        raise ConnectionError("the server ended the call early")
                    self._received.clear()
                    await self._received.wait()

    async def finish(self) -> None:
        """Receive the rest; raises TimeoutError or the error that ended the call."""
        async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
            await self._task

    async def stop(self) -> None:
        """Stop receiving; raises nothing."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _stream(call: Call, audio: TelephoneCall) -> tuple[_Receiver, int]:
    """Stream a call in lock-step; returns what was received and the number of updates due.

    The server replaces an update by a newer one, so a client that sends faster than real time
    receives few of them. Waiting for the prediction of each message before sending the next gives
    exactly those of a live call. An overloaded server predicts less often: a prediction that is
    late counts as lost, otherwise the call would stop there.
    """
    due = 0
    receiver = _Receiver(call)
    try:
        for chunk in audio.chunks(CHUNK_SECONDS):
            sequence = await call.send(chunk)
            if len(chunk) < _CHUNK_BYTES:
                continue  # the last one: too short to make an update due
            due += 1
            await receiver.wait_for(sequence)
        await call.end_of_audio()
        await receiver.finish()
    finally:
        await receiver.stop()
    return receiver, due


async def make_call(client: Client, plan: CallPlan, band: Band) -> Outcome:
    """Make one call; an error becomes the reason of the outcome, nothing is raised."""
    try:
        audio = await asyncio.to_thread(build_audio, plan, band)
    except ValueError as error:
        return Outcome(plan, reason=str(error))
    began = time.monotonic()
    while True:
        try:
            async with client.call(update_seconds=CHUNK_SECONDS) as call:
                received, due = await _stream(call, audio)
                model = call.started.model.model_id
            break
        except grpc.aio.AioRpcError as error:
            full = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            if not full or time.monotonic() - began > CALL_TIMEOUT_SECONDS:
                return Outcome(plan, reason=f"{error.code().name}: {error.details()}")
        except TimeoutError:
            return Outcome(plan, reason=f"no answer within {CALL_TIMEOUT_SECONDS:g} s")
        except (ConnectionError, ValueError, asyncio.InvalidStateError) as error:
            return Outcome(plan, reason=str(error) or type(error).__name__)
        await asyncio.sleep(RETRY_SECONDS)
    if received.final is None:
        return Outcome(plan, reason="the call ended without a final prediction")
    running = tuple(received.running)
    return Outcome(plan, audio.seconds, running, received.final, model, due, received.updates)


async def make_calls(
    client: Client,
    plans: Sequence[CallPlan],
    *,
    band: Band,
    concurrency: int,
    on_outcome: Callable[[Outcome], None],
) -> list[Outcome]:
    """Make all calls, ``concurrency`` at a time; outcomes in the order of ``plans``."""
    outcomes: dict[int, Outcome] = {}
    waiting = iter(enumerate(plans))

    async def work() -> None:
        for number, plan in waiting:
            outcomes[number] = await make_call(client, plan, band)
            on_outcome(outcomes[number])

    async with asyncio.TaskGroup() as workers:
        for _ in range(concurrency):
            workers.create_task(work())
    return [outcomes[number] for number in range(len(plans))]
