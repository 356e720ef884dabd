"""How often each effect of the telephone channel occurs, and how strong it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

EFFECTS = (
    "room",
    "noise",
    "babble",
    "music",
    "handset",
    "clipping",
    "drift",
    "far_end_echo",
    "band",
    "level",
    "dtmf",
    "ring_back",
    "amr",
    "gsm",
    "talker_echo",
    "comfort_noise",
    "g711",
    "loss",
)
"""Effects in physical order, from the talker's mouth to the gateway; each has a field
``<effect>_share`` in :class:`ChannelSettings`."""


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= bounds[1]:
        raise ValueError(f"{bounds} does not ascend")
    return bounds


Share = Annotated[float, Field(ge=0, le=1)]
"""Probability."""
Bounds = Annotated[tuple[float, float], AfterValidator(_ascending)]
"""Lowest and highest value; drawn uniformly in between."""


class ChannelSettings(BaseModel):
    """Shares and ranges of every effect; the defaults are the preset "full".

    A share is the probability that a call has the effect; ranges are drawn from uniformly. What
    each effect is, why, and which range is real, stands with its class.

    Raises:
        pydantic.ValidationError: names the field and its value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    room_share: Share = 0.35
    """calls with audible reverberation"""
    hands_free: Share = 0.35
    """of those, hands-free rather than a handset at the mouth"""
    handset_drr_db: Bounds = (12.0, 30.0)
    """direct over reverberant sound of a handset, dB"""
    hands_free_drr_db: Bounds = (-3.0, 10.0)
    """the same of a hands-free set, dB"""

    noise_share: Share = 0.5
    """calls with background noise"""
    noise_snr_db: Bounds = (8.0, 35.0)
    """level of active speech above the background: street, office, car, recordings; dB"""
    line_snr_db: Bounds = (20.0, 45.0)
    """active speech over hiss and hum of the line, dB"""
    noise: Path | None = None
    """folder of recorded backgrounds; without one all are synthesised"""
    babble_share: Share = 0.12
    """calls with other people talking in the background; needs a source of talkers"""
    babble_talkers: tuple[int, int] = (1, 6)
    """how many of them, both ends included; each costs as much as reading an utterance"""
    babble_snr_db: Bounds = (5.0, 25.0)
    """active speech over their sum, dB"""
    music_share: Share = 0.05
    """calls with music in the background"""
    music_snr_db: Bounds = (5.0, 25.0)
    """active speech over music, dB"""
    music: Path | None = None
    """folder of recorded music; without one all is synthesised"""
    recorded: Share = 0.7
    """of noise and of music, taken from a folder where one is given"""

    handset_share: Share = 0.6
    """calls from a set whose response is not flat"""
    handset_low_cut: Bounds = (60.0, 400.0)
    """its high-pass, Hz"""
    handset_tilt_db: Bounds = (-6.0, 10.0)
    """its rise from the bottom to the top, dB"""
    handset_presence_db: Bounds = (-3.0, 8.0)
    """its resonance, dB"""
    handset_presence_hz: Bounds = (1500.0, 3300.0)
    """where that sits, Hz"""
    clipping_share: Share = 0.1
    """calls that are overdriven"""
    overdrive_db: Bounds = (1.0, 15.0)
    """peak of the speech over the limit, dB"""
    drift_share: Share = 0.15
    """calls whose level wanders"""
    drift_db: Bounds = (1.0, 5.0)
    """standard deviation of the wandering, dB"""
    drift_seconds: Bounds = (0.5, 3.0)
    """time between independent levels, s"""
    level_share: Share = 1.0
    """calls brought to a level drawn anew; the others keep the recording's"""
    level_db: Bounds = (-38.0, -14.0)
    """active speech level, dB relative to full scale"""

    far_end_echo_share: Share = 0.08
    """calls into which the other party leaks; needs a source of talkers"""
    far_end_loss_db: Bounds = (12.0, 45.0)
    """echo return loss, dB"""
    talker_echo_share: Share = 0.06
    """calls with an echo of one's own voice"""
    talker_delay_ms: Bounds = (15.0, 300.0)
    """its delay, ms"""
    talker_loss_db: Bounds = (10.0, 40.0)
    """its loss, dB"""

    dtmf_share: Share = 0.03
    """calls with keys pressed before or after the speech"""
    ring_back_share: Share = 0.02
    """calls with ringing before the speech"""
    tone_seconds: Bounds = (0.2, 2.0)
    """length of a tone at an edge, s; never more than half as long as the speech"""
    tone_level_db: Bounds = (-27.0, -12.0)
    """of each frequency, dB relative to full scale"""

    band_share: Share = 0.65
    """calls over a band-limited trunk"""
    band_low: Bounds = (180.0, 350.0)
    """lower edge, Hz"""
    band_high: Bounds = (3200.0, 3600.0)
    """upper edge, Hz"""
    amr_share: Share = 0.15
    """mobile calls coded in AMR-NB; in GSM 06.10 where ffmpeg has no AMR-NB"""
    amr_dtx: Share = 0.7
    """of those, with discontinuous transmission, which costs half as much"""
    gsm_share: Share = 0.06
    """calls coded in GSM 06.10"""
    tandem: Share = 0.08
    """of the mobile calls, coded twice: forwarded to a mobile or through a GSM gateway"""
    comfort_noise_share: Share = 0.08
    """calls with silence suppression"""
    comfort_noise_db: Bounds = (-75.0, -50.0)
    """level of what is played in pauses, dB relative to full scale"""
    g711_share: Share = 0.95
    """calls that reach the gateway in G.711"""
    mulaw: Share = 0.5
    """of those, in mu-law rather than A-law"""

    loss_share: Share = 0.25
    """calls that lose packets"""
    loss_rate: Bounds = (0.005, 0.12)
    """of the packets, in the long run"""
    loss_burst: Bounds = (1.2, 5.0)
    """mean length of a bad stretch, packets of 20 ms"""
    loss_density: Bounds = (0.5, 1.0)
    """lost within a bad stretch, share of the packets"""
    loss_silence: Share = 0.25
    """of those calls, with silence in the gaps rather than concealment"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.amr_share + self.gsm_share > 1:
            raise ValueError(f"amr_share {self.amr_share} + gsm_share {self.gsm_share} exceed 1")
        fewest, most = self.babble_talkers
        if not 1 <= fewest <= most:
            raise ValueError(f"babble_talkers {self.babble_talkers} does not ascend from 1 or more")
        if not 0 < self.loss_rate[0] <= self.loss_rate[1] < self.loss_density[0]:
            raise ValueError(
                f"loss_rate {self.loss_rate} not between 0 and loss_density {self.loss_density}"
            )
        worst = self.loss_rate[1] / self.loss_density[0]
        if self.loss_density[1] > 1 or worst / (1 - worst) > self.loss_burst[0]:
            raise ValueError(
                f"no chain loses {self.loss_rate} in bursts of {self.loss_burst} packets of "
                f"density {self.loss_density}"
            )
        return self

    @classmethod
    def clean(cls) -> Self:
        """8 kHz and nothing else."""
        return cls.model_validate({f"{effect}_share": 0.0 for effect in EFFECTS})

    @classmethod
    def simple(cls) -> Self:
        """Band limit in six calls of ten, a level, G.711: the least that is a telephone."""
        return cls.clean().model_copy(
            update={"band_share": 0.6, "level_share": 1.0, "g711_share": 1.0}
        )

    @classmethod
    def full(cls) -> Self:
        """Everything, in the shares a call centre may meet, mobile calls fewer (AMR is dear)."""
        return cls()

    def only(self, effect: str) -> Self:
        """These ranges, but every call has just this one effect, a name of :data:`EFFECTS`."""
        if effect not in EFFECTS:
            raise ValueError(f"effect {effect!r}, not one of {EFFECTS}")
        shares = {f"{name}_share": float(name == effect) for name in EFFECTS}
        return self.model_copy(update={**shares, "tandem": 0.0})


PRESETS = {
    "clean": ChannelSettings.clean(),
    "simple": ChannelSettings.simple(),
    "full": ChannelSettings.full(),
}
"""Settings by name."""
