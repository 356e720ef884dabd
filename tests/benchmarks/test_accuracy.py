"""benchmarks/accuracy.py: what it makes of recordings, of predictions, and end to end."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

import accuracy
from accuracy_outcomes import CLASSES, failed, heard, outcome, prediction
from scoring import calibration, calls, group_tables, groups, pictures, report, scores
from scoring.calls import Outcome
from scoring.plans import Plan
from scoring.result import assemble

from streamer.codec import Encoding, decode
from streamer.student import DEFAULT_MODEL, Student
from streamer.vad import speech_of

ROOT = Path(__file__).parents[2]


class TestScores:
    def test_macro_over_the_classes_that_occur(self):
        told = [("20s", "20s"), ("20s", "child"), ("child", "child")]
        result = assemble([outcome("", band=t, said_band=s) for t, s in told], CLASSES)
        band = result["age_band"]
        assert band["n"] == 3
        assert band["precision"] == pytest.approx((1 + 1 / 2) / 2)
        assert band["recall"] == pytest.approx((1 / 2 + 1) / 2)
        assert band["f1"] == pytest.approx(2 / 3)
        assert band["accuracy"] == pytest.approx(2 / 3)
        assert band["absent"] == ["teens", "30s", "40s", "50s", "60+"]
        told = band["per_class"]["20s"]
        assert {key: told[key] for key in ("precision", "recall", "f1", "n")} == {
            "precision": 1.0,
            "recall": 0.5,
            "f1": 2 / 3,
            "n": 2,
        }
        assert band["confusion"] == {"child": {"child": 1}, "20s": {"child": 1, "20s": 1}}
        assert result["age_group"]["absent"] == ["middle", "senior"]
        assert result["gender"]["all"]["n"] == 0
        assert result["gender"]["all"]["f1"] is None

    def test_age_group_forgives_a_neighbouring_band(self):
        result = assemble([outcome("", band="30s", said_band="teens")], CLASSES)
        assert result["age_band"]["accuracy"] == 0.0
        assert result["age_group"]["accuracy"] == 1.0

    def test_gender_of_adults_and_of_children(self):
        result = assemble(
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
        result = assemble(
            [silent, outcome("female", "female", confidence=0.9)],
            CLASSES,
        )
        assert result["no_speech"] == 1
        assert result["gender"]["all"]["accuracy"] == 0.5
        assert result["ece"]["gender"] == pytest.approx(0.1)
        assert result["decided"]["gender"]["coverage"] == 0.5

    def test_failed_calls_count_nowhere_else(self):
        result = assemble([failed("no such file"), outcome("male", "male")], CLASSES)
        assert (result["calls"], result["failed"]) == (2, 1)
        assert result["failures"] == [{"id": "bad", "reason": "no such file"}]
        assert result["gender"]["all"]["n"] == 1
        assert result["seconds_of_audio"] == 4.0
        assert result["updates"] == {"due": 3, "received": 3}

    def test_failures_are_listed_up_to_a_bound(self):
        result = assemble([failed()] * 50, CLASSES)
        assert result["failed"] == 50
        assert len(result["failures"]) == 20

    @pytest.mark.parametrize("outcomes", [[], [failed()], [outcome("")]])
    def test_nothing_to_measure_is_null_not_nan(self, outcomes, tmp_path):
        result = assemble(outcomes, CLASSES)
        text = json.dumps(result, allow_nan=False)
        assert json.loads(text) == result
        assert result["ece"] == dict.fromkeys(calls.TASKS)
        shares = dict.fromkeys(("coverage", "accuracy", "accuracy_all"))
        counts = dict.fromkeys(("n", "speakers", "decided"), 0)
        assert result["decided"]["gender"] == {**counts, **shares, "interval": shares}
        # And it can still be shown.
        head = {"model": "m", "manifest": "x", "split": "s", "per_speaker": False, "band": "full"}
        page = report.markdown({**head, **result}, "command")
        assert "| gender | 0 | 0 | – | – | – | – |" in page  # noqa: RUF001
        for draw in (pictures.picture, pictures.calibration_picture):
            draw({**head, **result}, tmp_path / "p.png")
            assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_shortcut_of_the_model_file_is_shown_beside_the_age():
    row = {"band": "20s", "corpora": 3, "chance": 0.333, "shuffled": 0.31, "audio": 0.4}
    row |= {"accuracy": 0.52, "low": 0.4, "high": 0.6}
    table = group_tables.shortcut({"shortcut": {"corpus_probe": [row], "reading": "what it means"}})
    assert table.rows == [("20s", "3", "0.333", "0.310", "0.400", "0.520 (0.40 to 0.60)")]
    assert "what it means" in table.note
    assert group_tables.shortcut({"shortcut": None}).rows == []


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
    assert (result["n"], result["decided"], result["coverage"]) == (4, 3, 0.75)
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["accuracy_all"] == 0.75  # the undecided one would have been right


def test_calibration_error_and_bins():
    found = calibration.calibration(
        [
            outcome("male", "male", confidence=0.9),
            outcome("male", "female", confidence=0.65),
            outcome("male", "male", confidence=0.65),
        ],
        CLASSES,
        "gender",
    )
    # Two bins: one call right at 0.9, two at 0.65 of which half are right.
    assert found["ece"] == pytest.approx(1 / 3 * 0.1 + 2 / 3 * 0.15)
    assert found["overconfidence"] == pytest.approx((0.9 + 2 * 0.65) / 3 - 2 / 3)
    alone = {"speakers": 1, "interval": None}  # one speaker: nothing to draw
    assert found["bins"] == [
        {"confidence": pytest.approx(0.65), "accuracy": 0.5, "n": 2, **alone},
        {"confidence": pytest.approx(0.9), "accuracy": 1.0, "n": 1, **alone},
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
    pair = groups.child_vs_20s(outcomes, CLASSES)
    assert pair["n"] == 3
    assert pair["age_band"]["accuracy"] == pytest.approx(1 / 3)
    # 40s leaves child and 20s equal; the first of the two is taken, which is wrong here.
    assert pair["forced"]["accuracy"] == pytest.approx(1 / 3)
    assert pair["age_group"]["per_class"]["child"]["recall"] == 0.5
    assert groups.child_vs_20s(outcomes[:2], CLASSES) is None


def test_per_band_and_per_corpus():
    result = assemble(
        [
            outcome("female", "female", "50s", "40s", corpus="a"),
            outcome("female", "male", "50s", "50s", corpus="a"),
            outcome("male", "male", "60+", "20s", corpus="b"),
            outcome("male", "female", "", corpus="b"),
        ],
        CLASSES,
    )
    assert list(result["per_band"]) == ["50s", "60+"]
    nobody = {"recall": None, "n": 0, "speakers": 0, "interval": None}
    assert result["per_band"]["50s"] == {
        "calls": 2,
        "speakers": 1,
        "corpora": ["a"],
        "age_group_recall": 1.0,
        "age_band_recall": 0.5,
        "interval": {"age_group_recall": None, "age_band_recall": None},
        "gender": {
            "female": {"recall": 0.5, "n": 2, "speakers": 1, "interval": None},
            "male": nobody,
        },
    }
    assert result["per_corpus"]["a"]["gender"] == {
        "n": 2,
        "speakers": 1,
        "accuracy": 0.5,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "interval": {"accuracy": None, "recall": None, "f1": None},
    }
    assert result["per_corpus"]["b"]["calls"] == 2
    assert result["per_corpus"]["b"]["age_band"]["n"] == 1


def test_labels_that_the_model_lacks_are_named():
    plan = Plan("u7", "c", "male", "forties", ())
    assert CLASSES.wrong(plan).startswith("age_band: 'forties' of u7 is none of child, teens")
    assert CLASSES.wrong(Plan("u7", "c", "", "", ())) == ""


def test_shown_command_has_no_machine_paths():
    words = ["--manifest", "/home/x/m.tsv", "--split", "a b", "--json=/tmp/o.json"]
    words += ["--target", "10.1.2.3:50051", "--per-speaker"]
    assert accuracy.shown_command(words) == (
        "python benchmarks/accuracy.py --manifest m.tsv --split 'a b' --json=o.json "
        "--target HOST:PORT --per-speaker"
    )


NO_LANGUAGE = "The manifest has no column language: there are no figures by language."
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
        (
            {"--calibration-picture": "absent/o.png"},
            "--calibration-picture absent/o.png: no such folder",
        ),
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
    for name in ("json", "markdown", "picture", "calibration-picture"):
        command += [f"--{name}", folder / f"out.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done, json.loads((folder / "out.json").read_text())


def speech_seconds(path, band="full"):
    return len(speech_of(decode(calls.read_sound(path, band), Encoding.MULAW))) / 8000


@pytest.fixture(scope="module")
def measured(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    return *run(corpus, folder), folder


def test_end_to_end_figures(measured):
    _, result, _ = measured
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
    forties = result["per_band"]["40s"]
    assert (forties["calls"], forties["speakers"], forties["corpora"]) == (1, 1, ["other"])
    assert forties["age_group_recall"] == forties["age_band_recall"] == 0.0
    assert [forties["gender"][name]["recall"] for name in ("female", "male")] == [None, 0.0]
    assert result["per_corpus"]["speechocean762"]["calls"] == 3
    assert result["per_corpus"]["other"]["age_band"]["n"] == 1
    assert result["child_vs_20s"]["n"] == 3
    carried = Student(DEFAULT_MODEL, provider="cpu").metadata.provenance.get("shortcut")
    assert result["shortcut"] == carried


def test_end_to_end_speakers_and_what_cannot_be_measured(measured):
    _, result, _ = measured
    # A's two calls are of one speaker; of the six calls one failed.
    assert result["speakers"] == 4
    assert result["gender"]["all"]["speakers"] == 4
    low, high = result["gender"]["all"]["interval"]["accuracy"]
    assert low <= result["gender"]["all"]["accuracy"] <= high
    assert [(c["gender"], c["age_band"], c["calls"]) for c in result["per_cell"]] == [
        ("male", "child", 1),
        ("female", "20s", 2),
        ("male", "40s", 1),
    ]
    assert result["fairness"]["left_out"]["20s"] == "1 speakers, needs 20"
    assert result["per_language"] == {}
    assert NO_LANGUAGE in result["unmeasured"]
    assert "1 of 5 calls have no age band: they count in no figure of age." in result["unmeasured"]


def test_end_to_end_speech_heard_and_decisions(corpus, measured):
    _, result, _ = measured
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


def test_end_to_end_page_and_pictures(measured):
    done, result, folder = measured
    page = (folder / "out.markdown").read_text()
    assert str(folder) not in page + json.dumps(result)
    assert str(ROOT) not in page + json.dumps(result)
    assert "--manifest m.tsv --split test --concurrency 4 --json out.json" in page
    assert report.HONESTY in page
    assert f"| gender | 5 | 4 | {result['gender']['all']['precision']:.3f} (" in page
    assert NO_LANGUAGE in page
    assert NO_LANGUAGE in done.stdout
    for name in ("picture", "calibration-picture"):
        assert (folder / f"out.{name}").read_bytes().startswith(b"\x89PNG")
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
