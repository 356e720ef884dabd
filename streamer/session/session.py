"""One call: what its messages do to its channels. No gRPC, no batching, no I/O.

The state of a call is in the inference streams' vectors, the speech gates, the audio ingest and the
counters here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamer.audio.codec import SAMPLE_RATE, Encoding, Samples
from streamer.audio.ingest import NEVER, AudioIngest
from streamer.errors import FailedPrecondition, InvalidArgument
from streamer.inference.engine import Engine
from streamer.session.channel import Backlog, Channel, PendingUpdate
from streamer.session.events import Listener
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
        speech_events: notify of start and end of speech.
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
    """Receives a call's messages in order and notifies ``listener`` of what follows.

    Every method raises a :class:`~streamer.errors.CallError` for input that is not acceptable; the
    session must then be closed. All calls, and the engine's callbacks, must come from one thread.

    Args:
        config: validated.
        engine: runs the model.
        listener: receives predictions and events.
        interval_factor: by which the update interval is multiplied now, 1 or more.

    Attributes:
        backlog: blocks that wait for inference, over all channels.
        finishing: no message is accepted any more.
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
        self._ingest = AudioIngest(
            config.encoding, config.sample_rate, len(config.ignored), config.max_chunk_seconds
        )
        self._bytes_per_sample = self._ingest.bytes_of(1)
        self.backlog = Backlog()
        self._channels = {
            index: Channel(
                index, engine, listener, self.backlog, speech_events=config.speech_events
            )
            for index, ignored in enumerate(config.ignored)
            if not ignored
        }
        self._update_step = round(config.update_seconds * config.sample_rate)
        self._next_update = self._update_step
        self._snapshot: PendingSnapshot | None = None
        self.finishing = False
        self._plan_processing()

    @property
    def done(self) -> bool:
        """Whether every classified channel has sent its final update."""
        return all(channel.finished for channel in self._channels.values())

    def lag(self, now: float) -> float:
        """Seconds that the oldest block has waited for inference, see :meth:`Channel.lag`."""
        return max(channel.lag(now) for channel in self._channels.values())

    @property
    def begun(self) -> bool:
        """Whether audio was received."""
        return self._ingest.sequence is not None

    @property
    def duplicates(self) -> int:
        """Messages that arrived twice."""
        return self._ingest.duplicates

    @property
    def audio_seconds(self) -> float:
        """Length of the call so far, lost audio included."""
        return self._ingest.position / self.config.sample_rate

    @property
    def classified_seconds(self) -> float:
        """Audio of the classified channels, each counted by itself."""
        return self.audio_seconds * len(self._channels)

    @property
    def lost_seconds(self) -> float:
        """Audio that never arrived."""
        return self._ingest.lost / self.config.sample_rate

    @property
    def speech_seconds(self) -> float:
        """Speech behind the current posteriors, over all channels."""
        return sum(c.speech for c in self._channels.values()) / SAMPLE_RATE

    def audio(
        self,
        sequence: int,
        data: bytes,
        start_sample: int | None = None,
        received: float = 0.0,
    ) -> float:
        """Process one audio message, see ``Audio`` in the protocol.

        Args:
            sequence: number of the message.
            data: whole samples of every channel.
            start_sample: position of the first sample, if the gateway sends it.
            received: time of arrival, passed on to the updates that the message makes due.

        Returns:
            Seconds of audio; 0 for a duplicate.
        """
        self._require_running("audio")
        accepted = self._ingest.accept(sequence, data, start_sample)
        if accepted is None:
            return 0.0
        samples, lost, decoded = accepted
        if lost:
            self._skip(lost)
        if decoded:
            self._process(decoded)
        late = self._ingest.position - self._next_update
        if late >= 0:
            step = self._update_step * self._interval_factor()
            self._next_update += (late // step + 1) * step
            if self._ingest.decode_at_position != NEVER:
                self._ingest.decode_at_position = self._next_update
            self._request_updates(final=False, received=received)
        return samples / self.config.sample_rate

    def discard(self, channels: Sequence[int]) -> None:
        """Reset the channels (all if none are named) to a call that has not begun."""
        self._require_running("control.discard")
        self._process_buffered()
        for channel in self._selected(channels):
            channel.discard()
        self._plan_processing()
        if self._snapshot is not None and self._snapshot.pending:
            self.snapshot(self._snapshot.callback)  # the old inference streams will not call back

    def hold(self, channels: Sequence[int], *, held: bool) -> None:
        """Stop or continue processing the channels (all if none are named)."""
        self._require_running("control.hold" if held else "control.resume")
        self._process_buffered()
        for channel in self._selected(channels):
            channel.hold(held=held)
        self._plan_processing()

    def finish(self) -> None:
        """Flush; a final update per classified channel follows, then :attr:`done` is true."""
        self._require_running("control.finish")
        self.finishing = True
        self._cancel_snapshot()
        self._process_buffered()
        for channel in self._channels.values():
            channel.finish()
        self._request_updates(final=True)

    def close(self) -> None:
        """Leave the engine; the listener is notified of nothing more."""
        self.finishing = True
        self._cancel_snapshot()
        self._snapshot = None
        for channel in self._channels.values():
            channel.close()

    def snapshot(self, callback: Callable[[CallState], None]) -> None:
        """Call back with the state after all messages received so far.

        That is when inference has reached them; never if the call is finished or closed before, or
        another snapshot is requested. A discard meanwhile makes it one of after the discard.
        """
        if self.finishing:
            return
        self._cancel_snapshot()
        self._process_buffered()
        ingest = self._ingest
        state = CallState(
            sequence=ingest.sequence,
            position=ingest.position,
            lost=ingest.lost,
            duplicates=ingest.duplicates,
            next_update=self._next_update,
            filters=ingest.filters(),
            channels={},
        )
        self._snapshot = PendingSnapshot(state, len(self._channels), callback)
        for index, channel in self._channels.items():
            channel.snapshot(functools.partial(self._snapshot.add_channel, index))

    @property
    def snapshot_pending(self) -> bool:
        """Whether a snapshot is requested and not complete yet."""
        return self._snapshot is not None and self._snapshot.pending

    def restore(self, state: CallState) -> None:
        """Continue from ``state``; only before any message.

        Audio up to its sequence is dropped until other audio arrives.

        Raises:
            ValueError: no call of this config and model can have been in that state.
        """
        if set(state.channels) != set(self._channels):
            raise ValueError(f"channels {sorted(state.channels)}")
        if state.next_update < 0:
            raise ValueError(f"next update at sample {state.next_update}")
        self._ingest.restore(
            state.sequence, state.position, state.lost, state.duplicates, state.filters
        )
        for index, channel in self._channels.items():
            channel.restore(state.channels[index])
        self._next_update = state.next_update
        self._plan_processing()

    def _process_buffered(self) -> None:
        self._process(self._ingest.decode())

    def _process(self, decoded: list[Samples]) -> None:
        """Have the channels process audio at 8 kHz, an array for each."""
        for index, samples in enumerate(decoded):
            if index in self._channels:
                self._channels[index].process(samples)
        self._plan_processing()

    def _plan_processing(self) -> None:
        """Set how much audio may be buffered before the channels must process it.

        Until a block can be full the posteriors stay what they are, so an update is the same
        whether its audio was processed or not. Speech events are due at once.
        """
        samples = 1 if self.config.speech_events else SAMPLE_RATE
        decode_at_position: float = NEVER
        for channel in self._channels.values():
            samples = min(samples, channel.samples_until_next_block)
            if channel.detecting_onset:
                decode_at_position = self._next_update
        # One sample less, as half a sample can wait in a filter.
        self._ingest.decode_at_bytes = (samples - 1) * self._bytes_per_sample
        self._ingest.decode_at_position = decode_at_position

    def _skip(self, samples: int) -> None:
        """Skip lost audio, never conceal it: an invented sound says nothing of the speaker."""
        for channel in self._channels.values():
            channel.gate.skip(samples * SAMPLE_RATE // self.config.sample_rate)

    def _selected(self, channels: Sequence[int]) -> list[Channel]:
        count = len(self.config.ignored)
        for index in channels:
            if index >= count:
                raise InvalidArgument("control.channels", index, f"the call has {count} channels")
        return [c for i, c in self._channels.items() if not channels or i in channels]

    def _request_updates(self, *, final: bool, received: float = 0.0) -> None:
        ingest = self._ingest
        audio_seconds, lost_seconds = self.audio_seconds, self.lost_seconds
        for channel in self._channels.values():
            channel.request(
                PendingUpdate(
                    channel.submitted,
                    ingest.sequence or 0,
                    audio_seconds,
                    lost_seconds,
                    final,
                    received,
                )
            )

    def _cancel_snapshot(self) -> None:
        if self._snapshot is not None:
            self._snapshot.pending = False

    def _require_running(self, field: str) -> None:
        if self.finishing:
            raise FailedPrecondition(field, "the call is already finished")
