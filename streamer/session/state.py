"""State of a call as plain values: the content of a checkpoint.

Inference lags behind the session. A snapshot is of one moment all the same: the session's part is
taken when the snapshot is requested, and each channel adds the model's part when inference has
reached that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from streamer.audio.codec import Samples
from streamer.audio.speech_gate import GateState
from streamer.inference.batch import Posteriors
from streamer.inference.metadata import Memory


@dataclass(frozen=True)
class ChannelState:
    """State of one channel at one moment.

    Attributes:
        gate: of its speech gate.
        held: the channel is on hold.
        block: int16 at 8 kHz, speech that does not fill a block yet.
        speech: samples that the posteriors rest on.
        posteriors: the last; None before the first.
        memory: of the model.
    """

    gate: GateState
    held: bool
    block: Samples
    speech: int
    posteriors: Posteriors | None
    memory: Memory


@dataclass(frozen=True)
class CallState:
    """State of a call at one moment.

    Attributes:
        sequence: of the last audio message; None before the first.
        position: samples of the call's rate, lost ones included.
        lost: samples that never arrived.
        duplicates: messages that were dropped.
        next_update: position at which the next update is due.
        filters: of the decoder, see :meth:`streamer.audio.codec.Decoder.snapshot`.
        channels: by index, the classified ones.
    """

    sequence: int | None
    position: int
    lost: int
    duplicates: int
    next_update: int
    filters: tuple[Samples, ...]
    channels: Mapping[int, ChannelState]


class PendingSnapshot:
    """A requested snapshot that waits for the channels of its call.

    Args:
        state: of the session, without channels.
        channels: number of channels to wait for.
        callback: called once with the complete state.

    Attributes:
        pending: cleared when the snapshot is complete or cancelled.
    """

    def __init__(
        self, state: CallState, channels: int, callback: Callable[[CallState], None]
    ) -> None:
        self._state = state
        self._expected = channels
        self._channels: dict[int, ChannelState] = {}
        self.callback = callback
        self.pending = True

    def add_channel(self, index: int, state: ChannelState) -> None:
        """Add the state of one channel; the last one completes the snapshot."""
        self._channels[index] = state
        if self.pending and len(self._channels) == self._expected:
            self.pending = False
            self.callback(replace(self._state, channels=self._channels))
