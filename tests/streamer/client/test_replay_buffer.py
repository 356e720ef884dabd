"""What is kept is what a server may not know yet, and no more than the bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.client.replay_buffer import ReplayBuffer


def drain(kept):
    """All that the present stream was not given."""
    given = []
    while (request := kept.next()) is not None:
        given.append(request)
    return given


def test_a_stream_is_given_each_once_and_the_next_all_again(request_of):
    kept = ReplayBuffer(100)
    audio = [request_of.audio(n, b"ab") for n in range(1, 4)]
    for request in audio[:2]:
        kept.add(request)
    assert drain(kept) == audio[:2]
    kept.add(audio[2])
    assert drain(kept) == audio[2:]
    kept.rewind()
    assert drain(kept) == audio


def test_a_checkpoint_covers_audio_and_the_controls_between(request_of):
    kept = ReplayBuffer(100)
    hold, resume = request_of.control("hold"), request_of.control("resume", 0)
    requests = [hold, request_of.audio(5, b"ab"), resume, request_of.audio(9, b"cd")]
    for request in requests:
        kept.add(request)
    drain(kept)
    kept.forget(4)
    assert len(kept) == 4
    kept.forget(8)
    assert (len(kept), kept.audio) == (2, 2)
    assert kept.next() is None
    kept.rewind()
    assert drain(kept) == requests[2:]


def test_what_was_not_sent_is_not_forgotten(request_of):
    kept = ReplayBuffer(100)
    for n in range(1, 4):
        kept.add(request_of.audio(n, b"a"))
    kept.next()
    kept.forget(3)
    assert [request.audio.sequence for request in drain(kept)] == [2, 3]


def test_it_is_full_by_its_audio(request_of):
    kept = ReplayBuffer(4)
    kept.add(request_of.audio(1, b"abc"))
    assert not kept.full
    kept.add(request_of.audio(2, b"abc"))
    assert kept.full
    drain(kept)
    kept.forget(1)
    assert not kept.full


@pytest.mark.parametrize("sent", [False, True])
def test_controls_without_audio_take_no_room(request_of, sent):
    """A gateway that toggles a hold for ever."""
    kept = ReplayBuffer(4)
    kept.add(request_of.audio(1, b"a"))
    hold, resume = request_of.control("hold"), request_of.control("resume")
    given = []
    for _ in range(1000):
        kept.add(hold)
        kept.add(resume)
        given += drain(kept) if sent else []
    assert len(kept) == 3
    if sent:
        assert len(given) == 2001  # the stream at hand gets all of them
    kept.rewind()
    assert drain(kept)[1:] == [hold, resume]
    kept.add(request_of.audio(2, b"a"))
    kept.add(hold)
    assert len(kept) == 5


class Channel:
    """What controls without audio between them do to a channel that was heard."""

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
def test_controls_that_are_kept_do_what_all_did(request_of, actions, applied, held):
    """Also behind a checkpoint that some of them are part of already."""
    kept = ReplayBuffer(1)
    for action in actions:
        kept.add(request_of.control(action))
    channel, resumed = Channel(held), Channel(held)
    for action in actions:
        channel.obey(action)
    for action in actions[:applied]:
        resumed.obey(action)
    for request in drain(kept):
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
def test_nothing_unacknowledged_is_ever_missing(request_of, actions):
    """Against a list that forgets nothing."""
    kept, sent, acknowledged, sequence, given = ReplayBuffer(50), [], 0, 0, 0
    for action, number in actions:
        if action == "audio" and not kept.full:
            sequence += 1
            sent.append(request_of.audio(sequence, bytes(number)))
            kept.add(sent[-1])
        elif action == "hold":
            kept.add(request_of.control("hold", number))
        elif action == "next":
            request = kept.next()
            given = request.audio.sequence if request and request.HasField("audio") else given
        elif action == "rewind":
            kept.rewind()
            given = acknowledged
        elif action == "forget" and number <= given:
            kept.forget(number)
            acknowledged = max(acknowledged, number)
    kept.rewind()
    left = [request for request in drain(kept) if request.HasField("audio")]
    assert left == sent[acknowledged:]
    assert kept.audio == sum(len(request.audio.data) for request in left) < 50 + 40
