"""One classified channel of a call: its gate, its stream and the block being filled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from streamer.audio.codec import SAMPLE_RATE, Samples
from streamer.audio.speech_gate import FRAME, SpeechGate
from streamer.errors import CallError
from streamer.inference.batch import Posteriors
from streamer.inference.engine import Engine
from streamer.inference.metadata import TASKS, Memory
from streamer.inference.queues import InferenceStream
from streamer.session.state import ChannelState

FRAME_SAMPLES = 160
"""Shortest tail that holds a whole encoder frame (20 ms); less is not worth a step."""

POSTERIOR_TOLERANCE = 1e-3
"""By which the sum of a student's float32 probabilities may differ from 1."""


class Update(NamedTuple):
    """What is known of one channel; times in seconds, see ``Prediction`` in the protocol.

    ``received`` is when the message arrived that made it due, on the clock of who feeds the
    session; of no meaning in a final one.
    """

    channel: int
    sequence: int
    audio_seconds: float
    speech_seconds: float
    lost_seconds: float
    posteriors: Posteriors | None
    final: bool
    received: float = 0.0


class PendingUpdate(NamedTuple):
    """What is known of an update before the student has heard all that it is to rest on."""

    sequence: int
    audio_seconds: float
    lost_seconds: float
    final: bool
    received: float


class Owner(Protocol):
    """What a channel tells its call."""

    def event(self, channel: int, started: bool, seconds: float) -> None:
        """The gate opened or closed."""

    def emit(self, update: Update) -> None:
        """An update is complete."""

    def on_progress(self) -> None:
        """A step is done."""

    def on_error(self, error: CallError) -> None:
        """A step failed."""


class _Nobody:
    """Owns channels that are closed."""

    def event(self, channel: int, started: bool, seconds: float) -> None:
        """See :class:`Owner`."""

    def emit(self, update: Update) -> None:
        """See :class:`Owner`."""

    def on_progress(self) -> None:
        """See :class:`Owner`."""

    def on_error(self, error: CallError) -> None:
        """See :class:`Owner`."""


_NOBODY = _Nobody()


