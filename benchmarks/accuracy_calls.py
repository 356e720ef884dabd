"""From labelled sound files to calls, and from calls through the server to predictions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc
import numpy as np
import soundfile
from accuracy_manifest import Labelled

from streamer.client import Call, Client, Prediction
from streamer.client.telephone_file import TelephoneCall, read_as_call
from streamer.codec import SAMPLE_RATE, Encoding, encode
from train.channel import TrunkBand
from train.corpora.audio import read_audio

Band = Literal["full", "telephone"]

TASKS = ("gender", "age_group", "age_band")
CHUNK_SECONDS = 0.1
"""Audio per message; also the least update interval of the protocol."""
PAUSE_SECONDS = 0.6
"""Silence between two utterances of one speaker's call."""
LONGEST_CALL_SECONDS = 60.0
TRUNK = TrunkBand(300.0, 3400.0)
PATIENCE_SECONDS = 120.0
"""A server that answers nothing for so long has lost the call."""

_CHUNK = round(CHUNK_SECONDS * SAMPLE_RATE)
_PAUSE = encode(np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE), np.int16), Encoding.MULAW)


@dataclass(frozen=True)
class Plan:
    """One call to make.

    Attributes:
        id: of the utterance, or corpus/speaker of a joined call.
        corpus: where it comes from.
        gender: label, empty where unknown.
        age_band: label, empty where unknown.
        paths: sound files, in the order they are heard.
    """

    id: str
    corpus: str
    gender: str
    age_band: str
    paths: tuple[Path, ...]


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


def plans(
    utterances: Sequence[Labelled], *, per_speaker: bool = False, limit: int | None = None
) -> list[Plan]:
    """Calls of a split, in the order of the manifest.

    Args:
        utterances: of one split.
        per_speaker: one call per corpus and speaker; an utterance without a speaker stays alone.
        limit: at most so many calls, spread evenly, because manifests are sorted by corpus.

    Raises:
        ValueError: utterances of one speaker contradict each other; the message names the field.
    """
    groups: dict[tuple[str, ...], list[Labelled]] = {}
    for number, utterance in enumerate(utterances):
        joined = per_speaker and utterance.speaker
        key = (utterance.corpus, utterance.speaker) if joined else ("", "", str(number))
        groups.setdefault(key, []).append(utterance)
    result = [
        Plan(
            id=f"{group[0].corpus}/{group[0].speaker}" if len(key) == 2 else group[0].id,
            corpus=group[0].corpus,
            gender=_agreed("gender", group),
            age_band=_agreed("age_band", group),
            paths=tuple(utterance.path for utterance in group),
        )
        for key, group in groups.items()
    ]
    if limit is None or limit >= len(result):
        return result
    return [result[i * len(result) // limit] for i in range(limit)]


def _agreed(field: str, group: Sequence[Labelled]) -> str:
    """The one label that the utterances give, empty if none does."""
    labels = sorted({str(getattr(utterance, field)) for utterance in group} - {""})
    if len(labels) > 1:
        who = f"{group[0].corpus}/{group[0].speaker}"
        raise ValueError(f"{field}: speaker {who} is labelled {' and '.join(labels)}")
    return labels[0] if labels else ""


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


async def _send_paced(call: Call, audio: TelephoneCall, record: _Record) -> int:
    """Send a call in lock-step and hear its end; returns the number of updates that were due.

    The server drops an update that a newer one overtakes, so a gateway that sends faster than
    people talk sees few of them. Waiting for each message's own prediction before the next is
    sent gives exactly those that a live call gets; other calls fill the time.
    """
    due = 0
    events = aiter(call)
    for chunk in audio.chunks(CHUNK_SECONDS):
        sequence = await call.send(chunk)
        if len(chunk) < _CHUNK:
            continue  # the last one: too short to make an update due
        due += 1
        acknowledged = -1
        while acknowledged < sequence:
            async with asyncio.timeout(PATIENCE_SECONDS):
                event = await anext(events, None)
            if event is None:
                raise ConnectionError("the server ended the call early")
            if isinstance(event, Prediction):
                record.add(event)
                acknowledged = event.sequence
    await call.end_of_audio()
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for event in events:
            if isinstance(event, Prediction):
                record.add(event)
    return due


async def make_call(client: Client, plan: Plan, band: Band) -> Outcome:
    """Make one call; whatever happens to it is in the outcome, nothing is raised."""
    try:
        audio = await asyncio.to_thread(build, plan, band)
    except ValueError as error:
        return Outcome(plan, reason=str(error))
    record = _Record()
    try:
        async with client.call(update_seconds=CHUNK_SECONDS) as call:
            due = await _send_paced(call, audio, record)
            model = call.started.model.model_id
    except grpc.aio.AioRpcError as error:
        return Outcome(plan, reason=f"{error.code().name}: {error.details()}")
    except TimeoutError:
        return Outcome(plan, reason=f"no answer within {PATIENCE_SECONDS:g} s")
    except (ConnectionError, ValueError, asyncio.InvalidStateError) as error:
        return Outcome(plan, reason=str(error) or type(error).__name__)
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
