"""Speech gate: WebRTC VAD with onset confirmation, pre-roll and hangover.

One gate per channel and call; nothing is shared. Training runs its utterances through the same
class, so that the student hears the same speech as on a live call.
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
        preroll: frames before the onset that are heard too: soft beginnings.
        hangover: non-speech frames that are heard before the gate closes.
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
    """All that a speech gate remembers; see :class:`SpeechGate` for the meaning.

    Attributes:
        vad: memory of the VAD.
        rest: int16, less than a frame that waits for its end.
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
    """Samples in, the speech among them out."""

    def __init__(self, settings: GateSettings | None = None) -> None:
        self._settings = settings or GateSettings()
        self._vad = webrtcvad.Vad(self._settings.aggressiveness)
        # Of WebRTC itself: what `webrtcvad.Vad` does around it takes a fifth as long.
        self._is_speech = partial(_webrtcvad.process, self._vad._vad, SAMPLE_RATE)
        # Bytes, which are cut and joined at a third of what arrays take.
        self._rest = b""
        self._recent: deque[bytes] = deque(maxlen=self._settings.preroll + self._settings.onset)
        self._voiced = 0
        self._unvoiced = 0
        self.position = 0
        """Samples decided so far."""
        self.speaking = False

    @property
    def waiting(self) -> int:
        """Samples that wait for the end of their frame."""
        return len(self._rest) // 2

    def push(self, samples: Samples) -> tuple[bytes, list[SpeechEvent]]:
        """Any number of int16 samples -> those that are speech, as bytes, and events."""
        data = self._rest + samples.tobytes()
        whole = len(data) // _FRAME_BYTES * _FRAME_BYTES
        self._rest = data[whole:]
        pieces: list[bytes] = []
        events: list[SpeechEvent] = []
        settings, is_speech = self._settings, self._is_speech
        begun = 0  # where the running piece begins
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
                    pieces.append(data[begun : start + _FRAME_BYTES])
                    events.append(SpeechEvent(started=False, position=self.position))
                continue
            self._recent.append(frame)
            if self._voiced >= settings.onset:
                self.speaking = True
                pieces.extend(self._recent)
                self._recent.clear()
                onset = settings.onset * FRAME
                events.append(SpeechEvent(started=True, position=self.position - onset))
                begun = start + _FRAME_BYTES
        if self.speaking and begun < whole:
            pieces.append(data[begun:whole])
        return b"".join(pieces), events

    def skip(self, samples: int) -> None:
        """Audio that is not listened to (lost, on hold) passed by: only the position moves."""
        self.position += samples

    def snapshot(self) -> GateState:
        """All that it remembers."""
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
        """Go on as the gate of ``state`` would.

        Raises:
            ValueError: no gate of these settings can have been in that state.
        """
        most = (self._settings.preroll + self._settings.onset) * FRAME
        if len(state.rest) >= FRAME or len(state.recent) % FRAME or len(state.recent) > most:
            raise ValueError(f"a gate with {len(state.rest)} and {len(state.recent)} samples")
        if min(state.voiced, state.unvoiced, state.position) < 0:
            raise ValueError("a gate with negative counters")
        write_vad(self._vad, state.vad)
        self._rest = state.rest.tobytes()
        self._recent.clear()
        self._recent.extend(frame.tobytes() for frame in state.recent.reshape(-1, FRAME))
        self._voiced, self._unvoiced = state.voiced, state.unvoiced
        self.position, self.speaking = state.position, state.speaking

    def flush(self) -> tuple[bytes, list[SpeechEvent]]:
        """The call ended or was put on hold: hear the rest of running speech, close the gate."""
        speech, events = b"", []
        self.position += self.waiting
        if self.speaking:
            speech = self._rest
            events = [SpeechEvent(started=False, position=self.position)]
        self._rest = b""
        self._recent.clear()
        self._voiced = self._unvoiced = 0
        self.speaking = False
        return speech, events


def speech_of(samples: Samples, settings: GateSettings | None = None) -> Samples:
    """All speech of one utterance, joined, as a server would hear it: int16 [n] -> int16 [m]."""
    gate = SpeechGate(settings)
    return np.frombuffer(bytearray(gate.push(samples)[0] + gate.flush()[0]), np.int16)
