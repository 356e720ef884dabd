"""Packets that never arrive, and what the gateway plays in their place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from streamer.audio.codec import SAMPLE_RATE, Samples, to_int16
from train.telephone.effect import Effect

PACKET = 160
"""Samples of a packet: 20 ms, the default of RTP audio (RFC 3551)."""
LAGS = (40, 120)
"""Pitch periods searched, samples: 200 down to 66 Hz, as G.711 Appendix I does."""
MATCH = 160
"""Samples compared in the search: 20 ms."""
STEP = SAMPLE_RATE // 100
"""Samples after which a longer stretch is repeated and the fading proceeds: 10 ms."""
FADE_STEPS = 6
"""Steps until silence: one at full level, then a fifth less in each, so 60 ms."""
_HISTORY = 3 * LAGS[1] + LAGS[1] // 4


class Concealment(Enum):
    """What is played for a lost packet."""

    REPEAT = "repeat"
    SILENCE = "silence"


@dataclass(frozen=True)
class PacketLoss(Effect):
    """Loss in bursts, by the Gilbert-Elliott model, and its concealment.

    Queues overflow and radios fade in bursts, so packets are lost in company. Two states, good
    and bad, change as a Markov chain; in the bad state ``density`` of the packets is lost. VoIP
    is planned for less than 1 %; Wi-Fi and mobile data bring 5 % and more, 15 % ends most calls.

    Attributes:
        rate: lost in the long run, share of the packets; 0.005-0.15.
        burst: mean length of the bad state, packets; 1-6.
        density: lost in the bad state, share; 0.5-1, above ``rate``.
        concealment: REPEAT is in the style of ITU-T G.711 Appendix I, SILENCE what poor gateways
            and recorders do.
    """

    rate: float
    burst: float = 2.0
    density: float = 1.0
    concealment: Concealment = Concealment.REPEAT

    def __post_init__(self) -> None:
        """Refuse a chain that does not exist."""
        if not 0 <= self.rate < self.density <= 1:
            raise ValueError(f"0 <= rate {self.rate} < density {self.density} <= 1 does not hold")
        if self.burst < 1 or self.to_bad > 1:
            raise ValueError(f"burst {self.burst} packets is too short for a rate of {self.rate}")

    @property
    def to_bad(self) -> float:
        """Probability that a bad state follows a good one."""
        bad = self.rate / self.density
        return bad / (1 - bad) / self.burst

    def lost(self, packets: int, random: np.random.Generator) -> NDArray[np.bool_]:
        """Which of so many packets are lost; the chain starts in its stationary state."""
        chances = random.random(packets + 1).tolist()
        bad = chances[0] < self.rate / self.density
        to_bad, stay_bad = self.to_bad, 1 - 1 / self.burst
        states = np.empty(packets, np.bool_)
        for index, chance in enumerate(chances[1:]):
            states[index] = bad
            bad = chance < (stay_bad if bad else to_bad)
        return states & (random.random(packets) < self.density)

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        """Draw the lost packets and conceal them; the last packet may be short."""
        lost = self.lost(-(-len(samples) // PACKET), random)
        if not lost.any():
            return samples
        if self.concealment is Concealment.SILENCE:
            gone = np.repeat(lost, PACKET)[: len(samples)]
            return np.where(gone, np.int16(0), samples)
        return conceal(samples, lost)


def conceal(samples: Samples, lost: NDArray[np.bool_]) -> Samples:
    """Replace lost packets in the style of ITU-T G.711 Appendix I.

    The last pitch period is repeated, after 10 ms the last two, after 20 ms the last three, fading
    from 10 ms on and silent after 60 ms. The quarter of a period before the loss is blended into
    the repetition, and the repetition into what arrives next: 4 ms and 4 more for each 10 ms lost,
    at most 10. The standard delays its output by 3.75 ms for the former; here the whole call is at
    hand, so nothing is late.

    Args:
        samples: int16 [n].
        lost: [ceil(n / 160)], True where the packet did not arrive.

    Returns:
        int16 [n]; packets that arrived are unchanged but for the blending.
    """
    out = samples.astype(np.float64)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], lost, [False]])))
    for first, after in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        start, end = first * PACKET, min(after * PACKET, len(out))
        blend = min(SAMPLE_RATE * 4 // 1000 * (1 + (end - start) // STEP), STEP, len(out) - end)
        history = out[max(0, start - _HISTORY) : start]
        if len(history) < _HISTORY or not history.any():
            out[start:end] = 0.0
            repeated = np.zeros(blend)
        else:
            wave, lead = _repetition(history, end - start + blend)
            out[start - len(lead) : start] = lead
            out[start:end] = wave[: end - start]
            repeated = wave[end - start :]
        ramp = (np.arange(blend) + 0.5) / blend if blend else np.empty(0)
        out[end : end + blend] = ramp * out[end : end + blend] + (1 - ramp) * repeated
    return to_int16(out)


def _repetition(
    history: NDArray[np.float64], length: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``length`` samples that go on from ``history``, and its last quarter period, blended."""
    lag = pitch_lag(history)
    quarter = lag // 4
    ramp = (np.arange(quarter) + 0.5) / quarter
    lead = (1 - ramp) * history[-quarter:] + ramp * history[-lag - quarter : -lag]
    past = np.concatenate([history[:-quarter], lead])
    wave = np.zeros(length)
    for step in range(min(FADE_STEPS, -(-length // STEP))):
        at = np.arange(step * STEP, min((step + 1) * STEP, length))
        stretch = lag * min(step + 1, 3)
        fade = 1.0 if step == 0 else 1.2 - 0.2 * at / STEP
        wave[at] = fade * past[len(past) - stretch + at % stretch]
    return wave, lead


def pitch_lag(history: NDArray[np.float64]) -> int:
    """Lag within :data:`LAGS` at which the last 20 ms correlate best with what came before."""
    shortest, longest = LAGS
    recent = history[-MATCH:]
    past = history[-MATCH - longest : -shortest]
    products = np.correlate(past, recent, "valid")
    sums = np.concatenate([[0.0], np.cumsum(np.square(past))])
    energies = np.maximum(sums[MATCH:] - sums[:-MATCH], 1.0)
    return longest - int(np.argmax(products / np.sqrt(energies)))
