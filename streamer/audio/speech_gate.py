"""Speech gate: WebRTC VAD with onset confirmation, pre-roll and hangover.

One gate per channel and call; nothing is shared. Training runs its utterances through the same
class, so that the model receives the same speech as on a live call.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import _webrtcvad
import numpy as np
import webrtcvad

from streamer.audio.codec import SAMPLE_RATE, Samples
from streamer.audio.vad_state import read_vad, write_vad

FRAME = 240
"""Samples of one VAD decision: 30 ms, the longest WebRTC takes and the cheapest per second."""
_FRAME_BYTES = 2 * FRAME


@dataclass(frozen=True)
class GateSettings:
    """Behaviour of a speech gate, in frames of 30 ms.

    Attributes:
        aggressiveness: WebRTC mode, 0 (keeps most) to 3 (drops most).
        onset: consecutive speech frames that open the gate.
        preroll: frames before the onset that count as speech too: soft beginnings.
        hangover: non-speech frames that count as speech before the gate closes.
    """

    aggressiveness: int = 2
    onset: int = 2
    preroll: int = 3
    hangover: int = 6


class SpeechEvent(NamedTuple):
    """The gate opened or closed.

    Attributes:
        started: True for the start of speech, False for its end.
        position: sample of the channel (8 kHz, silence included) at which it happened.
    """

    started: bool
    position: int


@dataclass(frozen=True)
class GateState:
    """State of a speech gate.

    Attributes:
        vad: memory of the VAD.
        rest: int16, an incomplete frame.
        recent: int16, whole frames before a possible onset, oldest first.
        voiced: speech frames in a row.
        unvoiced: other frames in a row.
        position: samples decided.
        speaking: the gate is open.
    """

    vad: bytes
    rest: Samples
    recent: Samples
    voiced: int
    unvoiced: int
    position: int
    speaking: bool


class SpeechGate:
    """Samples at 8 kHz in, the speech among them out."""

    def __init__(self, settings: GateSettings | None = None) -> None:
        self._settings = settings or GateSettings()
        self._vad = webrtcvad.Vad(self._settings.aggressiveness)
        # WebRTC's own function: the checks of `webrtcvad.Vad` would cost a fifth more.
        self._is_speech = partial(_webrtcvad.process, self._vad._vad, SAMPLE_RATE)
        # Bytes: they are cut and joined at a third of the cost of arrays.
        self._rest = b""
        self.waiting = 0
        """Samples of the incomplete frame."""
        self._recent: deque[bytes] = deque(maxlen=self._settings.preroll + self._settings.onset)
        self._voiced = 0
        self._unvoiced = 0
        self.position = 0
        """Samples decided so far."""
        self.speaking = False

    def push(self, samples: Samples) -> tuple[bytes, list[SpeechEvent]]:
        """Process int16 samples, any number of them.

        Returns:
            The samples that are speech, as bytes, and the events in order.
        """
        data = self._rest + samples.tobytes()
        whole = len(data) // _FRAME_BYTES * _FRAME_BYTES
        self._rest = data[whole:]
        self.waiting = (len(data) - whole) // 2
        pieces: list[bytes] = []
        events: list[SpeechEvent] = []
        settings, is_speech = self._settings, self._is_speech
        piece_start = 0
        for start in range(0, whole, _FRAME_BYTES):
            frame = data[start : start + _FRAME_BYTES]
            self.position += FRAME
            if is_speech(frame, FRAME):
                self._voiced += 1
                self._unvoiced = 0
            else:
                self._voiced = 0
                self._unvoiced += 1
            if self.speaking:
                if self._unvoiced >= settings.hangover:
                    self.speaking = False
                    pieces.append(data[piece_start : start + _FRAME_BYTES])
                    events.append(SpeechEvent(started=False, position=self.position))
                continue
            self._recent.append(frame)
            if self._voiced >= settings.onset:
                self.speaking = True
                pieces.extend(self._recent)
                self._recent.clear()
                onset = settings.onset * FRAME
                events.append(SpeechEvent(started=True, position=self.position - onset))
                piece_start = start + _FRAME_BYTES
        if self.speaking and piece_start < whole:
            pieces.append(data[piece_start:whole])
        return b"".join(pieces), events

    def skip(self, samples: int) -> None:
        """Move the position past audio that is not processed: lost, or on hold."""
        self.position += samples

    def snapshot(self) -> GateState:
        """State of the gate."""
        return GateState(
            vad=read_vad(self._vad),
            rest=np.frombuffer(self._rest, np.int16),
            recent=np.frombuffer(b"".join(self._recent), np.int16),
            voiced=self._voiced,
            unvoiced=self._unvoiced,
            position=self.position,
            speaking=self.speaking,
        )

    def restore(self, state: GateState) -> None:
        """Continue from ``state``.

        Raises:
            ValueError: no gate of these settings can have been in that state.
        """
        longest = (self._settings.preroll + self._settings.onset) * FRAME
        if len(state.rest) >= FRAME or len(state.recent) % FRAME or len(state.recent) > longest:
            raise ValueError(f"a gate with {len(state.rest)} and {len(state.recent)} samples")
        if min(state.voiced, state.unvoiced, state.position) < 0:
            raise ValueError("a gate with negative counters")
        write_vad(self._vad, state.vad)
        self._rest, self.waiting = state.rest.tobytes(), len(state.rest)
        self._recent.clear()
        self._recent.extend(frame.tobytes() for frame in state.recent.reshape(-1, FRAME))
        self._voiced, self._unvoiced = state.voiced, state.unvoiced
        self.position, self.speaking = state.position, state.speaking

    def flush(self) -> tuple[bytes, list[SpeechEvent]]:
        """Close the gate at the end of a call or before a hold.

        Returns:
            The rest of running speech, as bytes, and the event that ends it, if speech was running.
        """
        speech, events = b"", []
        self.position += self.waiting
        if self.speaking:
            speech = self._rest
            events = [SpeechEvent(started=False, position=self.position)]
        self._rest, self.waiting = b"", 0
        self._recent.clear()
        self._voiced = self._unvoiced = 0
        self.speaking = False
        return speech, events


def speech_of(samples: Samples, settings: GateSettings | None = None) -> Samples:
    """Speech of one utterance, joined, as on a server: int16 [n] -> int16 [m] at 8 kHz."""
    gate = SpeechGate(settings)
    return np.frombuffer(bytearray(gate.push(samples)[0] + gate.flush()[0]), np.int16)
