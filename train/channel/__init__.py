"""The telephone channel: clean speech in, what a call centre's gateway would hear out.

    channel = TelephoneChannel(ChannelSettings.full(), babble=other_talkers)
    degraded = channel(clean, np.random.default_rng(seed))

The clean utterance stays as it is, so that a teacher can hear it while the student hears its
degraded twin. Every effect is also usable alone: ``Gsm()(samples, random)``.
"""

from __future__ import annotations

from train.channel.bands import Handset, TrunkBand
from train.channel.chain import Plan, TelephoneChannel
from train.channel.codecs import AMR_RATES, G711, Amr, Gsm, amr_available
from train.channel.echo import FarEndEcho, TalkerEcho
from train.channel.effect import Effect, Parameter, TalkerSource
from train.channel.level import Clipping, Drift, Level
from train.channel.measure import active_level_db, active_power, mix_at_snr
from train.channel.noise import Babble, Background, ComfortNoise, Music, Noise, Recording
from train.channel.packets import Concealment, PacketLoss, conceal
from train.channel.room import ROOMS, Room, reverberation_time, room_response
from train.channel.settings import EFFECTS, PRESETS, ChannelSettings
from train.channel.tones import Dtmf, EdgeTone, RingBack

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
