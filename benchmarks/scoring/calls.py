"""From planned calls to audio, and through the server to predictions."""

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

from scoring.plans import Plan
from streamer.audio.codec import SAMPLE_RATE, Encoding, encode
from streamer.client import Call, Client, Prediction
from streamer.client.audio_file import TelephoneCall, read_as_call
from train.corpora.audio import read_audio
from train.telephone import TrunkBand

Band = Literal["full", "telephone"]

TASKS = ("gender", "age_group", "age_band")
CHUNK_SECONDS = 0.1
"""Audio per message; also the least update interval of the protocol."""
PAUSE_SECONDS = 0.6
"""Silence between two utterances of one speaker's call."""
LONGEST_CALL_SECONDS = 60.0
TRUNK = TrunkBand(300.0, 3400.0)
PATIENCE_SECONDS = 120.0
"""A server that answers nothing for so long has lost the call; one that is full is asked again."""
GRACE_SECONDS = 1.0
"""A running prediction that does not come for so long was left out by a server that is behind."""
RETRY_SECONDS = 2.0

_CHUNK = round(CHUNK_SECONDS * SAMPLE_RATE)
_PAUSE = encode(np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE), np.int16), Encoding.MULAW)


@dataclass(frozen=True)
class Heard:
    """What the server held likeliest at one moment of a call.

    Attributes:
        speech_seconds: that it rests on, above 0.
        best: likeliest class by task.
    """

    speech_seconds: float
    best: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """How a call went.

    Attributes:
        plan: the call.
        seconds: of audio sent.
        running: one entry per new posterior, oldest first, the final one included; empty if no
            speech was heard.
        final: the final prediction, or None if the call failed.
        model: the server's model id.
        updates_due: running predictions that the server owed; updates: those that came.
        reason: why it failed, empty if it did not.
    """

    plan: Plan
    seconds: float = 0.0
    running: tuple[Heard, ...] = ()
    final: Prediction | None = None
    model: str = ""
    updates_due: int = 0
    updates: int = 0
    reason: str = ""


def read_sound(path: Path, band: Band) -> bytes:
    """First channel of a sound file as 8 kHz mu-law.

    Args:
        path: soundfile-readable.
        band: "full" as the codec gives it, "telephone" cut to 300-3400 Hz before coding.

    Raises:
        ValueError: it cannot be read; the message gives the file's name, not its folder.
    """
    try:
        if band == "full":
            call = read_as_call(path)
            return call.data[:: call.channels]
        samples = TRUNK(read_audio(str(path), SAMPLE_RATE), np.random.default_rng(0))
        return encode(samples, Encoding.MULAW)
    except (ValueError, OSError, soundfile.SoundFileError) as error:
        # Results are published, folders of the machine they were made on are not.
        reason = str(error).replace(str(path), path.name)
        raise ValueError(reason if path.name in reason else f"{path.name}: {reason}") from error


def join(parts: Iterable[bytes]) -> bytes:
    """Utterances (mu-law) with pauses between, cut at the longest call; parts behind are unread."""
    data = bytearray()
    most = round(LONGEST_CALL_SECONDS * SAMPLE_RATE)
    for part in parts:
        if data:
            data += _PAUSE
        data += part
        if len(data) >= most:
            break
    return bytes(data[:most])


def build(plan: Plan, band: Band) -> TelephoneCall:
    """Audio of a call; raises ValueError naming a file that cannot be read."""
    sounds = (read_sound(path, band) for path in plan.paths)
    data = next(sounds) if len(plan.paths) == 1 else join(sounds)
    return TelephoneCall(data, channels=1)


class _Record:
    """Collects the predictions of one call."""

    def __init__(self) -> None:
        self.running: list[Heard] = []
        self.updates = 0
        self.final: Prediction | None = None

    def add(self, prediction: Prediction) -> None:
        """Next prediction of channel 0."""
        if prediction.final:
            self.final = prediction
        else:
            self.updates += 1
        before = self.running[-1].speech_seconds if self.running else 0.0
        # The same amount of speech is the same posterior: nothing was heard in between.
        if prediction.speech_time > before:
            best = {task: likeliest(prediction, task) for task in TASKS}
            self.running.append(Heard(prediction.speech_time, best))


