"""From manifest rows to calls, and from calls through a server to predictions."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

from accuracy_outcomes import prediction
from scoring import calls
from scoring.manifest import CallPlan, Utterance, plan_calls

from streamer.audio.codec import Encoding, decode, encode
from streamer.client import Prediction, SpeechEvent
from streamer.rpc import voicecohort_pb2 as pb


def utterance(number, speaker="s", corpus="c", gender="male", band="20s"):
    return Utterance(str(number), corpus, speaker, gender, band, "dev", Path(f"{number}.wav"))


class TestPlans:
    def test_one_call_per_utterance(self):
        made = plan_calls([utterance(1), utterance(2)])
        assert [plan.id for plan in made] == ["1", "2"]
        assert made[1].paths == (Path("2.wav"),)

    def test_one_call_per_corpus_and_speaker(self):
        made = plan_calls(
            [
                utterance(1, band=""),
                utterance(2, corpus="other"),
                utterance(3),
                utterance(4, speaker=""),
                utterance(5, speaker=""),
            ],
            per_speaker=True,
        )
        assert [(plan.id, len(plan.paths)) for plan in made] == [
            ("c/s", 2),
            ("other/s", 1),
            ("4", 1),
            ("5", 1),
        ]
        assert made[0].paths == (Path("1.wav"), Path("3.wav"))
        assert made[0].age_band == "20s"  # one utterance knows it

    def test_contradicting_labels_are_an_error(self):
        with pytest.raises(ValueError, match=r"gender: speaker c/s is labelled female and male"):
            plan_calls([utterance(1), utterance(2, gender="female")], per_speaker=True)

    def test_persons_are_unique_across_corpora_and_calls(self):
        made = plan_calls(
            [
                utterance(1, "s"),
                utterance(2, "s"),
                utterance(3, "s", corpus="other"),
                utterance(4, ""),
                utterance(5, ""),
            ]
        )
        one, again, *others = [plan.speaker_key for plan in made]
        assert one == again
        assert len({one, *others}) == 4

    def test_language_of_a_call(self):
        def spoken(*languages):
            given = [dataclasses.replace(utterance(1), language=one) for one in languages]
            (made,) = plan_calls(given, per_speaker=True)
            return made.language

        assert spoken("ko", "ko", "") == "ko"
        assert spoken("") == ""
        assert spoken(None) is None
        assert spoken("de", "eo") == "several"

    def test_limit_is_spread_over_the_split(self):
        made = plan_calls([utterance(i) for i in range(10)], limit=3)
        assert [plan.id for plan in made] == ["0", "3", "6"]
        assert len(plan_calls([utterance(i) for i in range(3)], limit=9)) == 3


class TestJoin:
    def test_pause_between(self):
        tone = encode(np.full(8000, 5000, np.int16), Encoding.MULAW)
        data = calls.join([tone, tone])
        assert len(data) == 8000 + 4800 + 8000
        assert data[:8000] == data[12800:] == tone
        assert not decode(data[8000:12800], Encoding.MULAW).any()

    def test_at_most_60_seconds_and_nothing_read_behind(self):
        def parts():
            for value in (1, 2, 3):
                yield bytes([value]) * 25 * 8000
            raise AssertionError("read behind the end of the call")

        data = calls.join(parts())
        assert len(data) == 60 * 8000
        assert data.count(3) == round((60 - 25 - 0.6 - 25 - 0.6) * 8000)


class TestReadSound:
    def test_first_channel(self, tmp_path):
        random = np.random.default_rng(1)
        first = random.integers(-9000, 9000, 4000).astype(np.int16)
        soundfile.write(tmp_path / "mono.wav", first, 8000)
        soundfile.write(tmp_path / "two.wav", np.stack([first, first[::-1]], 1), 8000)
        mono = calls.read_sound(tmp_path / "mono.wav", "full")
        assert mono == encode(first, Encoding.MULAW)
        assert calls.read_sound(tmp_path / "two.wav", "full") == mono

    @pytest.mark.parametrize(("hertz", "low", "high"), [(100, 0.0, 0.05), (1000, 0.9, 1.1)])
    def test_telephone_band(self, tmp_path, hertz, low, high):
        tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(16000) / 16000)
        soundfile.write(tmp_path / "tone.wav", tone, 16000)
        full, cut = (
            decode(calls.read_sound(tmp_path / "tone.wav", band), Encoding.MULAW)[800:].std()
            for band in ("full", "telephone")
        )
        assert low <= cut / full <= high

    @pytest.mark.parametrize("band", ["full", "telephone"])
    def test_reason_names_the_file_not_its_folder(self, tmp_path, band):
        (tmp_path / "broken.wav").write_text("no sound")
        with pytest.raises(ValueError, match=r"broken\.wav") as raised:
            calls.read_sound(tmp_path / "broken.wav", band)
        assert str(tmp_path) not in str(raised.value)


class FakeCall:
    """A call whose server answers each message with two events, and ends as requested."""

    def __init__(self, *, end="final", error=None, leave_out=0):
        self.started = pb.Started(model=pb.ModelInfo(model_id="fake-1"))
        self.sent = self.acknowledged = 0
        self.most_ahead = 0
        self._end, self._error, self._leave_out = end, error, leave_out
        self._todo = asyncio.Queue()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def send(self, data):
        self.sent += 1
        self.most_ahead = max(self.most_ahead, self.sent - self.acknowledged)
        if self._error:
            raise self._error
        if self._end == "early":
            self._todo.put_nowait(None)
        elif self.sent <= self._leave_out:
            pass  # a server that is behind
        elif len(data) == 800:  # less makes no update due
            self._todo.put_nowait(SpeechEvent(0, started=True, audio_time=0.0))
            speech = 0.16 * (self.sent // 2)
            self._todo.put_nowait(prediction(speech=speech, sequence=self.sent, final=False))
        return self.sent

    async def end_of_audio(self):
        if self._end == "final":
            self._todo.put_nowait(prediction("female", speech=0.5, sequence=self.sent))
        self._todo.put_nowait(None)

    async def __aiter__(self):
        while (event := await self._todo.get()) is not None:
            if isinstance(event, Prediction):
                self.acknowledged = event.sequence
            yield event


class FakeClient:
    def __init__(self, *calls):
        self._calls = list(calls)

    def call(self, **config):
        assert config == {"update_seconds": 0.1}
        return self._calls.pop(0)


def rpc_error(code, details):
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, nothing, nothing, details=details)


class TestMakeCall:
    @pytest.fixture
    def plan(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.zeros(4400), 8000)  # 5 messages and half a one
        return CallPlan("a", "c", "male", "20s", (tmp_path / "a.wav",))

    async def _make(self, plan, **kwargs):
        call = FakeCall(**kwargs)
        return call, await calls.make_call(FakeClient(call), plan, "full")

    def test_lock_step_and_record(self, plan):
        call, made = asyncio.run(self._make(plan))
        assert call.most_ahead == 1
        assert call.sent == 6
        assert (made.updates_due, made.updates) == (5, 5)
        assert made.seconds == 0.55
        # 0, 0.16, 0.16, 0.32, 0.32 s of speech, then 0.5: one entry per new posterior.
        assert [h.speech_seconds for h in made.running] == [0.16, 0.32, 0.5]
        assert made.running[-1].best == {
            "gender": "female",
            "age_group": "young",
            "age_band": "20s",
        }
        assert made.final.gender.label == "female"
        assert (made.model, made.reason) == ("fake-1", "")

    @pytest.mark.parametrize(
        ("behaviour", "reason"),
        [
            ({"end": "early"}, "the server ended the call early"),
            ({"end": "without"}, "the call ended without a final prediction"),
            ({"error": TimeoutError()}, "no answer within 120 s"),
            ({"error": ConnectionError("gone")}, "gone"),
            (
                {"error": rpc_error(grpc.StatusCode.INTERNAL, "the student failed")},
                "INTERNAL: the student failed",
            ),
        ],
    )
    def test_failures_become_reasons(self, plan, behaviour, reason):
        _, made = asyncio.run(self._make(plan, **behaviour))
        assert made.final is None
        assert made.reason == reason

    def test_a_prediction_that_never_comes_is_lost_and_not_waited_for(self, plan, monkeypatch):
        monkeypatch.setattr(calls, "PREDICTION_TIMEOUT_SECONDS", 0.05)
        call, made = asyncio.run(self._make(plan, leave_out=2))
        assert call.sent == 6
        assert (made.updates_due, made.updates, made.reason) == (5, 3, "")
        assert made.final.gender.label == "female"

    def test_a_server_that_is_full_is_asked_again(self, plan, monkeypatch):
        monkeypatch.setattr(calls, "RETRY_SECONDS", 0.01)
        full = rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")

        async def make(*answers):
            return await calls.make_call(FakeClient(*answers), plan, "full")

        made = asyncio.run(make(FakeCall(error=full), FakeCall(error=full), FakeCall()))
        assert (made.reason, made.updates) == ("", 5)
        monkeypatch.setattr(calls, "CALL_TIMEOUT_SECONDS", -1)
        made = asyncio.run(make(FakeCall(error=full)))
        assert made.reason == "RESOURCE_EXHAUSTED: too many calls"

    def test_outcomes_keep_the_order(self, tmp_path):
        todo = [CallPlan(str(i), "c", "", "", (tmp_path / f"{i}.wav",)) for i in range(7)]
        seen = []

        async def make():
            return await calls.make_calls(
                FakeClient(None), todo, band="full", concurrency=3, on_outcome=seen.append
            )

        made = asyncio.run(make())
        assert [o.plan.id for o in made] == [str(i) for i in range(7)]
        assert {o.reason for o in made} == {f"{i}.wav: no such file" for i in range(7)}
        assert len(seen) == 7
