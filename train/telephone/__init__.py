"""The telephone channel: clean speech in, what a call centre's gateway would hear out.

    channel = TelephoneChannel(ChannelSettings.full(), babble=other_talkers)
    degraded = channel(clean, np.random.default_rng(seed))

The clean utterance stays as it is, so that a teacher can use it while the student uses its
degraded twin. Every effect is also usable alone: ``Gsm()(samples, random)``.
"""

from __future__ import annotations

from train.telephone.bands import Handset, TrunkBand
from train.telephone.chain import Plan, TelephoneChannel
from train.telephone.codecs import AMR_RATES, G711, Amr, Gsm, amr_available
from train.telephone.echo import FarEndEcho, TalkerEcho
from train.telephone.effect import Effect, Parameter, TalkerSource
from train.telephone.level import Clipping, Drift, Level
from train.telephone.measure import active_level_db, active_power, mix_at_snr
from train.telephone.noise import Babble, Background, ComfortNoise, Music, Noise, Recording
from train.telephone.packets import Concealment, PacketLoss, conceal
from train.telephone.room import ROOMS, Room, reverberation_time, room_response
from train.telephone.settings import EFFECTS, PRESETS, ChannelSettings
from train.telephone.tones import Dtmf, EdgeTone, RingBack

__all__ = [
    "AMR_RATES",
    "EFFECTS",
    "G711",
    "PRESETS",
    "ROOMS",
    "Amr",
    "Babble",
    "Background",
    "ChannelSettings",
    "Clipping",
    "ComfortNoise",
    "Concealment",
    "Drift",
    "Dtmf",
    "EdgeTone",
    "Effect",
    "FarEndEcho",
    "Gsm",
    "Handset",
    "Level",
    "Music",
    "Noise",
    "PacketLoss",
    "Parameter",
    "Plan",
    "Recording",
    "RingBack",
    "Room",
    "TalkerEcho",
    "TalkerSource",
    "TelephoneChannel",
    "TrunkBand",
    "active_level_db",
    "active_power",
    "amr_available",
    "conceal",
    "mix_at_snr",
    "reverberation_time",
    "room_response",
]
