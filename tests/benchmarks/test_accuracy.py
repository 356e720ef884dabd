"""benchmarks/accuracy.py: what it makes of recordings, of predictions, and end to end."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import soundfile
import soxr

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its scripts import each other by plain name

import accuracy  # noqa: E402
import accuracy_calls as calls  # noqa: E402
import accuracy_report as report  # noqa: E402
import accuracy_scores as scores  # noqa: E402
from accuracy_calls import Heard, Outcome, Plan  # noqa: E402
from accuracy_manifest import Labelled  # noqa: E402

from model.labels import DEFAULT_TREE  # noqa: E402
from streamer.client import Prediction, SpeechEvent, Task  # noqa: E402
from streamer.codec import Encoding, decode, encode  # noqa: E402
from streamer.rpc import voicecohort_pb2 as pb  # noqa: E402
from streamer.student import DEFAULT_MODEL, Student  # noqa: E402
from streamer.vad import speech_of  # noqa: E402

NAMES = {task: DEFAULT_TREE.classes(task) for task in calls.TASKS}
CLASSES = scores.Classes(NAMES, DEFAULT_TREE.parent)


def task(names, best, confidence=0.8, *, decided=True):
    rest = (1 - confidence) / (len(names) - 1)
    posterior = {name: confidence if name == best else rest for name in names}
    return Task(posterior, best if decided else "", confidence, "" if decided else "little_speech")


def prediction(gender="male", band="20s", *, speech=3.0, sequence=1, final=True, **gender_task):
    return Prediction(
        channel=0,
        sequence=sequence,
        audio_time=speech,
        speech_time=speech,
        lost_time=0.0,
        gender=task(NAMES["gender"], gender, **gender_task),
        age_group=task(NAMES["age_group"], DEFAULT_TREE.group_of(band)),
        age_band=task(NAMES["age_band"], band),
        final=final,
    )


def heard(seconds, gender="male", band="20s"):
    best = {"gender": gender, "age_group": DEFAULT_TREE.group_of(band), "age_band": band}
    return Heard(seconds, best)


def outcome(truth, said="male", band="", said_band="20s", *, corpus="c", running=(), **kwargs):
    """A finished call: labels ``truth`` and ``band``, answers ``said`` and ``said_band``."""
    final = prediction(said, said_band, **kwargs)
    running = running or (heard(final.speech_time, said, said_band),)
    return Outcome(Plan("u", corpus, truth, band, ()), 4.0, tuple(running), final, "m", 3, 3)


def failed(reason="broken"):
    return Outcome(Plan("bad", "c", "male", "20s", ()), reason=reason)


class TestScores:
    def test_macro_over_the_classes_that_occur(self):
        told = [("20s", "20s"), ("20s", "child"), ("child", "child")]
        result = scores.assemble([outcome("", band=t, said_band=s) for t, s in told], CLASSES)
        band = result["age_band"]
        assert band["n"] == 3
        assert band["precision"] == pytest.approx((1 + 1 / 2) / 2)
        assert band["recall"] == pytest.approx((1 / 2 + 1) / 2)
        assert band["f1"] == pytest.approx(2 / 3)
        assert band["accuracy"] == pytest.approx(2 / 3)
        assert band["absent"] == ["teens", "30s", "40s", "50s", "60+"]
        assert band["per_class"]["20s"] == {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "n": 2}
        assert result["age_group"]["absent"] == ["middle", "senior"]
        assert result["gender"]["all"]["n"] == 0
        assert result["gender"]["all"]["f1"] is None

    def test_age_group_forgives_a_neighbouring_band(self):
        result = scores.assemble([outcome("", band="30s", said_band="teens")], CLASSES)
        assert result["age_band"]["accuracy"] == 0.0
        assert result["age_group"]["accuracy"] == 1.0

    def test_gender_of_adults_and_of_children(self):
        result = scores.assemble(
            [
                outcome("female", "male", "child"),
                outcome("male", "male", "20s"),
                outcome("female", "female", ""),  # unknown age: neither adult nor child
            ],
            CLASSES,
        )["gender"]
        assert [result[part]["n"] for part in ("all", "adult", "child")] == [3, 1, 1]
        assert result["all"]["accuracy"] == pytest.approx(2 / 3)
        assert result["adult"]["accuracy"] == 1.0
        assert result["adult"]["absent"] == ["female"]
        assert result["child"]["accuracy"] == 0.0
        assert result["child"]["absent"] == ["male"]

    def test_no_speech_is_wrong_and_stands_outside_calibration(self):
        silent = outcome("female", "female", speech=0.0, decided=False, confidence=0.5)
        result = scores.assemble(
            [silent, outcome("female", "female", confidence=0.9)],
            CLASSES,
        )
        assert result["no_speech"] == 1
        assert result["gender"]["all"]["accuracy"] == 0.5
        assert result["ece"]["gender"] == pytest.approx(0.1)
        assert result["decided"]["gender"]["coverage"] == 0.5

    def test_failed_calls_count_nowhere_else(self):
        result = scores.assemble([failed("no such file"), outcome("male", "male")], CLASSES)
        assert (result["calls"], result["failed"]) == (2, 1)
        assert result["failures"] == [{"id": "bad", "reason": "no such file"}]
        assert result["gender"]["all"]["n"] == 1
        assert result["seconds_of_audio"] == 4.0
        assert result["updates"] == {"due": 3, "received": 3}

    def test_failures_are_listed_up_to_a_bound(self):
        result = scores.assemble([failed()] * 50, CLASSES)
        assert result["failed"] == 50
        assert len(result["failures"]) == 20

    @pytest.mark.parametrize("outcomes", [[], [failed()], [outcome("")]])
    def test_nothing_to_measure_is_null_not_nan(self, outcomes, tmp_path):
        result = scores.assemble(outcomes, CLASSES)
        text = json.dumps(result, allow_nan=False)
        assert json.loads(text) == result
        assert result["ece"] == dict.fromkeys(calls.TASKS)
        assert result["decided"]["gender"] == {
            "n": 0,
            "decided": 0,
            "coverage": None,
            "accuracy": None,
        }
        # And it can still be shown.
        head = {"model": "m", "manifest": "x", "split": "s", "per_speaker": False, "band": "full"}
        page = report.markdown({**head, **result}, "command")
        assert "| gender | 0 | – | – | – | – |" in page  # noqa: RUF001
        report.picture({**head, **result}, tmp_path / "p.png")
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_shortcut_of_the_model_file_is_shown_beside_the_age():
    row = {"band": "20s", "corpora": 3, "chance": 0.333, "shuffled": 0.31, "audio": 0.4}
    row |= {"accuracy": 0.52, "low": 0.4, "high": 0.6}
    table = report._shortcut({"shortcut": {"corpus_probe": [row], "reading": "what it means"}})
    assert table.rows == [("20s", "3", "0.333", "0.310", "0.400", "0.520 (0.40 to 0.60)")]
    assert "what it means" in table.note
    assert report._shortcut({"shortcut": None}).rows == []


class TestBySpeech:
    OUTCOMES = (
        outcome(
            "male",
            "female",
            speech=2.1,
            running=(
                heard(0.48, "female"),
                heard(0.96, "male"),
                heard(1.44, "male"),
                heard(2.1, "female"),
            ),
        ),
        outcome("female", "male", speech=0.7, running=(heard(0.32, "female"), heard(0.7, "male"))),
    )

    @pytest.mark.parametrize(
        ("seconds", "n", "accuracy", "accuracy_all"),
        [
            (0.5, 2, 0.5, 0.5),  # 0.48 wrong, 0.32 right
            (1.0, 1, 1.0, 0.5),  # 0.96 right; the short call's final answer is wrong
            (2.0, 1, 1.0, 0.5),  # 1.44, not 2.1
            (3.0, 0, None, 0.0),  # no call is so long; both final answers are wrong
        ],
    )
    def test_last_prediction_on_at_most_so_much_speech(self, seconds, n, accuracy, accuracy_all):
        rows = scores.by_speech(self.OUTCOMES, CLASSES, "gender")
        row = next(r for r in rows if r["speech_seconds"] == seconds)
        assert (row["n"], row["accuracy"]) == (n, accuracy)
        assert (row["n_all"], row["accuracy_all"]) == (2, accuracy_all)

    def test_every_amount_of_speech_has_a_row(self):
        rows = scores.by_speech(self.OUTCOMES, CLASSES, "age_band")
        assert [r["speech_seconds"] for r in rows] == [0.5, 1, 2, 3, 5, 10, 20]
        assert all(r["n_all"] == 0 and r["f1"] is None for r in rows)  # age unknown

    def test_first_prediction_where_none_came_in_time(self):
        late = outcome("male", running=(heard(0.64, "male"), heard(3.0, "female")))
        assert scores.choice_after(late, "gender", 0.5) == "male"

    def test_rounding_of_the_protocol_does_not_matter(self):
        steps = (heard(0.84, "female"), heard(1.0 + 1e-9, "male"), heard(3.0, "female"))
        exact = outcome("male", speech=3.0, running=steps)
        assert scores.choice_after(exact, "gender", 1.0) == "male"

    def test_without_speech_there_is_no_choice(self):
        silent = Outcome(Plan("u", "c", "male", "", ()), final=prediction(speech=0.0))
        assert scores.choice_after(silent, "gender", 20.0) == ""
        assert scores.by_speech([silent], CLASSES, "gender")[0]["accuracy_all"] == 0.0


def test_decided_calls_are_those_with_a_label():
    result = scores.decided(
        [
            outcome("male", "male"),
            outcome("female", "female"),
            outcome("female", "male"),
            outcome("male", "male", decided=False),
            outcome("", "male"),  # gender unknown
        ],
        CLASSES,
        "gender",
    )
    assert result == {"n": 4, "decided": 3, "coverage": 0.75, "accuracy": pytest.approx(2 / 3)}


def test_calibration_error_and_bins():
    ece, bins = scores.calibration(
        [
            outcome("male", "male", confidence=0.9),
            outcome("male", "female", confidence=0.65),
            outcome("male", "male", confidence=0.65),
        ],
        CLASSES,
        "gender",
    )
    # Two bins: one call right at 0.9, two at 0.65 of which half are right.
    assert ece == pytest.approx(1 / 3 * 0.1 + 2 / 3 * 0.15)
    assert bins == [
        {"confidence": pytest.approx(0.65), "accuracy": 0.5, "n": 2},
        {"confidence": pytest.approx(0.9), "accuracy": 1.0, "n": 1},
    ]


def test_child_against_20s_only_inside_the_corpus():
    inside = {"corpus": "speechocean762"}
    outcomes = [
        outcome("", band="child", said_band="child", **inside),
        outcome("", band="child", said_band="20s", **inside),
        outcome("", band="20s", said_band="40s", **inside),
        outcome("", band="30s", said_band="child", **inside),
        outcome("", band="20s", said_band="child"),
    ]
    pair = scores.child_vs_20s(outcomes, CLASSES)
    assert pair["n"] == 3
    assert pair["age_band"]["accuracy"] == pytest.approx(1 / 3)
    # 40s leaves child and 20s equal; the first of the two is taken, which is wrong here.
    assert pair["forced"]["accuracy"] == pytest.approx(1 / 3)
    assert pair["age_group"]["per_class"]["child"]["recall"] == 0.5
    assert scores.child_vs_20s(outcomes[:2], CLASSES) is None


def test_per_band_and_per_corpus():
    result = scores.assemble(
        [
            outcome("female", "female", "50s", "40s", corpus="a"),
            outcome("female", "male", "50s", "50s", corpus="a"),
            outcome("male", "male", "60+", "20s", corpus="b"),
            outcome("male", "female", "", corpus="b"),
        ],
        CLASSES,
    )
    assert list(result["per_band"]) == ["50s", "60+"]
    assert result["per_band"]["50s"] == {
        "calls": 2,
        "age_group_recall": 1.0,
        "age_band_recall": 0.5,
        "gender": {"female": {"recall": 0.5, "n": 2}, "male": {"recall": None, "n": 0}},
    }
    assert result["per_corpus"]["a"]["gender"] == {
        "n": 2,
        "accuracy": 0.5,
        "f1": pytest.approx(2 / 3),
    }
    assert result["per_corpus"]["b"]["calls"] == 2
    assert result["per_corpus"]["b"]["age_band"]["n"] == 1


def test_labels_that_the_model_lacks_are_named():
    plan = Plan("u7", "c", "male", "forties", ())
    assert CLASSES.wrong(plan).startswith("age_band: 'forties' of u7 is none of child, teens")
    assert CLASSES.wrong(Plan("u7", "c", "", "", ())) == ""


def utterance(number, speaker="s", corpus="c", gender="male", band="20s"):
    return Labelled(str(number), corpus, speaker, gender, band, "dev", Path(f"{number}.wav"))


class TestPlans:
    def test_one_call_per_utterance(self):
        made = calls.plans([utterance(1), utterance(2)])
        assert [plan.id for plan in made] == ["1", "2"]
        assert made[1].paths == (Path("2.wav"),)

    def test_one_call_per_corpus_and_speaker(self):
        made = calls.plans(
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
            calls.plans([utterance(1), utterance(2, gender="female")], per_speaker=True)

    def test_limit_is_spread_over_the_split(self):
        made = calls.plans([utterance(i) for i in range(10)], limit=3)
        assert [plan.id for plan in made] == ["0", "3", "6"]
        assert len(calls.plans([utterance(i) for i in range(3)], limit=9)) == 3


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
    """A call whose server answers each message with two events, and ends as told."""

    def __init__(self, *, end="final", error=None):
        self.started = pb.Started(model=pb.ModelInfo(model_id="fake-1"))
        self.sent = self.acknowledged = 0
        self.most_ahead = 0
        self._end, self._error = end, error
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
    def __init__(self, call):
        self._call = call

    def call(self, **config):
        assert config == {"update_seconds": 0.1}
        return self._call


class TestMakeCall:
    @pytest.fixture
    def plan(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.zeros(4400), 8000)  # 5 messages and half a one
        return Plan("a", "c", "male", "20s", (tmp_path / "a.wav",))

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
                {
                    "error": grpc.aio.AioRpcError(
                        grpc.StatusCode.INTERNAL,
                        grpc.aio.Metadata(),
                        grpc.aio.Metadata(),
                        details="the student failed",
                    )
                },
                "INTERNAL: the student failed",
            ),
        ],
    )
    def test_failures_become_reasons(self, plan, behaviour, reason):
        _, made = asyncio.run(self._make(plan, **behaviour))
        assert made.final is None
        assert made.reason == reason

    def test_outcomes_keep_the_order(self, tmp_path):
        todo = [Plan(str(i), "c", "", "", (tmp_path / f"{i}.wav",)) for i in range(7)]
        seen = []

        async def make():
            return await calls.make_calls(
                FakeClient(None), todo, band="full", concurrency=3, done=seen.append
            )

        made = asyncio.run(make())
        assert [o.plan.id for o in made] == [str(i) for i in range(7)]
        assert {o.reason for o in made} == {f"{i}.wav: no such file" for i in range(7)}
        assert len(seen) == 7


def test_shown_command_has_no_machine_paths():
    words = ["--manifest", "/home/x/m.tsv", "--split", "a b", "--json=/tmp/o.json"]
    words += ["--target", "10.1.2.3:50051", "--per-speaker"]
    assert accuracy.shown_command(words) == (
        "python benchmarks/accuracy.py --manifest m.tsv --split 'a b' --json=o.json "
        "--target HOST:PORT --per-speaker"
    )


COLUMNS = ["id", "corpus", "speaker", "gender", "age_band", "split", "path"]


def write_manifest(folder, rows):
    with (folder / "m.tsv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerows([COLUMNS, *rows])
    return folder / "m.tsv"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"--split": "dev"}, "no utterance in split 'dev'; it has ['test']"),
        ({"--manifest": "absent.tsv"}, "--manifest absent.tsv: No such file or directory"),
        ({"--json": "absent/o.json"}, "--json absent/o.json: no such folder"),
        ({"--model": "absent.onnx"}, "model file absent.onnx: not found"),
    ],
)
def test_unusable_arguments(tmp_path, capsys, change, says):
    manifest = write_manifest(tmp_path, [["1", "c", "s", "male", "20s", "test", "1.wav"]])
    options = {"--manifest": str(manifest), "--split": "test", **change}
    assert accuracy.main([word for pair in options.items() for word in pair]) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.count("\n") == 1


def test_short_row_is_a_manifest_error(tmp_path, capsys):
    manifest = write_manifest(tmp_path, [["1", "c", "s", "male", "20s", "test"]])
    assert accuracy.main(["--manifest", str(manifest), "--split", "test"]) == 2
    assert "m.tsv line 2: no path" in capsys.readouterr().err


def test_target_and_model_exclude_each_other(capsys):
    words = ["--manifest", "m", "--split", "s", "--target", "h:1", "--model", "x"]
    with pytest.raises(SystemExit, match="2"):
        accuracy.main(words)
    assert "--model is for a server that is started here" in capsys.readouterr().err


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Six utterances of five speakers: two calls' worth of one, a child, silence, a broken file."""
    folder = tmp_path_factory.mktemp("corpus")
    demo, rate = soundfile.read(ROOT / "streamer/demo/dialogue.wav", dtype="float32")
    assert rate == 8000

    def cut(channel, start, end):
        return demo[start * rate : end * rate, channel]

    other = demo[12 * rate : 16 * rate, ::-1][:, 1]
    soundfile.write(folder / "a1.wav", cut(0, 4, 9), rate)
    # The second channel must not be heard.
    soundfile.write(folder / "a2.wav", np.stack([other, cut(1, 8, 12)], 1), rate)
    wide = soxr.resample(cut(1, 0, 5), rate, 16000)
    soundfile.write(folder / "b1.flac", wide, 16000)
    soundfile.write(folder / "c1.wav", np.zeros(2 * rate), rate)
    (folder / "d1.wav").write_text("this is no sound")
    soundfile.write(folder / "e1.wav", cut(1, 16, 17), rate)
    return write_manifest(
        folder,
        [
            ["a1", "speechocean762", "A", "female", "20s", "test", "a1.wav"],
            ["a2", "speechocean762", "A", "female", "20s", "test", "a2.wav"],
            ["b1", "speechocean762", "B", "male", "child", "test", "b1.flac"],
            ["c1", "other", "C", "male", "40s", "test", "c1.wav"],
            ["d1", "other", "D", "male", "40s", "test", "d1.wav"],
            ["e1", "other", "E", "female", "", "test", "e1.wav"],
            ["f1", "other", "F", "female", "", "train", "absent.wav"],
        ],
    )


