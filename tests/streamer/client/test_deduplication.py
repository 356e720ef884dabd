"""Deduplication of the responses of successive streams."""

import pytest

from streamer.client.deduplication import ResponseDeduplicator
from streamer.client.stream import Response
from streamer.rpc import voicecohort_pb2 as pb
from streamer.transport.converters import duration


def prediction(seconds, channel=0, *, final=False):
    message = pb.Prediction(channel=channel, audio_time=duration(seconds), final=final)
    return Response(prediction=message)


def speech(started, seconds, channel=0):
    message = pb.SpeechEvent(channel=channel, started=started, audio_time=duration(seconds))
    return Response(speech=message)


@pytest.fixture
def delivered():
    return ResponseDeduplicator()


def push_all(delivered, *responses):
    return [new for response in responses for new in delivered.push(response)]


def test_responses_of_one_stream_are_unchanged(delivered):
    responses = [
        speech(True, 0.2),
        prediction(0.5),
        prediction(0.5, 1),
        speech(False, 0.7),
        speech(True, 0.7),
        prediction(1.0),
        prediction(1.0, 1),
        speech(False, 1.2),
        prediction(1.2, final=True),
        prediction(1.2, 1, final=True),
    ]
    new = push_all(delivered, *responses)
    assert new == responses[:7]
    assert delivered.flush() == responses[7:]
    assert delivered.flush() == []


def test_repeated_ones_are_dropped_by_channel(delivered):
    before = [speech(True, 0.2), prediction(0.5), speech(True, 0.4, 1), prediction(0.5, 1)]
    assert push_all(delivered, *before) == before
    delivered.begin_stream()
    assert push_all(delivered, *before) == []
    assert push_all(delivered, prediction(0.6), prediction(0.4, 1)) == [prediction(0.6)]
    # another server may be busier, and predict less often
    assert push_all(delivered, prediction(0.9, 1), prediction(0.9)) == [
        prediction(0.9, 1),
        prediction(0.9),
    ]


@pytest.mark.parametrize("known", range(3))
def test_events_at_one_instant_are_delivered_once(delivered, known):
    """A checkpoint may include any number of them; the next stream sends the others."""
    events = [speech(False, 1.0), speech(True, 1.0)]
    assert push_all(delivered, speech(True, 0.2), *events) == [speech(True, 0.2), *events]
    delivered.begin_stream()
    assert push_all(delivered, *events[known:], prediction(1.5)) == [prediction(1.5)]
    assert push_all(delivered, speech(False, 1.6), prediction(2.0)) == [
        speech(False, 1.6),
        prediction(2.0),
    ]


def test_new_second_event_at_one_instant_is_delivered(delivered):
    push_all(delivered, speech(True, 0.2), speech(False, 1.0), prediction(1.5))
    delivered.begin_stream()
    assert push_all(delivered, speech(False, 1.0), speech(True, 1.0)) == [speech(True, 1.0)]


def test_an_end_of_speech_waits_for_a_later_response(delivered):
    assert push_all(delivered, speech(True, 0.1), speech(False, 0.5)) == [speech(True, 0.1)]
    assert push_all(delivered, prediction(0.5)) == []  # from a server that shuts down
    assert push_all(delivered, prediction(1.0)) == [
        speech(False, 0.5),
        prediction(0.5),
        prediction(1.0),
    ]


def test_finals_of_a_draining_server_are_held_back(delivered):
    assert len(push_all(delivered, speech(True, 0.1), prediction(0.5))) == 2
    assert push_all(delivered, speech(False, 0.6), prediction(0.6, final=True)) == []
    delivered.begin_stream()
    assert push_all(delivered, prediction(1.0)) == [prediction(1.0)]
    assert push_all(delivered, prediction(1.0, final=True)) == []
    assert delivered.flush() == [prediction(1.0, final=True)]


def test_a_checkpoint_releases_held_back_responses(delivered):
    push_all(delivered, speech(True, 0.1), speech(False, 0.5))
    assert delivered.flush() == [speech(False, 0.5)]
    delivered.begin_stream()
    assert push_all(delivered, speech(False, 0.5), prediction(1.0)) == [prediction(1.0)]


def test_only_one_final_prediction_per_channel(delivered):
    push_all(delivered, prediction(1.0, final=True), prediction(1.0, final=True))
    push_all(delivered, prediction(1.0, 1, final=True))
    assert delivered.flush() == [prediction(1.0, final=True), prediction(1.0, 1, final=True)]
    delivered.begin_stream()
    push_all(delivered, prediction(1.0, final=True), prediction(2.0, final=True))
    assert delivered.flush() == []