class Channel:
    """One classified channel: its gate, its stream and the block being filled."""

    def __init__(self, index: int, owner: Owner, engine: Engine) -> None:
        self.index = index
        self._owner: Owner = owner
        self._engine = engine
        self.gate = SpeechGate()
        self.held = False
        self._begin()

    def _begin(self) -> None:
        block = self._engine.model.metadata.block
        self._size = block  # samples
        self._block = bytearray()  # being filled, int16: bytes are joined faster than arrays
        self.submitted = 0  # blocks
        self.completed = 0
        self.speech = 0  # samples that the posteriors rest on
        self._tail = 0  # heard samples of a short last block
        self.posteriors: Posteriors | None = None
        self.due: tuple[int, PendingUpdate] | None = None
        self._next_due: tuple[int, PendingUpdate] | None = None
        self._waiting: tuple[int, float] | None = None
        self.stream: InferenceStream = self._engine.new_stream(self._stepped)

    def samples_until_next_block(self) -> tuple[bool, int]:
        """Whether speech may begin with any sample, and how many are nothing to be visited for.

        Where somebody speaks that is after how many samples at 8 kHz a block is full at the
        earliest. Elsewhere it is a block's: speech brings what was before it.
        """
        if self.held:
            return False, self._size
        if not self.gate.speaking:
            return True, self._size
        frames = -(-(self._size - len(self._block) // 2) // FRAME)
        return False, frames * FRAME - self.gate.waiting

    def hear(self, samples: Samples) -> None:
        """8 kHz samples as they arrive."""
        if self.held:
            self.gate.skip(len(samples))
        else:
            self._heard(*self.gate.push(samples))

    def flush(self) -> None:
        """End running speech."""
        self._heard(*self.gate.flush())

    def close(self) -> None:
        """Leave the engine; nothing more is told to the owner."""
        self._engine.close_stream(self.stream)
        self.stream.on_step = _unheard
        self._owner = _NOBODY

    def finish(self) -> None:
        """Hear what is left, down to the last whole frame."""
        self.flush()
        filled = len(self._block) // 2
        if filled >= FRAME_SAMPLES:
            self._tail = filled // FRAME_SAMPLES * FRAME_SAMPLES
            self._submit(filled)
        self._block.clear()

    def discard(self) -> None:
        """Another person speaks from now on."""
        self._engine.close_stream(self.stream)
        _, events = self.gate.flush()
        self._heard(b"", events)
        position = self.gate.position
        self.gate = SpeechGate()
        self.gate.skip(position)
        self._begin()

    def snapshot(self, tell: Callable[[ChannelState], None]) -> None:
        """Tell all that it remembers of what it has heard up to now.

        That is known when the student has heard it too. Never told if the channel is discarded,
        closed or fails before.
        """
        gate, held = self.gate.snapshot(), self.held
        block = np.frombuffer(bytes(self._block), np.int16)

        def answer(memory: Memory) -> None:
            # The results of the blocks before are handed out, and none of those behind.
            tell(ChannelState(gate, held, block, self.speech, self.posteriors, memory))

        self._engine.snapshot(self.stream, answer)

    def restore(self, state: ChannelState) -> None:
        """Go on, before anything is heard, as the channel of ``state`` would.

        Raises:
            ValueError: no channel of this student can have been in that state.
        """
        metadata = self._engine.model.metadata
        if len(state.block) >= metadata.block or state.speech < 0:
            raise ValueError(f"{len(state.block)} samples wait, {state.speech} are heard")
        if [len(part) for part in state.memory] != [len(part) for part in self.stream.memory]:
            raise ValueError("a memory of another size")
        if not np.isfinite(state.memory.state).all():
            raise ValueError("a state that is not finite")
        if state.posteriors is not None:
            classes = [len(metadata.labels.of(task)) for task in TASKS]
            if [len(posterior) for posterior in state.posteriors] != classes:
                raise ValueError("posteriors of other classes")
            if not all(_are_probabilities(posterior) for posterior in state.posteriors):
                raise ValueError("posteriors that are no probabilities")
        self.gate.restore(state.gate)
        self.held = state.held
        self._block[:] = state.block.tobytes()
        self.speech, self.posteriors = state.speech, state.posteriors
        self.stream.set_memory(state.memory)  # nothing is queued: the engine does not look at it

    def _heard(self, speech: bytes, events: Sequence[tuple[bool, int]]) -> None:
        for started, position in events:
            self._owner.event(self.index, started, position / SAMPLE_RATE)
        self._block += speech
        while len(self._block) >= 2 * self._size:
            self._submit(self._size)

    def _submit(self, samples: int) -> None:
        self.submitted += 1
        self._engine.submit(self.stream, np.frombuffer(bytes(self._block[: 2 * samples]), np.int16))
        del self._block[: 2 * samples]

    def request(self, asked: PendingUpdate) -> None:
        """Send an update as soon as all blocks submitted so far are done.

        While one waits, of those behind it only the newest is kept: under load updates come less
        often, never late, and audio that comes faster than the student hears it starves none.
        """
        if self.due is None:
            self.due = (self.submitted, asked)
        else:
            self._next_due = (self.submitted, asked)
        self._emit_if_covered()

    def _stepped(self, result: Posteriors | CallError) -> None:
        if isinstance(result, CallError):
            self._owner.on_error(result)
            return
        self.completed += 1
        last = self.completed == self.submitted
        self.speech += self._tail if self._tail and last else self._size
        self.posteriors = result
        self._emit_if_covered()
        self._owner.on_progress()

    def lag(self, now: float) -> float:
        """Seconds that a block has waited for the student at least; look once a second.

        Blocks bear no times: the newest at one look is watched until it is done. So a lag that
        lasts is seen within twice its length.
        """
        if self._waiting is None or self.completed >= self._waiting[0]:
            waits = self.submitted > self.completed
            self._waiting = (self.submitted, now) if waits else None
        return now - self._waiting[1] if self._waiting else 0.0

    def _emit_if_covered(self) -> None:
        while self.due is not None and self.completed >= self.due[0]:
            asked = self.due[1]
            self.due, self._next_due = self._next_due, None
            self._owner.emit(
                Update(
                    channel=self.index,
                    sequence=asked.sequence,
                    audio_seconds=asked.audio_seconds,
                    speech_seconds=self.speech / SAMPLE_RATE,
                    lost_seconds=asked.lost_seconds,
                    posteriors=self.posteriors,
                    final=asked.final,
                    received=asked.received,
                )
            )


def _unheard(_result: Posteriors | CallError) -> None:
    """What the student says of a closed channel."""


def _are_probabilities(posterior: Sequence[float]) -> bool:
    """What decisions are made of: none negative, the sum 1 but for rounding."""
    return bool(min(posterior) >= 0 and abs(sum(posterior) - 1) < POSTERIOR_TOLERANCE)