def run(manifest, folder, *options):
    command = [sys.executable, ROOT / "benchmarks/accuracy.py", "--manifest", manifest]
    command += ["--split", "test", "--concurrency", "4", *options]
    for name in ("json", "markdown", "picture"):
        command += [f"--{name}", folder / f"out.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done, json.loads((folder / "out.json").read_text())


def speech_seconds(path, band="full"):
    return len(speech_of(decode(calls.read_sound(path, band), Encoding.MULAW))) / 8000


def test_end_to_end(corpus, tmp_path):
    done, result = run(corpus, tmp_path)
    assert (result["calls"], result["failed"], result["no_speech"]) == (6, 1, 1)
    assert result["failures"][0]["id"] == "d1"
    assert result["failures"][0]["reason"].startswith("d1.wav: not a readable sound file")
    assert result["seconds_of_audio"] == pytest.approx(5 + 4 + 5 + 2 + 1)
    assert (result["manifest"], result["split"], result["band"]) == ("m.tsv", "test", "full")
    assert re.fullmatch(r"[\w.+-]+-[0-9a-f]{12}", result["model"])
    # Lock-step: 170 messages of 100 ms, none of their predictions overtaken.
    assert result["updates"] == {"due": 170, "received": 170}

    assert [result["gender"][part]["n"] for part in ("all", "adult", "child")] == [5, 3, 1]
    assert result["gender"]["child"]["absent"] == ["female"]
    assert result["age_band"]["n"] == result["age_group"]["n"] == 4
    assert result["age_band"]["absent"] == ["teens", "30s", "50s", "60+"]
    assert result["age_group"]["absent"] == ["senior"]
    for scored in (*result["gender"].values(), result["age_group"], result["age_band"]):
        rights = sum(c["recall"] * c["n"] for c in scored["per_class"].values())
        assert scored["accuracy"] == pytest.approx(rights / scored["n"])
        assert scored["f1"] == pytest.approx(
            np.mean([c["f1"] for c in scored["per_class"].values()])
        )
    # Nothing was heard of the only one in his forties, so nothing can be right.
    assert result["per_band"]["40s"] == {
        "calls": 1,
        "age_group_recall": 0.0,
        "age_band_recall": 0.0,
        "gender": {"female": {"recall": None, "n": 0}, "male": {"recall": 0.0, "n": 1}},
    }
    assert result["per_corpus"]["speechocean762"]["calls"] == 3
    assert result["per_corpus"]["other"]["age_band"]["n"] == 1
    assert result["child_vs_20s"]["n"] == 3
    carried = Student(DEFAULT_MODEL, provider="cpu").metadata.provenance.get("shortcut")
    assert result["shortcut"] == carried

    speech = [speech_seconds(corpus.parent / n) for n in ("a1.wav", "a2.wav", "b1.flac", "e1.wav")]
    for row in result["by_speech"]["gender"]:
        assert row["n"] == sum(s >= row["speech_seconds"] for s in speech)
        assert row["n_all"] == 5
        assert row["accuracy_all"] <= 4 / 5  # silence is wrong
    assert result["by_speech"]["gender"][-1]["accuracy_all"] == result["gender"]["all"]["accuracy"]
    assert result["by_speech"]["age_band"][2]["n"] == 3  # e1 has no age
    for name in calls.TASKS:
        decided = result["decided"][name]
        assert decided["coverage"] == pytest.approx(decided["decided"] / decided["n"])
        assert 0 <= result["ece"][name] <= 1
        assert sum(b["n"] for b in result["reliability"][name]) == decided["n"] - 1

    page = (tmp_path / "out.markdown").read_text()
    assert str(tmp_path) not in page + json.dumps(result)
    assert str(ROOT) not in page + json.dumps(result)
    assert "--manifest m.tsv --split test --concurrency 4 --json out.json" in page
    assert report.HONESTY in page
    assert f"| gender | 5 | {result['gender']['all']['precision']:.3f} |" in page
    assert (tmp_path / "out.picture").read_bytes().startswith(b"\x89PNG")
    assert "Final predictions" in done.stdout
    assert report.HONESTY in done.stdout


def test_end_to_end_per_speaker_in_the_telephone_band(corpus, tmp_path):
    _, result = run(corpus, tmp_path, "--per-speaker", "--band", "telephone", "--limit", "3")
    # Of the speakers A, B, C, D, E the limit takes A, B and D: every 5/3-th.
    assert (result["calls"], result["failed"]) == (3, 1)
    assert result["failures"][0]["id"] == "other/D"
    assert result["seconds_of_audio"] == pytest.approx((5 + 0.6 + 4) + 5)
    assert result["updates"] == {"due": 146, "received": 146}
    assert (result["per_speaker"], result["band"], result["limit"]) == (True, "telephone", 3)
    assert result["child_vs_20s"]["n"] == 2
    assert "300-3400 Hz" in (tmp_path / "out.markdown").read_text()
