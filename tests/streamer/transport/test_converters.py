import dataclasses

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from streamer.audio.codec import Encoding
from streamer.errors import FailedPrecondition, InvalidArgument
from streamer.inference.decision import Decider
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.events import Update
from streamer.session.session import CallConfig
from streamer.transport import converters

IGNORED = pb.ChannelConfig(ignored=True)
CHECKPOINT_INTERVALS = [
    Duration(),
    Duration(nanos=999_999_999),
    Duration(seconds=601),
    Duration(seconds=-5),
]


def config(**fields):
    good = {"call_id": "c", "encoding": pb.AUDIO_ENCODING_ALAW, "sample_rate": 16000}
    return pb.StreamConfig(**(good | fields))


def read(message, **options):
    return converters.call_config(message, update_seconds=0.5, max_chunk_seconds=10.0, **options)


@pytest.fixture(scope="module")
def metadata(make_student):
    return make_student().metadata


def test_config_with_defaults():
    assert read(config()) == CallConfig(
        call_id="c",
        encoding=Encoding.ALAW,
        sample_rate=16000,
        ignored=(False,),
        update_seconds=0.5,
        min_speech_seconds=0.0,
        speech_events=False,
        max_chunk_seconds=10.0,
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"encoding": pb.AUDIO_ENCODING_MULAW}, {"encoding": Encoding.MULAW}),
        (
            {"encoding": pb.AUDIO_ENCODING_LINEAR16, "sample_rate": 8000},
            {"encoding": Encoding.LINEAR16, "sample_rate": 8000},
        ),
        (
            {"channels": [pb.ChannelConfig(role=pb.CHANNEL_ROLE_CALLER), IGNORED]},
            {"ignored": (False, True)},
        ),
        ({"update_interval": Duration(nanos=100_000_000)}, {"update_seconds": 0.1}),
        ({"update_interval": Duration(seconds=60)}, {"update_seconds": 60.0}),
        ({"min_speech": Duration(seconds=60)}, {"min_speech_seconds": 60.0}),
        ({"min_speech": Duration()}, {"min_speech_seconds": 0.0}),
        ({"speech_events": True}, {"speech_events": True}),
        ({"call_id": "x" * 128}, {"call_id": "x" * 128}),
        ({}, {"checkpoint_seconds": None}),
        ({"checkpoint_interval": Duration(seconds=1)}, {"checkpoint_seconds": 1}),
        ({"checkpoint_interval": Duration(seconds=600)}, {"checkpoint_seconds": 600}),
    ],
)
def test_field_of_the_config_is_read(fields, expected):
    call = read(config(**fields), checkpoints=True)
    assert call == dataclasses.replace(read(config(), checkpoints=True), **expected)


