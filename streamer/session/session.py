"""One call: what its messages do to its channels. No gRPC, no batching, no I/O.

Everything a call remembers is in the lanes' state vectors, the gates, the order of its messages and
the counters here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamer.audio.codec import SAMPLE_RATE, Decoder, Encoding
from streamer.audio.ingest import AudioBuffer, Timeline
from streamer.errors import CallError, FailedPrecondition, InvalidArgument
from streamer.inference.engine import Engine
from streamer.session.channel import Channel, PendingUpdate, Update
from streamer.session.events import NOBODY, Listener
from streamer.session.state import CallState, PendingSnapshot


@dataclass(frozen=True)
class CallConfig:
    """A validated call.

    Attributes:
        call_id: for the log.
        encoding: of the audio bytes.
        sample_rate: Hz, 8000 or 16000.
        ignored: per channel, True if it is not classified.
        update_seconds: least audio between two updates of a channel.
        min_speech_seconds: the caller's own minimum before a decision.
        speech_events: report start and end of speech.
        max_chunk_seconds: longest audio message.
        checkpoint_seconds: audio between two checkpoints; None makes none.
    """

    call_id: str
    encoding: Encoding
    sample_rate: int
    ignored: tuple[bool, ...] = (False,)
    update_seconds: float = 0.5
    min_speech_seconds: float = 0.0
    speech_events: bool = False
    max_chunk_seconds: float = 10.0
    checkpoint_seconds: float | None = None


class CallSession:
    """Feed it a call's messages in order; it tells ``listener`` what comes of them.

    Every method raises a :class:`CallError` for input that is not acceptable; the session must
    then be closed. All calls, and the engine's deliveries, must come from one thread.
    """

    def __init__(
        self,
        config: CallConfig,
        engine: Engine,
        listener: Listener,
        interval_factor: Callable[[], int] = lambda: 1,
    ) -> None:
        self.config = config
        self._interval_factor = interval_factor
        self._listener = listener
        self._decoder = Decoder(config.encoding, config.sample_rate, len(config.ignored))
        self._channels = {
            index: Channel(index, self, engine)
            for index, ignored in enumerate(config.ignored)
            if not ignored
        }
        self._engine = engine
        self._order = Timeline(config.sample_rate)
        self._intake = AudioBuffer(self._decoder, config.max_chunk_seconds)
        self._look()
        self._update_step = round(config.update_seconds * config.sample_rate)
        self._next_update = self._update_step
        self._asked: PendingSnapshot | None = None
        self.finishing = False
        self.finals = 0
        self.done = False

    @property
    def backlog(self) -> int:
        """Blocks that wait for the engine, over all channels."""
        blocks = 0
        for channel in self._channels.values():  # a loop: asked before each message
            blocks += channel.submitted - channel.completed
        return blocks

    def lag(self, now: float) -> float:
        """Seconds that the oldest block has waited for the engine, see :meth:`Channel.lag`."""
        return max(channel.lag(now) for channel in self._channels.values())

    @property
    def begun(self) -> bool:
        """Whether audio has come."""
        return self._order.sequence is not None

    @property
    def duplicates(self) -> int:
        """Messages that came twice."""
        return self._order.duplicates

    @property
    def audio_seconds(self) -> float:
        """Length of the call so far, lost audio included."""
        return self._order.heard / self.config.sample_rate

    @property
    def classified_seconds(self) -> float:
        """Audio of the classified channels, each counted by itself."""
        return self.audio_seconds * len(self._channels)

    @property
    def lost_seconds(self) -> float:
        """Audio that never arrived."""
        return self._order.lost / self.config.sample_rate

    @property
    def speech_seconds(self) -> float:
        """Speech behind the current posteriors, over all channels."""
        return sum(c.speech for c in self._channels.values()) / SAMPLE_RATE

    def snapshot(self, tell: Callable[[CallState], None]) -> None:
        """Tell all that the call remembers of what has come up to now, see :class:`CallState`.

        Told when the student has heard it all; never if the call is finished or closed before, or
        another snapshot is asked for. A discard on the way makes it one of after the discard.
        """
        if self.finishing:
            return
        self._ask_no_more()
        self._hear()
        own = CallState(
            sequence=self._order.sequence,
            heard=self._order.heard,
            lost=self._order.lost,
            duplicates=self._order.duplicates,
            next_update=self._next_update,
            filters=self._decoder.snapshot(),
            channels={},
        )
        self._asked = PendingSnapshot(own, len(self._channels), tell)
        for index, channel in self._channels.items():
            channel.snapshot(functools.partial(self._asked.answer, index))

    @property
    def snapshot_pending(self) -> bool:
        """Whether one was asked for and is not told yet."""
        return self._asked is not None and self._asked.waits

    def _ask_no_more(self) -> None:
        if self._asked is not None:
            self._asked.waits = False

    def restore(self, state: CallState) -> None:
        """Go on, before anything is heard, as the call of ``state`` would.

        Audio up to its sequence is dropped until other audio has come.

        Raises:
            ValueError: no call of this config and student can have been in that state.
        """
        if set(state.channels) != set(self._channels):
            raise ValueError(f"channels {sorted(state.channels)}")
        if state.next_update < 0:
            raise ValueError(f"next update at sample {state.next_update}")
        self._order.restore(state.sequence, state.heard, state.lost, state.duplicates)
        self._decoder.restore(state.filters)
        for index, channel in self._channels.items():
            channel.restore(state.channels[index])
        self._next_update = state.next_update
        self._look()

    def audio(
        self,
        sequence: int,
        data: bytes,
        start_sample: int | None = None,
        received: float = 0.0,
    ) -> float:
        """One audio message, see ``Audio`` in the protocol; its seconds, 0 for a duplicate.

        ``received`` is its time on the caller's clock: that of the updates that it makes due.
        """
        self._must_run("audio")
        samples = self._intake.samples(data)
        lost = self._order.accept(sequence, samples, start_sample)
        if lost is None:
            return 0.0
        if lost:
            self._skip(lost)
        waiting = self._intake.put(data)
        update_due = self._order.heard >= self._next_update
        if waiting >= self._room or (update_due and self._listening):
            self._hear()
        if update_due:
            step = self._update_step * self._interval_factor()
            passed = (self._order.heard - self._next_update) // step + 1
            self._next_update += passed * step
            self._request_updates(final=False, received=received)
        return samples / self.config.sample_rate

    def _hear(self) -> None:
        """Let the channels hear what has come."""
        for index, samples in enumerate(self._intake.take()):
            if index in self._channels:
                self._channels[index].hear(samples)
        self._look()

    def _look(self) -> None:
        """How long the channels need not be visited: nobody misses anything meanwhile.

        Until a block can be full the posteriors stay what they are, so that an update tells the
        same whether its audio was heard or not. Speech events are due at once.
        """
        room, self._listening = 1 if self.config.speech_events else SAMPLE_RATE, False
        for channel in self._channels.values():
            listening, samples = channel.samples_until_next_block()
            room = min(room, samples)
            self._listening = self._listening or listening
        # One sample less, as half a sample can wait in a filter.
        self._room = self._intake.bytes_of(room - 1)

    def _skip(self, samples: int) -> None:
        """Lost audio is skipped, not concealed: an invented sound says nothing of the speaker."""
        for channel in self._channels.values():
            channel.gate.skip(samples * SAMPLE_RATE // self.config.sample_rate)

    def _selected(self, channels: Sequence[int]) -> list[Channel]:
        count = len(self.config.ignored)
        for index in channels:
            if index >= count:
                raise InvalidArgument("control.channels", index, f"the call has {count} channels")
        return [c for i, c in self._channels.items() if not channels or i in channels]

    def discard(self, channels: Sequence[int]) -> None:
        """Forget everything heard on the channels (all if none are named)."""
        self._must_run("control.discard")
        self._hear()
        for channel in self._selected(channels):
            channel.discard()
        self._look()
        if self._asked is not None and self._asked.waits:
            self.snapshot(self._asked.tell)  # the old lanes will not answer

    def hold(self, channels: Sequence[int], *, held: bool) -> None:
        """Stop or start listening on the channels (all if none are named)."""
        self._must_run("control.hold" if held else "control.resume")
        self._hear()
        for channel in self._selected(channels):
            if held and not channel.held:
                channel.flush()
            channel.held = held
        self._look()

    def finish(self) -> None:
        """Flush; a final update per classified channel follows, then ``done`` is true."""
        self._must_run("control.finish")
        self.finishing = True
        self._ask_no_more()
        self._hear()
        for channel in self._channels.values():
            channel.finish()
        self._request_updates(final=True)
        self.done = self.finals == len(self._channels)

    def close(self) -> None:
        """Leave the engine; nothing more is told to the listener.

        What refers to each other lets go, so that the memory of a call is free when the call is
        over, not when Python next looks for cycles.
        """
        self.finishing = True
        self._ask_no_more()
        self._asked = None
        self._listener = NOBODY
        for channel in self._channels.values():
            channel.close()

    def _must_run(self, field: str) -> None:
        if self.finishing:
            raise FailedPrecondition(field, "the call is already finished")

    def _request_updates(self, *, final: bool, received: float = 0.0) -> None:
        sequence = self._order.sequence or 0
        asked = PendingUpdate(sequence, self.audio_seconds, self.lost_seconds, final, received)
        for channel in self._channels.values():
            channel.request(asked)

    def emit(self, update: Update) -> None:
        """A channel's update is complete."""
        if update.final:
            self.finals += 1
            self.done = self.finals == len(self._channels)
        self._listener.on_prediction(update)

    def event(self, channel: int, started: bool, seconds: float) -> None:
        """A channel's gate opened or closed."""
        if self.config.speech_events:
            self._listener.on_speech(channel, started, seconds)

    def on_progress(self) -> None:
        """A channel's step is done."""
        self._listener.on_progress()

    def on_error(self, error: CallError) -> None:
        """A channel's step failed."""
        self._listener.on_error(error)
