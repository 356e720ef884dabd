"""One classified channel of a call: speech gate, block buffer and inference stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from streamer.audio.codec import SAMPLE_RATE, Samples
from streamer.audio.speech_gate import FRAME, SpeechEvent, SpeechGate
from streamer.errors import CallError
from streamer.inference.batch import Posteriors
from streamer.inference.engine import Engine
from streamer.inference.metadata import TASKS, Memory
from streamer.inference.queues import InferenceStream
from streamer.session.events import Listener, Update
from streamer.session.state import ChannelState

FRAME_SAMPLES = 160
"""Shortest tail that holds a whole encoder frame (20 ms); a shorter one is not worth a step."""

POSTERIOR_TOLERANCE = 1e-3
"""By which the sum of a model's float32 probabilities may differ from 1."""


class PendingUpdate(NamedTuple):
    """An update that waits for inference; attributes as in :class:`Update`.

    Attributes:
        blocks: that must be processed first.
    """

    blocks: int
    sequence: int
    audio_seconds: float
    lost_seconds: float
    final: bool
    received: float


class Backlog:
    """Blocks of a call that wait for inference, over all its channels."""

    __slots__ = ("blocks",)

    def __init__(self) -> None:
        self.blocks = 0


class Channel:
    """Samples of one channel in, updates and speech events out.

    Args:
        index: in the call.
        engine: runs the model.
        listener: receives what follows.
        backlog: of the call.
        speech_events: notify the listener of speech too.

    Attributes:
        gate: the speech gate.
        held: the channel is on hold.
        detecting_onset: any sample may start speech.
        samples_until_next_block: that can arrive, at 8 kHz, before a block can be full. Outside
            speech these are a whole block's: an onset adds what was before it.
        submitted: blocks submitted to the engine.
        completed: blocks processed.
        speech: samples that the posteriors rest on.
        posteriors: of the last block; None before the first.
        finished: the final update is sent.
    """

    def __init__(
        self,
        index: int,
        engine: Engine,
        listener: Listener,
        backlog: Backlog,
        *,
        speech_events: bool = False,
    ) -> None:
        self._index = index
        self._engine = engine
        self._listener = listener
        self._backlog = backlog
        self._speech_events = speech_events
        self._block_samples = engine.model.metadata.block
        self.gate = SpeechGate()
        self.held = False
        self.finished = False
        self._reset()

    def _reset(self) -> None:
        self._block = bytearray()  # being filled, int16: bytes are joined faster than arrays
        self.submitted = 0
        self.completed = 0
        self.speech = 0
        self._tail = 0  # samples of a short last block that count as speech
        self.posteriors: Posteriors | None = None
        self.due: PendingUpdate | None = None
        self._next_due: PendingUpdate | None = None
        self._watched: tuple[int, float] | None = None  # a block and since when it is watched
        self._stream: InferenceStream = self._engine.new_stream(self._on_result)
        self._look_ahead()

    def _look_ahead(self) -> None:
        speaking = self.gate.speaking and not self.held
        self.detecting_onset = not (speaking or self.held)
        self.samples_until_next_block = self._block_samples
        if speaking:
            frames = -(-(self._block_samples - len(self._block) // 2) // FRAME)
            self.samples_until_next_block = frames * FRAME - self.gate.waiting

    def process(self, samples: Samples) -> None:
        """Process int16 samples at 8 kHz in the order of their arrival."""
        if self.held:
            self.gate.skip(len(samples))
        else:
            self._process_speech(*self.gate.push(samples))

    def hold(self, *, held: bool) -> None:
        """Stop or continue processing; a hold ends running speech."""
        if held and not self.held:
            self._process_speech(*self.gate.flush())
        self.held = held
        self._look_ahead()

    def close(self) -> None:
        """Leave the engine; the listener is notified of nothing more.

        The channel lets go of what refers to it, so that a call's memory is free when the call
        ends, not at the next run of the garbage collector.
        """
        if self._stream.on_step is _ignore_result:  # closed already
            return
        self._engine.close_stream(self._stream)
        self._stream.on_step = _ignore_result
        del self._listener

    def finish(self) -> None:
        """Submit what is left, down to the last whole encoder frame."""
        self._process_speech(*self.gate.flush())
        filled = len(self._block) // 2
        if filled >= FRAME_SAMPLES:
            self._tail = filled // FRAME_SAMPLES * FRAME_SAMPLES
            self._submit(filled)
        self._block.clear()

    def discard(self) -> None:
        """Start again with nothing known: another person speaks from now on."""
        self._engine.close_stream(self._stream)
        _, events = self.gate.flush()
        self._process_speech(b"", events)
        self._backlog.blocks -= self.submitted - self.completed
        position = self.gate.position
        self.gate = SpeechGate()
        self.gate.skip(position)
        self._reset()

    def snapshot(self, callback: Callable[[ChannelState], None]) -> None:
        """Call back with the state after all samples processed so far.

        That is when inference has reached them; never if the channel is discarded, closed or fails
        before.
        """
        gate, held = self.gate.snapshot(), self.held
        block = np.frombuffer(bytes(self._block), np.int16)

        def complete(memory: Memory) -> None:
            # The results of the blocks before are dispatched, and none of those behind.
            callback(ChannelState(gate, held, block, self.speech, self.posteriors, memory))

        self._engine.snapshot(self._stream, complete)

    def restore(self, state: ChannelState) -> None:
        """Continue from ``state``; only before anything is processed.

        Raises:
            ValueError: no channel of this model can have been in that state.
        """
        metadata = self._engine.model.metadata
        if len(state.block) >= metadata.block or state.speech < 0:
            raise ValueError(f"{len(state.block)} samples wait, speech of {state.speech} samples")
        if [len(part) for part in state.memory] != [len(part) for part in self._stream.memory]:
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
        self._stream.set_memory(state.memory)  # nothing is queued: the engine does not read it
        self._look_ahead()

    def request(self, pending: PendingUpdate) -> None:
        """Send an update when ``pending.blocks`` blocks are processed.

        While one waits, only the newest of those behind it is kept: under load updates become
        fewer, never late, and audio that arrives faster than inference starves none of them.
        """
        if self.due is None:
            self.due = pending
        else:
            self._next_due = pending
        self._send_due()

    def lag(self, now: float) -> float:
        """Seconds that a block has waited for inference at least; to be called once a second.

        Blocks carry no times: the newest at one call is watched until it is processed. A lag that
        lasts is seen within twice its length.
        """
        if self._watched is None or self.completed >= self._watched[0]:
            waits = self.submitted > self.completed
            self._watched = (self.submitted, now) if waits else None
        return now - self._watched[1] if self._watched else 0.0

    def _process_speech(self, speech: bytes, events: Sequence[SpeechEvent]) -> None:
        if self._speech_events:
            for started, position in events:
                self._listener.on_speech(self._index, started, position / SAMPLE_RATE)
        self._block += speech
        while len(self._block) >= 2 * self._block_samples:
            self._submit(self._block_samples)
        self._look_ahead()

    def _submit(self, samples: int) -> None:
        self.submitted += 1
        self._backlog.blocks += 1
        block = np.frombuffer(bytes(self._block[: 2 * samples]), np.int16)
        self._engine.submit(self._stream, block)
        del self._block[: 2 * samples]

    def _on_result(self, result: Posteriors | CallError) -> None:
        if isinstance(result, CallError):
            self._listener.on_error(result)
            return
        self.completed += 1
        self._backlog.blocks -= 1
        last = self.completed == self.submitted
        self.speech += self._tail if self._tail and last else self._block_samples
        self.posteriors = result
        self._send_due()
        self._listener.on_progress()

    def _send_due(self) -> None:
        while self.due is not None and self.completed >= self.due.blocks:
            due = self.due
            self.due, self._next_due = self._next_due, None
            self.finished = due.final
            self._listener.on_prediction(
                Update(
                    channel=self._index,
                    sequence=due.sequence,
                    audio_seconds=due.audio_seconds,
                    speech_seconds=self.speech / SAMPLE_RATE,
                    lost_seconds=due.lost_seconds,
                    posteriors=self.posteriors,
                    final=due.final,
                    received=due.received,
                )
            )


def _ignore_result(_result: Posteriors | CallError) -> None:
    """Result of a closed channel."""


def _are_probabilities(posterior: Sequence[float]) -> bool:
    """Whether none is negative and the sum is 1 but for rounding."""
    return bool(min(posterior) >= 0 and abs(sum(posterior) - 1) < POSTERIOR_TOLERANCE)