def test_nameless_calls_get_names_of_their_own():
    names = {read(config(call_id="")).call_id for _ in range(20)}
    assert len(names) == 20
    assert all(0 < len(name) <= 128 for name in names)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoding": 0}, "config.encoding: 0 is not valid; one of AUDIO_ENCODING_MULAW, "),
        ({"encoding": 99}, "config.encoding: 99 is not valid; one of "),
        ({"sample_rate": 0}, "config.sample_rate: 0 is not valid; 8000 or 16000 Hz"),
        ({"sample_rate": 44100}, "config.sample_rate: 44100 is not valid; 8000 or 16000 Hz"),
        (
            {"channels": [pb.ChannelConfig()] * 3},
            "config.channels: 3 channels is not valid; 1 or 2",
        ),
        ({"channels": [IGNORED]}, "config.channels: every channel ignored is not valid; "),
        ({"channels": [IGNORED] * 2}, "config.channels: every channel ignored is not valid; "),
        ({"call_id": "naïve"}, "config.call_id: 'naïve' is not valid; at most 128 printable"),
        ({"call_id": "a\nb"}, "config.call_id: 'a\\nb' is not valid; "),
        ({"call_id": "x" * 129}, f"config.call_id: '{'x' * 32}' is not valid; "),
        (
            {"update_interval": Duration(nanos=99_000_000)},
            "config.update_interval: 0.099 s is not valid; 0.1 to 60 s",
        ),
        ({"update_interval": Duration()}, "config.update_interval: 0 s is not valid; "),
        (
            {"update_interval": Duration(seconds=60, nanos=1_000_000)},
            "config.update_interval: 60.001 s is not valid; 0.1 to 60 s",
        ),
        ({"min_speech": Duration(seconds=-1)}, "config.min_speech: -1 s is not valid; 0 to 60 s"),
        ({"min_speech": Duration(seconds=61)}, "config.min_speech: 61 s is not valid; 0 to 60 s"),
        *(
            ({"checkpoint_interval": interval}, "config.checkpoint_interval: ")
            for interval in CHECKPOINT_INTERVALS
        ),
    ],
)
def test_bad_config_is_refused(fields, message):
    with pytest.raises(InvalidArgument) as caught:
        read(config(**fields), checkpoints=True)
    assert str(caught.value).startswith(message)
    if "checkpoint_interval" in fields:
        assert str(caught.value).endswith("; 1 to 600 s")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("checkpoint_interval", Duration(seconds=5)),
        ("checkpoint_interval", Duration()),
        ("resume_from", b"x"),
    ],
)
def test_checkpoints_can_be_off(field, value):
    with pytest.raises(FailedPrecondition) as caught:
        read(config(**{field: value}))
    assert str(caught.value) == f"config.{field}: this server has no checkpoints"


@given(st.integers(0, 10**9 * 90_000))
def test_duration_is_exact_to_the_nanosecond_for_a_day(nanoseconds):
    made = converters.duration(nanoseconds / 1e9)
    assert abs(made.ToNanoseconds() - nanoseconds) <= 1 + nanoseconds * 2**-52
    assert 0 <= made.nanos < 10**9


@pytest.mark.parametrize("seconds", [0.9999999999, 7.9999999996])
def test_duration_carries_into_seconds(seconds):
    made = converters.duration(seconds)
    assert (made.seconds, made.nanos) == (round(seconds), 0)


def test_started_has_model_labels_and_limits(metadata):
    call = CallConfig("name", Encoding.MULAW, 8000, update_seconds=0.25, min_speech_seconds=2.5)
    started = converters.started(call, metadata, idle_timeout=12.5).started
    assert started.call_id == "name"
    assert (started.model.model_id, started.model.contract) == ("fake-1", 1)
    assert started.model.block == Duration(nanos=160_000_000)
    assert list(started.gender.labels) == ["female", "male"]
    assert list(started.age_group.labels) == ["young", "middle", "senior"]
    assert list(started.age_band.labels) == ["teens", "20s", "40s", "60s"]
    assert list(started.age_band.parents) == [0, 0, 1, 2]
    assert list(started.gender.parents) == list(started.age_group.parents) == []
    for task in (started.gender, started.age_group, started.age_band):
        assert task.min_speech == Duration(seconds=2, nanos=500_000_000)
        assert task.min_confidence == pytest.approx(0.4)
    assert started.limits == pb.Limits(
        max_chunk=Duration(seconds=10),
        idle_timeout=Duration(seconds=12, nanos=500_000_000),
        checkpoints=False,
    )
    assert started.update_interval == Duration(nanos=250_000_000)
    call = CallConfig("name", Encoding.MULAW, 8000, min_speech_seconds=0.2)
    started = converters.started(call, metadata, idle_timeout=1.0).started
    assert started.gender.min_speech == Duration(seconds=1), "the model's own minimum is higher"


