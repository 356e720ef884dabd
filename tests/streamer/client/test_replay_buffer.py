"""What is kept is what a server may not know yet, and no more than the bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.client.replay_buffer import ReplayBuffer


def drain(buffer):
    """All that the present stream was not given."""
    given = []
    while (request := buffer.next_unsent()) is not None:
        given.append(request)
    return given


def test_rewind_returns_all_requests_again(request_of):
    buffer = ReplayBuffer(100)
    audio = [request_of.audio(n, b"ab") for n in range(1, 4)]
    for request in audio[:2]:
        buffer.append(request)
    assert drain(buffer) == audio[:2]
    buffer.append(audio[2])
    assert drain(buffer) == audio[2:]
    buffer.rewind()
    assert drain(buffer) == audio


def test_acknowledge_drops_audio_and_controls_between(request_of):
    buffer = ReplayBuffer(100)
    hold, resume = request_of.control("hold"), request_of.control("resume", 0)
    requests = [hold, request_of.audio(5, b"ab"), resume, request_of.audio(9, b"cd")]
    for request in requests:
        buffer.append(request)
    drain(buffer)
    buffer.acknowledge(4)
    assert len(buffer) == 4
    buffer.acknowledge(8)
    assert (len(buffer), buffer.audio_bytes) == (2, 2)
    assert buffer.next_unsent() is None
    buffer.rewind()
    assert drain(buffer) == requests[2:]


def test_unsent_requests_are_not_acknowledged(request_of):
    buffer = ReplayBuffer(100)
    for n in range(1, 4):
        buffer.append(request_of.audio(n, b"a"))
    buffer.next_unsent()
    buffer.acknowledge(3)
    assert [request.audio.sequence for request in drain(buffer)] == [2, 3]


def test_audio_fills_the_buffer(request_of):
    buffer = ReplayBuffer(4)
    buffer.append(request_of.audio(1, b"abc"))
    assert not buffer.full
    buffer.append(request_of.audio(2, b"abc"))
    assert buffer.full
    drain(buffer)
    buffer.acknowledge(1)
    assert not buffer.full


@pytest.mark.parametrize("sent", [False, True])
def test_repeated_controls_take_no_space(request_of, sent):
    """A gateway that toggles a hold for ever."""
    buffer = ReplayBuffer(4)
    buffer.append(request_of.audio(1, b"a"))
    hold, resume = request_of.control("hold"), request_of.control("resume")
    given = []
    for _ in range(1000):
        buffer.append(hold)
        buffer.append(resume)
        given += drain(buffer) if sent else []
    assert len(buffer) == 3
    if sent:
        assert len(given) == 2001  # the stream at hand gets all of them
    buffer.rewind()
    assert drain(buffer)[1:] == [hold, resume]
    buffer.append(request_of.audio(2, b"a"))
    buffer.append(hold)
    assert len(buffer) == 5


class Channel:
    """What controls without audio between them do to a channel with state."""

    def __init__(self, held):
        self.held, self.open, self.fresh = held, not held, False

    def obey(self, action):
        if action == "discard":
            self.fresh, self.open = True, False
        elif action == "hold":
            self.open, self.held = self.open and self.held, True
        else:
            self.held = False

    @property
    def state(self):
        return self.held, self.open, self.fresh


ACTIONS = st.lists(st.sampled_from(["hold", "resume", "discard"]), max_size=12)


@given(ACTIONS, st.integers(0, 12), st.booleans())
def test_remaining_controls_have_the_same_effect(request_of, actions, applied, held):
    """Also behind a checkpoint that some of them are part of already."""
    buffer = ReplayBuffer(1)
    for action in actions:
        buffer.append(request_of.control(action))
    channel, resumed = Channel(held), Channel(held)
    for action in actions:
        channel.obey(action)
    for action in actions[:applied]:
        resumed.obey(action)
    for request in drain(buffer):
        resumed.obey(request.control.WhichOneof("action"))
    assert resumed.state == channel.state


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["audio", "hold", "next", "rewind", "forget"]), st.integers(1, 40)
        ),
        max_size=60,
    )
)
def test_unacknowledged_audio_is_never_lost(request_of, actions):
    """Against a list that forgets nothing."""
    buffer, sent, acknowledged, sequence, given = ReplayBuffer(50), [], 0, 0, 0
    for action, number in actions:
        if action == "audio" and not buffer.full:
            sequence += 1
            sent.append(request_of.audio(sequence, bytes(number)))
            buffer.append(sent[-1])
        elif action == "hold":
            buffer.append(request_of.control("hold", number))
        elif action == "next":
            request = buffer.next_unsent()
            given = request.audio.sequence if request and request.HasField("audio") else given
        elif action == "rewind":
            buffer.rewind()
            given = acknowledged
        elif action == "forget" and number <= given:
            buffer.acknowledge(number)
            acknowledged = max(acknowledged, number)
    buffer.rewind()
    left = [request for request in drain(buffer) if request.HasField("audio")]
    assert left == sent[acknowledged:]
    assert buffer.audio_bytes == sum(len(request.audio.data) for request in left) < 50 + 40
