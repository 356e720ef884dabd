"""Requests and statuses."""

import itertools

import grpc

from streamer.rpc import voicecohort_pb2 as pb

RATE = 8000
TASKS = ("gender", "age_group", "age_band")
Code = grpc.StatusCode
OK = (Code.OK, "")
_numbers = itertools.count(1)


def seconds(duration):
    return duration.ToTimedelta().total_seconds()


def unique():
    """A call id to find again in the log."""
    return f"call-{next(_numbers)}"


SILENCE = b"\xff" * 800
IGNORED = pb.ChannelConfig(ignored=True)


def config(**fields):
    good = {"encoding": pb.AUDIO_ENCODING_MULAW, "sample_rate": 8000}
    return pb.StreamClassifyRequest(config=pb.StreamConfig(**(good | fields)))


def sound(sequence, data=SILENCE, start_sample=None):
    return pb.StreamClassifyRequest(
        audio=pb.Audio(sequence=sequence, data=data, start_sample=start_sample)
    )


def control(action, *channels):
    empty = {action: getattr(pb, action.capitalize())()} if action else {}
    return pb.StreamClassifyRequest(control=pb.Control(channels=channels, **empty))


INVALID, FAILED = Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION
EXHAUSTED = Code.RESOURCE_EXHAUSTED
LINEAR = config(encoding=pb.AUDIO_ENCODING_LINEAR16)
