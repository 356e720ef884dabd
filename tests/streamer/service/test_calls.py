"""The service over real gRPC: good calls, loss, control."""

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from streamer.audio.codec import Encoding, encode
from streamer.rpc import voicecohort_pb2 as pb
from tests.streamer.wire import OK, RATE, TASKS, config, control, seconds, sound, unique


def test_good_call(line, request_of, student, audio, voices):
    samples = voices.caller[4 * RATE : 9 * RATE]
    data = encode(samples, Encoding.MULAW)
    call_id = unique()
    outcome = line.run(
        request_of.config(call_id=call_id),
        *(request_of.audio(n, c) for n, c in enumerate(audio.cut(data, [800]), start=10)),
    )
    assert (outcome.code, outcome.details) == OK
    assert [r.WhichOneof("message") for r in outcome.responses[:1]] == ["started"]
    (started,) = outcome.of("started")
    assert started.call_id == call_id
    assert started.model.model_id == student.metadata.model_id
    assert started.limits.max_chunk == Duration(seconds=10)
    assert started.limits.idle_timeout == Duration(seconds=300)
    assert not started.limits.checkpoints
    assert started.update_interval == Duration(nanos=500_000_000)
    final = outcome.finals[0]
    assert (final.channel, final.sequence, seconds(final.audio_time)) == (0, 59, 5.0)
    assert seconds(final.lost_time) == 0.0
    posteriors, speech_samples = audio.direct(student, samples)
    assert seconds(final.speech_time) == speech_samples / RATE > 2
    for task, expected in zip(TASKS, posteriors, strict=True):
        got = getattr(final, task).posterior
        assert sum(got) == pytest.approx(1.0, abs=1e-5)
        curve = student.metadata.calibration[task]
        if set(curve.temperature) == {1.0}:  # a trained student brings its own temperatures
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
        assert int(np.argmax(got)) == int(np.argmax(expected))
        assert getattr(final, task).confidence == pytest.approx(max(got))
    running = outcome.predictions[:-1]
    assert all(seconds(p.audio_time) % 0.5 == 0 for p in running)
    assert all(p.sequence == 9 + round(seconds(p.audio_time) / 0.1) for p in running)
    times = [seconds(p.audio_time) for p in running]
    assert times == sorted(set(times))


def test_every_interval_has_a_prediction(line, request_of, speech, audio):
    """Sent one interval at a time, each is answered on the grid, to the last chunk's number."""
    call = line.open(request_of.config(update_interval=Duration(nanos=200_000_000)))
    assert call.read().started.update_interval == Duration(nanos=200_000_000)
    chunks = audio.cut(speech, [800])
    for number in range(0, len(chunks), 2):
        call.send(*(request_of.audio(n + 1, chunks[n]) for n in (number, number + 1)))
        prediction = call.read().prediction
        assert prediction.sequence == number + 2
        assert seconds(prediction.audio_time) == pytest.approx((number + 2) * 0.1)
        assert not prediction.final
    call.half_close()
    (final,) = call.outcome().predictions
    assert final.final
    assert (final.sequence, seconds(final.audio_time)) == (20, 2.0)


@pytest.mark.parametrize("channels", [0, 1, 2])
def test_zero_audio_is_one_uniform_final_per_channel(line, request_of, channels):
    outcome = line.run(request_of.config(channels=[pb.ChannelConfig()] * channels))
    assert (outcome.code, outcome.details) == OK
    finals = outcome.predictions
    assert [p.channel for p in finals] == list(range(max(1, channels)))
    for prediction in finals:
        assert prediction.final
        assert (prediction.sequence, seconds(prediction.audio_time)) == (0, 0.0)
        for name in TASKS:
            task = getattr(prediction, name)
            classes = len(task.posterior)
            assert list(task.posterior) == pytest.approx([1 / classes] * classes)
            assert (task.label, task.undecided) == ("", pb.UNDECIDED_REASON_NO_SPEECH)


def test_min_speech_can_only_raise(line, request_of, speech, student, assert_same_prediction):
    own = student.metadata.decision["gender"].min_speech_seconds
    lower = line.run(request_of.config(min_speech=Duration()), request_of.audio(1, speech))
    default = line.run(request_of.config(), request_of.audio(1, speech))
    higher = line.run(
        request_of.config(min_speech=Duration(seconds=30)), request_of.audio(1, speech)
    )
    for outcome, least in ((lower, own), (default, own), (higher, 30.0)):
        (started,) = outcome.of("started")
        assert seconds(started.gender.min_speech) == pytest.approx(least)
    assert_same_prediction(lower.finals[0], default.finals[0])
    for name in TASKS:
        task = getattr(higher.finals[0], name)
        assert (task.label, task.undecided) == ("", pb.UNDECIDED_REASON_LITTLE_SPEECH)
        expected = getattr(default.finals[0], name).posterior
        np.testing.assert_allclose(task.posterior, expected, rtol=0, atol=1e-5)


def test_gaps_duplicates_and_finish(line, neighbour, speech, assert_same_prediction):
    """A duplicate and messages after the finish change nothing; a gap is counted."""
    first, second = speech[:RATE], speech[RATE:]
    complete = line.run(config(), sound(3, first), sound(4, second))
    messages = [sound(3, first, 4_000), sound(3, first), sound(4, second, 20_000)]
    with neighbour.undisturbed():
        call = line.open(config(), *messages, control("finish"), sound(5, speech), sound(1, b""))
        outcome = call.outcome()  # the stream ends without a half-close
    assert (outcome.code, outcome.details) == (complete.code, complete.details) == OK
    final, expected = outcome.finals[0], complete.finals[0]
    assert (final.sequence, seconds(final.audio_time), seconds(final.lost_time)) == (4, 3.5, 1.5)
    for field in ("audio_time", "lost_time"):
        getattr(final, field).CopyFrom(getattr(expected, field))
    assert_same_prediction(final, expected)


def test_discard_hold_and_resume(line, request_of, speech, voices, assert_same_prediction):
    music = encode(voices.agent[9 * RATE : 11 * RATE], Encoding.MULAW)
    outcome = line.run(
        config(),
        sound(1, music),
        request_of.control("discard"),
        request_of.control("hold"),
        sound(2, music),
        request_of.control("resume", 0),
        sound(3, speech),
        request_of.control("finish"),
    )
    alone = line.run(config(), sound(1, speech)).finals[0]
    assert (outcome.code, outcome.details) == OK
    final = outcome.finals[0]
    assert seconds(final.audio_time) == 6.0
    assert final.speech_time == alone.speech_time
    final.audio_time.CopyFrom(alone.audio_time)
    assert_same_prediction(final, alone)


def test_control_of_one_channel_leaves_the_other(
    line, request_of, demo_call, assert_same_prediction
):
    two = [pb.ChannelConfig()] * 2
    data = demo_call.data[: 2 * 6 * RATE]
    plain = line.run(config(channels=two), sound(1, data)).finals
    outcome = line.run(
        config(channels=two), sound(1, data), request_of.control("discard", 1)
    ).finals
    assert_same_prediction(outcome[0], plain[0])
    assert seconds(outcome[1].speech_time) == 0.0
    assert outcome[1].gender.undecided == pb.UNDECIDED_REASON_NO_SPEECH
