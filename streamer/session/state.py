"""All that a call remembers, as plain values: what a checkpoint is made of.

The student hears a call a little later than its session does. A snapshot is of one moment all the
same: the session's part is taken when it is asked for, and each channel adds the student's part
when the student has come to that moment.
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
    """All that a channel remembers, as of one moment.

    Attributes:
        gate: of its speech gate.
        held: it is on hold.
        block: int16, speech that does not yet fill a block.
        speech: samples that the posteriors rest on.
        posteriors: the last; None before the first.
        memory: the student's.
    """

    gate: GateState
    held: bool
    block: Samples
    speech: int
    posteriors: Posteriors | None
    memory: Memory


@dataclass(frozen=True)
class CallState:
    """All that a call remembers, as of one moment.

    Attributes:
        sequence: of the last audio message; None before the first.
        heard: samples of the call's rate, lost ones included.
        lost: samples that never arrived.
        duplicates: messages that were dropped.
        next_update: sample at which the next update is due.
        filters: of the decoder, see :meth:`streamer.audio.codec.Decoder.snapshot`.
        channels: by index, the classified ones.
    """

    sequence: int | None
    heard: int
    lost: int
    duplicates: int
    next_update: int
    filters: tuple[Samples, ...]
    channels: Mapping[int, ChannelState]


class PendingSnapshot:
    """Waits for the channels of one call.

    Args:
        own: what the session remembers, with no channels.
        channels: how many will answer.
        tell: called with the whole.

    Attributes:
        waits: cleared once it is told or given up.
    """

    def __init__(self, own: CallState, channels: int, tell: Callable[[CallState], None]) -> None:
        self._own = own
        self._expected = channels
        self._channels: dict[int, ChannelState] = {}
        self.tell = tell
        self.waits = True

    def answer(self, index: int, state: ChannelState) -> None:
        """One channel's part."""
        self._channels[index] = state
        if self.waits and len(self._channels) == self._expected:
            self.waits = False
            self.tell(replace(self._own, channels=self._channels))