def likeliest(prediction: Prediction, task: str) -> str:
    """Class of greatest calibrated probability, decided or not."""
    posterior: dict[str, float] = getattr(prediction, task).posterior
    return max(posterior, key=posterior.__getitem__)


class _Listener:
    """Hears a call in a task of its own, so that giving up a wait does not end the call."""

    def __init__(self, call: Call, record: _Record) -> None:
        self._acknowledged = -1
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._hear(call, record))
        self._task.add_done_callback(lambda _: self._news.set())

    async def _hear(self, call: Call, record: _Record) -> None:
        async for event in call:
            if isinstance(event, Prediction):
                record.add(event)
                self._acknowledged = event.sequence
                self._news.set()

    async def prediction_of(self, sequence: int) -> None:
        """Wait for the prediction of a message, or for as long as it may take.

        Raises:
            ConnectionError: the server ended the call.
            grpc.aio.AioRpcError: with an error.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                while self._acknowledged < sequence:
                    if self._task.done():
                        self._task.result()
                        raise ConnectionError("the server ended the call early")
                    self._news.clear()
                    await self._news.wait()

    async def end(self) -> None:
        """Hear the rest; raises TimeoutError or what the server ended the call with."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._task

    async def stop(self) -> None:
        """Stop hearing, whatever the reason; nothing is raised."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _send_paced(call: Call, audio: TelephoneCall, record: _Record) -> int:
    """Send a call in lock-step and hear its end; returns the number of updates that were due.

    The server drops an update that a newer one overtakes, so a gateway that sends faster than
    people talk sees few of them. Waiting for each message's own prediction before the next is
    sent gives exactly those that a live call gets; other calls fill the time. A server that is
    behind predicts less often: what does not come in time is not waited for, or nothing would ever
    be sent again, and counts as lost.
    """
    due = 0
    listener = _Listener(call, record)
    try:
        for chunk in audio.chunks(CHUNK_SECONDS):
            sequence = await call.send(chunk)
            if len(chunk) < _CHUNK:
                continue  # the last one: too short to make an update due
            due += 1
            await listener.prediction_of(sequence)
        await call.end_of_audio()
        await listener.end()
    finally:
        await listener.stop()
    return due


async def make_call(client: Client, plan: Plan, band: Band) -> Outcome:
    """Make one call; whatever happens to it is in the outcome, nothing is raised."""
    try:
        audio = await asyncio.to_thread(build, plan, band)
    except ValueError as error:
        return Outcome(plan, reason=str(error))
    began = time.monotonic()
    while True:
        record = _Record()
        try:
            async with client.call(update_seconds=CHUNK_SECONDS) as call:
                due = await _send_paced(call, audio, record)
                model = call.started.model.model_id
            break
        except grpc.aio.AioRpcError as error:
            full = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            if not full or time.monotonic() - began > PATIENCE_SECONDS:
                return Outcome(plan, reason=f"{error.code().name}: {error.details()}")
        except TimeoutError:
            return Outcome(plan, reason=f"no answer within {PATIENCE_SECONDS:g} s")
        except (ConnectionError, ValueError, asyncio.InvalidStateError) as error:
            return Outcome(plan, reason=str(error) or type(error).__name__)
        await asyncio.sleep(RETRY_SECONDS)
    if record.final is None:
        return Outcome(plan, reason="the call ended without a final prediction")
    return Outcome(
        plan, audio.seconds, tuple(record.running), record.final, model, due, record.updates
    )


async def make_calls(
    client: Client,
    todo: Sequence[Plan],
    *,
    band: Band,
    concurrency: int,
    done: Callable[[Outcome], None],
) -> list[Outcome]:
    """Make all calls, ``concurrency`` at a time; outcomes in the order of ``todo``.

    Args:
        client: connection that the calls share.
        todo: calls to make.
        band: see :func:`read_sound`.
        concurrency: calls at a time.
        done: told of each outcome as it comes, for a progress bar.
    """
    outcomes: dict[int, Outcome] = {}
    waiting = iter(enumerate(todo))

    async def work() -> None:
        for number, plan in waiting:
            outcomes[number] = await make_call(client, plan, band)
            done(outcomes[number])

    async with asyncio.TaskGroup() as workers:
        for _ in range(concurrency):
            workers.create_task(work())
    return [outcomes[number] for number in range(len(todo))]