def test_prediction_carries_update_and_decisions(metadata):
    posteriors = ([0.9, 0.1], [0.2, 0.5, 0.3], [0.3, 0.3, 0.3, 0.1])
    update = Update(1, 2**63, 90061.000125, 12.5, 0.75, posteriors, final=True)
    prediction = converters.prediction(update, Decider(metadata), 0.0).prediction
    assert (prediction.channel, prediction.sequence, prediction.final) == (1, 2**63, True)
    assert prediction.audio_time == Duration(seconds=90061, nanos=125_000)
    assert prediction.speech_time == Duration(seconds=12, nanos=500_000_000)
    assert prediction.lost_time == Duration(nanos=750_000_000)
    assert list(prediction.gender.posterior) == pytest.approx([0.9, 0.1])
    assert prediction.gender.label == "female"
    assert prediction.gender.confidence == pytest.approx(0.9)
    assert prediction.gender.undecided == pb.UNDECIDED_REASON_UNSPECIFIED
    assert prediction.age_group.label == "middle"
    assert prediction.age_band.label == ""
    assert prediction.age_band.undecided == pb.UNDECIDED_REASON_LOW_CONFIDENCE


@pytest.mark.parametrize(
    ("posteriors", "speech", "min_speech", "reason"),
    [
        (None, 0.0, 0.0, pb.UNDECIDED_REASON_NO_SPEECH),
        (([1, 0], [1, 0, 0], [1, 0, 0, 0]), 0.5, 0.0, pb.UNDECIDED_REASON_LITTLE_SPEECH),
        (([1, 0], [1, 0, 0], [1, 0, 0, 0]), 1.5, 2.0, pb.UNDECIDED_REASON_LITTLE_SPEECH),
        (([1, 0], [1, 0, 0], [1, 0, 0, 0]), 1.5, 0.5, pb.UNDECIDED_REASON_UNSPECIFIED),
    ],
)
def test_prediction_has_the_reason(metadata, posteriors, speech, min_speech, reason):
    update = Update(0, 1, 1.0, speech, 0.0, posteriors, final=False)
    prediction = converters.prediction(update, Decider(metadata), min_speech).prediction
    for task in (prediction.gender, prediction.age_group, prediction.age_band):
        assert task.undecided == reason
        assert bool(task.label) == (reason == pb.UNDECIDED_REASON_UNSPECIFIED)
        assert sum(task.posterior) == pytest.approx(1.0)


def test_decision_is_reused_only_without_new_speech(metadata):
    class Counting(Decider):
        count = 0

        def decide(self, *args):
            self.count += 1
            return super().decide(*args)

    posteriors = ([0.9, 0.1], [0.2, 0.5, 0.3], [0.3, 0.3, 0.3, 0.1])
    first = Update(0, 5, 0.5, 1.5, 0.25, posteriors, final=False)
    quiet = first._replace(sequence=10, audio_seconds=1.0, lost_seconds=0.0, final=True)
    for later, count in (
        (quiet, 0),
        (quiet._replace(speech_seconds=0.5), 1),
        (quiet._replace(posteriors=([0.8, 0.2], *posteriors[1:])), 1),
        (quiet._replace(posteriors=None, speech_seconds=0.0), 1),
    ):
        decider = Counting(metadata)
        previous = (first, converters.prediction(first, Decider(metadata), 0.0))
        kept = previous[1].SerializeToString()
        again = converters.prediction(later, decider, 0.0, previous)
        assert decider.count == count
        assert again == converters.prediction(later, Decider(metadata), 0.0)
        assert previous[1].SerializeToString() == kept
    never = Update(0, 5, 0.5, 0.0, 0.0, None, final=False)
    previous = (never, converters.prediction(never, Decider(metadata), 0.0))
    assert converters.prediction(never, Counting(metadata), 0.0, previous) == previous[1]


def test_speech_event():
    event = converters.speech_event(1, started=True, seconds=2.5).speech
    assert (event.channel, event.started) == (1, True)
    assert event.audio_time == Duration(seconds=2, nanos=500_000_000)
