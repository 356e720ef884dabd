"""One call's whole way: what is drawn, in which order, and what it does.

The order is the physical one. At the talker: room, then all other sound at the microphone, then
the set (response, overdriven amplifier, gain control). On the line: the other party's echo from
the hybrid, the trunk's band, the level of what is then coded, key and ringing tones (made by set
and exchange, so coded like speech). In the network: mobile coders, loops that bring one's own
voice back, silence suppression, G.711, and last the packets that the gateway never gets.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streamer.audio.codec import SAMPLE_RATE, Encoding, Samples
from train.telephone.bands import Handset, TrunkBand
from train.telephone.codecs import AMR_RATES, G711, Amr, Gsm, amr_available
from train.telephone.echo import FarEndEcho, TalkerEcho
from train.telephone.effect import Effect, Parameter, TalkerSource
from train.telephone.level import Clipping, Drift, Level
from train.telephone.noise import (
    Babble,
    Background,
    ComfortNoise,
    Music,
    Noise,
    Recording,
    recordings_in,
)
from train.telephone.packets import Concealment, PacketLoss
from train.telephone.room import ROOMS, Room
from train.telephone.settings import Bounds, ChannelSettings
from train.telephone.tones import RING_BACK, Dtmf, EdgeTone, RingBack

Effects = Iterator[Effect]
SHORTEST_RING = 0.1
"""Seconds; less of a ring-back tone than this is a click."""


@dataclass(frozen=True)
class Plan:
    """The channel of one call, drawn but for the noise and the losses themselves.

    Attributes:
        effects: in the order in which they are applied.
    """

    effects: tuple[Effect, ...]

    def __call__(self, samples: Samples, random: np.random.Generator) -> Samples:
        """Apply all effects to int16 [n] at 8 kHz."""
        for effect in self.effects:
            samples = effect(samples, random)
        return samples

    @property
    def lead(self) -> int:
        """Samples that tones put before the speech: where the clean twin begins."""
        return sum(effect.lead for effect in self.effects if isinstance(effect, EdgeTone))

    def describe(self) -> list[dict[str, Parameter]]:
        """Name and drawn parameters of every effect, as JSON values."""
        return [{"effect": effect.name, **effect.parameters()} for effect in self.effects]


class TelephoneChannel:
    """Draws a channel for each call and sends speech through it.

    Args:
        settings: shares and ranges.
        babble: gives other talkers; None leaves out babble and the other party's echo.

    Raises:
        ValueError: a folder of recordings without audio, named.

    Warns:
        RuntimeWarning: ffmpeg has no AMR-NB; GSM 06.10 takes its share.
    """

    def __init__(self, settings: ChannelSettings, *, babble: TalkerSource | None = None) -> None:
        self.settings = settings
        self._babble = babble
        self._noises = recordings_in(settings.noise, "noise") if settings.noise else ()
        self._pieces = recordings_in(settings.music, "music") if settings.music else ()
        if settings.amr_share > 0 and not amr_available():
            warnings.warn(
                "PyAV's ffmpeg has no AMR-NB: GSM 06.10 takes its share",
                RuntimeWarning,
                stacklevel=2,
            )

    def __call__(self, speech: Samples, random: np.random.Generator) -> Samples:
        """Speech as one randomly drawn channel delivers it.

        Args:
            speech: int16 [n] at 8 kHz, any n.
            random: the only source of chance; the same state gives the same output anywhere.

        Returns:
            int16 [m] at 8 kHz, aligned with the speech; m > n only with tones at the edges.
        """
        return self.draw(random, len(speech))(speech, random)

    def draw(self, random: np.random.Generator, n: int) -> Plan:
        """The channel of one call of n samples; the same state of ``random`` draws the same."""
        return Plan((*self._at_the_talker(random), *self._on_the_line(random, n)))

    def _at_the_talker(self, random: np.random.Generator) -> Effects:
        s = self.settings
        if random.random() < s.level_share:
            # Recordings differ by 40 dB; what is rounded to 16 bits next should not be faint.
            yield Level()
        if random.random() < s.room_share:
            hands_free = random.random() < s.hands_free
            drr_db = _uniform(random, s.hands_free_drr_db if hands_free else s.handset_drr_db)
            yield Room(index=int(random.integers(ROOMS)), drr_db=drr_db)
        yield from self._background(random)
        if random.random() < s.handset_share:
            yield Handset(
                low_cut=_uniform(random, s.handset_low_cut),
                tilt_db=_uniform(random, s.handset_tilt_db),
                presence_db=_uniform(random, s.handset_presence_db),
                presence_hz=_uniform(random, s.handset_presence_hz),
            )
        if random.random() < s.clipping_share:
            yield Clipping(_uniform(random, s.overdrive_db), soft=bool(random.random() < 0.5))
        if random.random() < s.drift_share:
            yield Drift(_uniform(random, s.drift_db), _uniform(random, s.drift_seconds))

    def _background(self, random: np.random.Generator) -> Effects:
        s = self.settings
        if random.random() < s.noise_share:
            snr_db = _uniform(random, s.noise_snr_db)
            if self._noises and random.random() < s.recorded:
                yield Recording(self._noises[int(random.integers(len(self._noises)))], snr_db)
            else:
                kinds = tuple(Background)
                kind = kinds[int(random.integers(len(kinds)))]
                electrical = kind in (Background.LINE, Background.HUM)
                yield Noise(kind, _uniform(random, s.line_snr_db) if electrical else snr_db)
        if self._babble is not None and random.random() < s.babble_share:
            talkers = int(random.integers(*s.babble_talkers, endpoint=True))
            yield Babble(self._babble, talkers, _uniform(random, s.babble_snr_db))
        if random.random() < s.music_share:
            snr_db = _uniform(random, s.music_snr_db)
            if self._pieces and random.random() < s.recorded:
                yield Recording(self._pieces[int(random.integers(len(self._pieces)))], snr_db)
            else:
                yield Music(snr_db)

    def _on_the_line(self, random: np.random.Generator, n: int) -> Effects:
        s = self.settings
        if self._babble is not None and random.random() < s.far_end_echo_share:
            yield FarEndEcho(self._babble, _uniform(random, s.far_end_loss_db))
        if random.random() < s.band_share:
            # Tens of hertz, so that filters are found again: designing costs more than filtering.
            low = round(_uniform(random, s.band_low), -1)
            high = round(_uniform(random, s.band_high), -1)
            yield TrunkBand(low, high, order=int(random.integers(4, 7)))
        if random.random() < s.level_share:
            yield Level(_uniform(random, s.level_db))
        yield from self._tones(random, n)
        yield from self._mobile(random)
        if random.random() < s.talker_echo_share:
            yield TalkerEcho(
                _uniform(random, s.talker_delay_ms), _uniform(random, s.talker_loss_db)
            )
        if random.random() < s.comfort_noise_share:
            yield ComfortNoise(_uniform(random, s.comfort_noise_db), random.uniform(0, 1.5))
        if random.random() < s.g711_share:
            yield G711(Encoding.MULAW if random.random() < s.mulaw else Encoding.ALAW)
        if random.random() < s.loss_share:
            silence = random.random() < s.loss_silence
            yield PacketLoss(
                rate=_uniform(random, s.loss_rate),
                burst=_uniform(random, s.loss_burst),
                density=_uniform(random, s.loss_density),
                concealment=Concealment.SILENCE if silence else Concealment.REPEAT,
            )

    def _tones(self, random: np.random.Generator, n: int) -> Effects:
        s = self.settings
        # A tone that outlasts the speech would teach the tone.
        longest = n / SAMPLE_RATE / 2
        if random.random() < s.dtmf_share:
            on, off = random.uniform(0.05, 0.25), random.uniform(0.05, 0.25)
            seconds = min(_uniform(random, s.tone_seconds), longest)
            keys = random.choice(list("0123456789*#"), size=int((seconds + off) / (on + off)))
            if len(keys):
                yield Dtmf(
                    before=bool(random.random() < 0.5),
                    level_db=_uniform(random, s.tone_level_db),
                    pause=random.uniform(0.05, 0.4),
                    digits="".join(keys.tolist()),
                    on=on,
                    off=off,
                    twist_db=random.uniform(0, 4),
                )
        if random.random() < s.ring_back_share:
            countries = tuple(RING_BACK)
            seconds = min(_uniform(random, s.tone_seconds), longest)
            if seconds >= SHORTEST_RING:
                yield RingBack(
                    before=True,
                    level_db=_uniform(random, s.tone_level_db),
                    pause=random.uniform(0.05, 0.4),
                    country=countries[int(random.integers(len(countries)))],
                    seconds=seconds,
                )

    def _mobile(self, random: np.random.Generator) -> Effects:
        s = self.settings
        if random.random() >= s.amr_share + s.gsm_share:
            return
        yield self._mobile_coder(random)
        if random.random() < s.tandem:
            # Between two mobile networks a call is G.711.
            yield G711(Encoding.MULAW if random.random() < s.mulaw else Encoding.ALAW)
            yield self._mobile_coder(random)

    def _mobile_coder(self, random: np.random.Generator) -> Effect:
        s = self.settings
        is_amr = random.random() < s.amr_share / (s.amr_share + s.gsm_share)
        rate = AMR_RATES[int(random.integers(len(AMR_RATES)))]
        dtx = bool(random.random() < s.amr_dtx)
        return Amr(rate, dtx) if is_amr and amr_available() else Gsm()


def _uniform(random: np.random.Generator, bounds: Bounds) -> float:
    return float(random.uniform(*bounds))
