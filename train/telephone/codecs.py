"""Speech coders of the telephone network, each once through encoder and decoder.

The output is as long as the input and aligned with it: coders' delays are taken away, so that
the degraded twin of an utterance can be compared with the clean one sample by sample. Every call
opens coders of its own and closes them: nothing passes from one utterance to the next.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import av
import numpy as np
import soundfile
from av.audio.codeccontext import AudioCodecContext
from av.codec.codec import UnknownCodecError
from av.codec.context import CodecContext

from streamer.audio.codec import SAMPLE_RATE, Encoding, Samples, decode, encode, to_int16
from train.telephone.effect import Effect

FRAME = 160
"""Samples of one frame of GSM 06.10 and of AMR-NB: 20 ms."""
AMR_CODER = "libopencore_amrnb"
"""ffmpeg's name of the AMR-NB coder (OpenCORE, Apache-2.0)."""
AMR_RATES = (4750, 5150, 5900, 6700, 7400, 7950, 10200, 12200)
"""Bits per second of the eight modes of 3GPP TS 26.071."""
AMR_DELAY = 40
"""Samples by which AMR-NB comes late: the 5 ms that its encoder looks ahead (3GPP TS 26.090)."""


@dataclass(frozen=True)
class G711(Effect):
    """Log PCM at 64 kbit/s (ITU-T G.711), the code of nearly every trunk and SIP gateway.

    About 38 dB of signal-to-quantisation-noise ratio over 40 dB of levels; quiet calls suffer.
    mu-law in North America and Japan, A-law elsewhere and on links between the two.

    Attributes:
        law: MULAW or ALAW.
    """

    law: Encoding

    def __post_init__(self) -> None:
        """Refuse what G.711 does not define."""
        if self.law not in (Encoding.MULAW, Encoding.ALAW):
            raise ValueError(f"law {self.law}, not mu-law or A-law")

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:  # noqa: ARG002
        """Encode and decode; nothing is drawn."""
        return decode(encode(samples, self.law), self.law)


@dataclass(frozen=True)
class Gsm(Effect):
    """GSM full rate, 13 kbit/s (ETSI GSM 06.10, 3GPP TS 46.010).

    The first mobile coder, still the fallback of 2G cells, and the coder of GSM gateways and of
    many call recorders (WAV49). Regular pulses make it rough above 1 kHz. Coded by libsndfile,
    frame by frame without look-ahead.
    """

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:  # noqa: ARG002
        """Encode and decode; nothing is drawn."""
        if not len(samples):
            return samples
        return gsm_decode(gsm_encode(samples))[: len(samples)]


def gsm_encode(samples: Samples) -> bytes:
    """int16 [n] -> ceil(n/160) frames of 33 bytes; the last is filled with silence."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="RAW", subtype="GSM610")
    return file.getvalue()


def gsm_decode(data: bytes) -> Samples:
    """k frames of 33 bytes -> int16 [160 k]."""
    samples, _ = soundfile.read(
        io.BytesIO(data),
        dtype="int16",
        samplerate=SAMPLE_RATE,
        channels=1,
        format="RAW",
        subtype="GSM610",
    )
    decoded: Samples = samples
    return decoded


@dataclass(frozen=True)
class Amr(Effect):
    """AMR narrowband (3GPP TS 26.071): nearly all 2G and 3G calls since 2000, and many of VoLTE.

    Cells lower the rate when the radio is bad or the cell is full; 12.2 kbit/s (equal to GSM
    enhanced full rate) is usual, 4.75 the emergency. With discontinuous transmission, which
    networks switch on to save batteries, pauses become comfort noise (3GPP TS 26.092).

    Attributes:
        rate: bits per second, one of :data:`AMR_RATES`.
        dtx: discontinuous transmission; it also halves the cost of coding.
    """

    rate: int = 12200
    dtx: bool = False

    def __post_init__(self) -> None:
        """Refuse a rate that is no mode."""
        if self.rate not in AMR_RATES:
            raise ValueError(f"AMR-NB rate {self.rate} bit/s, not one of {AMR_RATES}")

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:  # noqa: ARG002
        """Encode and decode; nothing is drawn. RuntimeError where ffmpeg has no AMR-NB."""
        if not len(samples):
            return samples
        decoded = amr_decode(amr_encode(samples, self.rate, dtx=self.dtx))
        return decoded[AMR_DELAY : AMR_DELAY + len(samples)]


@lru_cache(maxsize=1)
def amr_available() -> bool:
    """Whether PyAV's ffmpeg can code AMR-NB; checked once in a process."""
    try:
        av.Codec(AMR_CODER, "w")
        av.Codec(AMR_CODER, "r")
    except UnknownCodecError:
        return False
    return True


def amr_encode(samples: Samples, rate: int, *, dtx: bool = False) -> bytes:
    """int16 [n] -> frames in the storage format of RFC 4867, without its file header.

    One more frame than the samples fill, so that the decoder has their end in spite of the delay.
    """
    if not amr_available():
        raise RuntimeError(f"AMR-NB: PyAV's ffmpeg lacks {AMR_CODER}")
    coder = _open(AMR_CODER, "w")
    coder.format = av.AudioFormat("s16")
    coder.bit_rate = rate
    coder.time_base = Fraction(1, SAMPLE_RATE)
    if dtx:
        coder.options = {"dtx": "1"}
    padded = np.pad(samples, (0, -len(samples) % FRAME + FRAME))
    # One big frame: PyAV cuts it into the coder's, which is cheaper than doing so in Python.
    frame = av.AudioFrame.from_ndarray(padded[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = SAMPLE_RATE, 0
    return b"".join(bytes(packet) for packet in coder.encode(frame) + coder.encode(None))


def amr_decode(data: bytes, coder: str = AMR_CODER) -> Samples:
    """Frames as :func:`amr_encode` gives them -> int16 [160 k], late by :data:`AMR_DELAY`.

    Args:
        data: whole frames.
        coder: ffmpeg's decoder; its own ``amrnb`` knows no discontinuous transmission.
    """
    decoder = _open(coder, "r")
    frames = decoder.decode(av.Packet(data)) + decoder.decode(None)
    wave = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
    return wave.astype(np.int16, copy=False) if wave.dtype == np.int16 else to_int16(wave * 32768)


def _open(coder: str, mode: Literal["r", "w"]) -> AudioCodecContext:
    """A coder of ffmpeg's for one telephone channel, to be used once."""
    context = CodecContext.create(coder, mode)
    if not isinstance(context, AudioCodecContext):
        raise TypeError(f"ffmpeg's {coder} is no audio coder")
    context.sample_rate = SAMPLE_RATE
    context.layout = "mono"
    return context
