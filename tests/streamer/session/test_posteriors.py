"""Posteriors depend on the speech and on nothing else."""

import functools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamer.audio.codec import Encoding
from tests.streamer.session.formats import FORMATS, configured

RATE = 8000
chunk_sizes = st.lists(
    st.one_of(st.integers(1, 30), st.integers(1, 2000), st.integers(1, 5 * RATE)),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize(("encoding", "rate", "channels"), FORMATS)
def test_finals_are_a_plain_loop_over_the_speech(bench, audio, sides, encoding, rate, channels):
    data = audio.wire(sides[:channels], encoding, rate)
    frame = encoding.width * channels
    result = bench.play(
        audio.cut(data, [rate // 10], frame), **configured(encoding, rate, channels)
    )
    assert set(result.finals) == set(range(channels))
    for channel, samples in enumerate(audio.decoded(data, encoding, rate, channels)):
        posteriors, speech_samples = audio.direct(bench.student, samples)
        final = result.finals[channel]
        assert final.posteriors == tuple(posteriors)
        assert final.speech_seconds == speech_samples / RATE > 0.5
        assert final.audio_seconds == pytest.approx(3.0)
        assert final.lost_seconds == 0.0


@pytest.fixture(scope="module")
def uncut(bench, audio, sides):
    """By format: a call's bytes, the call in one chunk, the call in small ones, its config."""

    @functools.cache
    def play(encoding, rate, channels):
        config = configured(encoding, rate, channels, update_seconds=0.1, speech_events=True)
        data = audio.wire(sides[:channels], encoding, rate)
        fine = bench.session(**config)
        for sequence, chunk in enumerate(
            audio.cut(data, [rate // 50], encoding.width * channels), start=1
        ):
            fine.session.audio(sequence, chunk)
            bench.settle(fine)
        return data, bench.play([data], **config), bench.finish(fine), config

    return play


@pytest.mark.parametrize(("encoding", "rate", "channels"), FORMATS)
@given(sizes=chunk_sizes)
@example(sizes=[1])
def test_any_chunking_gives_the_same_posteriors(
    bench, audio, uncut, encoding, rate, channels, sizes
):
    data, one, fine, config = uncut(encoding, rate, channels)
    frame = encoding.width * channels
    many = bench.play(audio.cut(data, sizes, frame, most=300), **config)
    for channel, final in one.finals.items():
        assert many.finals[channel].posteriors == final.posteriors
        assert many.finals[channel].speech_seconds == final.speech_seconds > 0.5
    assert sorted(many.events) == sorted(one.events) != []
    common = many.course.keys() & fine.course.keys()
    assert all(many.course[point] == fine.course[point] for point in common)
    assert len(common) >= channels
    assert len(fine.course) >= 8, "nearly every block has an entry"


@settings(max_examples=4)
@given(sizes=chunk_sizes)
@example(sizes=[1])
@example(sizes=[5 * RATE])
def test_real_student_any_chunking(real_bench, audio, voices, sizes):
    samples = voices.caller[5 * RATE : 7 * RATE]
    data = audio.wire([samples], Encoding.MULAW)
    result = real_bench.play(audio.cut(data, sizes), update_seconds=0.1)
    posteriors, speech_samples = audio.direct(real_bench.student, samples)
    assert result.finals[0].speech_seconds == speech_samples / RATE
    for got, expected in zip(result.finals[0].posteriors, posteriors, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("encoding", "rate", "channels"), FORMATS)
def test_real_student_every_format(real_bench, audio, sides, encoding, rate, channels):
    data = audio.wire(sides[:channels], encoding, rate)
    frame = encoding.width * channels
    config = configured(encoding, rate, channels)
    result = real_bench.play(audio.cut(data, [37, 5000, 1, 811], frame), **config)
    for channel, samples in enumerate(audio.decoded(data, encoding, rate, channels)):
        posteriors, _ = audio.direct(real_bench.student, samples)
        for got, expected in zip(result.finals[channel].posteriors, posteriors, strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def interleaved(bench, calls, turns):
    """Play calls at once, chunk by chunk in the order of ``turns``, then what is left."""
    recorders = [bench.session(call_id=str(index)) for index in range(len(calls))]
    waiting = [list(enumerate(chunks, start=1)) for chunks in calls]
    rest = [index for index, chunks in enumerate(calls) for _ in chunks]
    for turn in (*turns, *rest):
        index = turn % len(calls)
        if waiting[index]:
            recorders[index].session.audio(*waiting[index].pop(0))
            if turn % 3 == 0:
                bench.pump()
    for recorder in recorders:
        recorder.session.finish()
    bench.wait(lambda: all(recorder.session.done for recorder in recorders))
    return [recorder.finals[0] for recorder in recorders]


@pytest.fixture(scope="module")
def crowd(audio, voices):
    """Five calls of different speech, in chunks of different sizes."""
    starts = [(voices.caller, 5), (voices.agent, 1), (voices.caller, 12), (voices.agent, 9)]
    signals = [side[start * RATE : (start + 2) * RATE] for side, start in starts]
    signals.append(np.zeros(2 * RATE, np.int16))
    return [
        audio.cut(audio.wire([signal], Encoding.MULAW), [size])
        for signal, size in zip(signals, (160, 400, 1111, 8000, 800), strict=True)
    ]


@given(turns=st.lists(st.integers(0, 999), max_size=80))
def test_calls_in_one_batch_are_independent(bench, crowd, turns):
    together = interleaved(bench, crowd, turns)
    for chunks, final in zip(crowd, together, strict=True):
        alone = bench.play(chunks).finals[0]
        assert final.posteriors == alone.posteriors
        assert final.speech_seconds == alone.speech_seconds


@settings(max_examples=3)
@given(turns=st.lists(st.integers(0, 999), min_size=10, max_size=80))
def test_real_student_calls_are_independent(real_bench, crowd, turns):
    together = interleaved(real_bench, crowd, turns)
    assert together[-1].posteriors is None
    for chunks, final in zip(crowd[:-1], together[:-1], strict=True):
        alone = real_bench.play(chunks).finals[0]
        for got, expected in zip(final.posteriors, alone.posteriors, strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_calls_of_the_batch_differ(bench, crowd):
    posteriors = [bench.play(chunks).finals[0].posteriors for chunks in crowd]
    assert len({str(p) for p in posteriors}) == len(crowd)
