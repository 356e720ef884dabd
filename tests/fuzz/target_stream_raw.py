"""The service, fed with messages of arbitrary bytes, as far as protobuf can parse them."""

from __future__ import annotations

import gateway
import harness
from google.protobuf.message import DecodeError
from inputs import FuzzInput, pack

from streamer.rpc import voicecohort_pb2 as pb

MOST = 64
"""Messages of one input."""


def seeds() -> list[bytes]:
    """Good calls in every encoding, a control of every kind, and values at their limits."""
    return [pack([request.SerializeToString() for request in call]) for call in seed_calls()]


def seed_calls() -> list[list[pb.StreamClassifyRequest]]:
    """The calls of the seeds."""
    request = pb.StreamClassifyRequest
    chunk = harness.speech()[5]
    calls = []
    for encoding in (1, 2, 3):
        for rate in (8000, 16000):
            for channels in (0, 1, 2):
                config = pb.StreamConfig(
                    encoding=encoding,
                    sample_rate=rate,
                    channels=[
                        pb.ChannelConfig(role=1 + n, ignored=n == 1) for n in range(channels)
                    ],
                    speech_events=rate == 8000,
                )
                config.update_interval.FromMilliseconds(100)
                audio = [pb.Audio(sequence=n, data=chunk) for n in (1, 2, 2, 5)]
                audio.append(pb.Audio(sequence=6, data=chunk, start_sample=2**20))
                calls.append([request(config=config), *(request(audio=a) for a in audio)])
    controls = [
        pb.Control(discard=pb.Discard()),
        pb.Control(hold=pb.Hold(), channels=[0]),
        pb.Control(resume=pb.Resume()),
        pb.Control(finish=pb.Finish()),
    ]
    mixed = [request(control=control) for control in controls]
    calls.append([*calls[0][:3], *mixed])
    extreme = pb.StreamConfig(encoding=1, sample_rate=8000, call_id="x" * 128)
    extreme.min_speech.FromSeconds(60)
    extreme.update_interval.FromSeconds(60)
    extreme.checkpoint_interval.FromSeconds(5)
    extreme.resume_from = b"no checkpoint"
    calls.append([request(config=extreme), *calls[0][1:]])
    return calls


def run(data: bytes) -> None:
    """One input: messages, each behind its length."""
    fuzz_input = FuzzInput(data)
    script: list[gateway.Step] = []
    while fuzz_input.left and len(script) < MOST:
        try:
            script.append(pb.StreamClassifyRequest.FromString(fuzz_input.piece()))
        except DecodeError:
            script.append(gateway.Undecodable)
    harness.shared_harness().try_call(script)
