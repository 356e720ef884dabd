"""Telephone audio bytes to 16-bit samples at 8 kHz, and back.

Samples stay int16 until a block is submitted to the model: integers make the result independent
of how a call was cut into chunks, to the last bit.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]

SAMPLE_RATE = 8000
"""Hz after decoding."""
SAMPLE_RATES = (8000, 16000)
"""Hz accepted from gateways."""


class Encoding(Enum):
    """Encodings of the telephone network; the value is bytes per sample."""

    MULAW = "mulaw"
    ALAW = "alaw"
    LINEAR16 = "linear16"

    @property
    def width(self) -> int:
        """Bytes per sample."""
        return 2 if self is Encoding.LINEAR16 else 1


def _mulaw_levels() -> Samples:
    """The 256 output values of ITU-T G.711 mu-law, 16-bit scale."""
    code = ~np.arange(256) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_levels() -> Samples:
    """The 256 output values of ITU-T G.711 A-law, 16-bit scale."""
    code = np.arange(256) ^ 0x55
    segment = (code & 0x70) >> 4
    step = ((code & 0x0F) << 4) + 8
    magnitude = np.where(segment == 0, step, (step + 0x100) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _encoder_table(levels: Samples) -> NDArray[np.uint8]:
    """Nearest code of every int16 value, indexed by the value as uint16 (G.711 decision levels)."""
    order = np.argsort(levels, kind="stable")
    ordered = levels[order].astype(np.int32)
    midpoints = (ordered[1:] + ordered[:-1] + 1) // 2
    values = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)
    return order[np.searchsorted(midpoints, values, side="right")].astype(np.uint8)


_LEVELS = {Encoding.MULAW: _mulaw_levels(), Encoding.ALAW: _alaw_levels()}
_CODES = {encoding: _encoder_table(levels) for encoding, levels in _LEVELS.items()}


def to_int16(values: NDArray[np.floating[Any]]) -> Samples:
    """Nearest int16 of values at 16-bit scale, saturating."""
    rounded: Samples = np.clip(np.rint(values), -32768, 32767).astype(np.int16)
    return rounded


def encode(samples: Samples, encoding: Encoding) -> bytes:
    """Samples (any shape, written in C order) to bytes; linear16 is little-endian."""
    if encoding is Encoding.LINEAR16:
        return samples.astype("<i2", copy=False).tobytes()
    return _CODES[encoding][np.ascontiguousarray(samples).view(np.uint16)].tobytes()


def decode(data: bytes, encoding: Encoding) -> Samples:
    """Bytes to int16 [n]; raises ValueError for half a sample."""
    if encoding is Encoding.LINEAR16:
        if len(data) % 2:
            raise ValueError(f"{len(data)} bytes are not whole 2-byte samples")
        return np.frombuffer(data, "<i2").astype(np.int16, copy=False)
    return _LEVELS[encoding].take(np.frombuffer(data, np.uint8))


def _half_band_taps(half: int = 27, beta: float = 6.0) -> NDArray[np.float64]:
    """Kaiser-windowed half-band low-pass, 2*half+1 taps, integers at scale 2**15.

    Flat to 3.4 kHz and 60 dB down from 4.6 kHz at 16 kHz input, which spares the telephone band.
    """
    n = np.arange(-half, half + 1)
    ideal = 0.5 * np.sinc(n / 2) * np.kaiser(2 * half + 1, beta)
    taps: NDArray[np.float64] = np.round(ideal / ideal.sum() * 2**15)
    return taps


class Halver:
    """16 kHz to 8 kHz, any chunking giving the same samples.

    Not soxr, because calls resume on other servers: this filter's whole state is ``history``.
    Integer-valued taps and samples make every float64 sum exact, hence independent of order.
    """

    _TAPS = _half_band_taps()
    _EVEN = _TAPS[::2].copy()
    _CENTRE = _TAPS[len(_TAPS) // 2]
    LENGTHS = (len(_TAPS) - 2, len(_TAPS) - 1)
    """Of ``history``, after an odd and an even number of samples."""

    def __init__(self) -> None:
        self.history = np.zeros(len(self._TAPS) - 1, np.float64)

    def push(self, samples: Samples) -> Samples:
        """int16 at 16 kHz -> int16 at 8 kHz; n samples in all give ceil(n/2) in all."""
        x = np.concatenate([self.history, samples])
        outputs = (len(x) - len(self._TAPS)) // 2 + 1
        if outputs <= 0:
            self.history = x
            return np.empty(0, np.int16)
        used = 2 * outputs
        half = len(self._TAPS) // 2
        y = np.convolve(x[: used + len(self._TAPS) - 2 : 2], self._EVEN, "valid")
        y += self._CENTRE * x[half : half + used : 2]
        self.history = x[used:].copy()  # a view would keep all of x in memory
        return to_int16(y / 2**15)


class Decoder:
    """Bytes of one call, channels interleaved, to int16 samples at 8 kHz.

    Args:
        encoding: of the bytes.
        sample_rate: 8000 or 16000 Hz.
        channels: 1 or more, interleaved sample by sample.

    Raises:
        ValueError: another sample rate or no channels.
    """

    def __init__(self, encoding: Encoding, sample_rate: int, channels: int) -> None:
        if sample_rate not in SAMPLE_RATES:
            raise ValueError(f"sample rate {sample_rate}, not one of {SAMPLE_RATES}")
        if channels < 1:
            raise ValueError(f"{channels} channels")
        self.encoding, self.channels, self.sample_rate = encoding, channels, sample_rate
        self.frame_bytes = encoding.width * channels
        self._halvers = [Halver() for _ in range(channels)] if sample_rate == 16000 else None  # noqa: PLR2004

    def snapshot(self) -> tuple[Samples, ...]:
        """State of the filters: int16 [at most 54] of every channel at 16 kHz, else nothing."""
        # Samples, and sums of none: float64 only for the sake of the products.
        return tuple(halver.history.astype(np.int16) for halver in self._halvers or ())

    def restore(self, histories: tuple[Samples, ...]) -> None:
        """Continue from ``histories``.

        Raises:
            ValueError: no decoder of this format can have been in that state.
        """
        halvers = self._halvers or []
        lengths = [len(history) for history in histories]
        if len(lengths) != len(halvers) or any(n not in Halver.LENGTHS for n in lengths):
            raise ValueError(f"filters with {lengths} samples for {len(halvers)} channels")
        for halver, history in zip(halvers, histories, strict=True):
            halver.history = history.astype(np.float64)

    def push(self, data: bytes) -> list[Samples]:
        """One int16 array per channel; raises ValueError unless ``data`` is whole samples."""
        if len(data) % self.frame_bytes:
            raise ValueError(
                f"{len(data)} bytes are not whole samples of {self.channels} channels x "
                f"{self.encoding.width} bytes"
            )
        samples = decode(data, self.encoding)
        if self.channels == 1:
            split = [samples]
        else:
            split = [samples[channel :: self.channels] for channel in range(self.channels)]
        if self._halvers is None:
            return split
        return [halver.push(part) for halver, part in zip(self._halvers, split, strict=True)]
