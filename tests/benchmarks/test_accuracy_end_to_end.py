"""benchmarks/accuracy.py from recordings to figures: a manifest, the server, the page."""

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
from scoring import calls, report

from streamer.audio.codec import Encoding, decode
from streamer.audio.speech_gate import speech_of
from streamer.inference.model import DEFAULT_MODEL, OnnxModel

ROOT = Path(__file__).parents[2]


NO_LANGUAGE = "The manifest has no column language: there are no figures by language."
COLUMNS = ["id", "corpus", "speaker", "gender", "age_band", "split", "path"]


def write_manifest(folder, rows):
    with (folder / "m.tsv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerows([COLUMNS, *rows])
    return folder / "m.tsv"


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
    # The second channel must not be used.
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


@pytest.mark.parametrize(
    ("change", "message"),
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
def test_unusable_arguments(tmp_path, capsys, change, message):
    manifest = write_manifest(tmp_path, [["1", "c", "s", "male", "20s", "test", "1.wav"]])
    options = {"--manifest": str(manifest), "--split": "test", **change}
    assert accuracy.main([word for pair in options.items() for word in pair]) == 2
    printed = capsys.readouterr().err
    assert message in printed
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
    # The only call of a speaker in his forties is silent, so nothing can be right.
    forties = result["per_band"]["40s"]
    assert (forties["calls"], forties["speakers"], forties["corpora"]) == (1, 1, ["other"])
    assert forties["age_group_recall"] == forties["age_band_recall"] == 0.0
    assert [forties["gender"][name]["recall"] for name in ("female", "male")] == [None, 0.0]
    assert result["per_corpus"]["speechocean762"]["calls"] == 3
    assert result["per_corpus"]["other"]["age_band"]["n"] == 1
    assert result["child_vs_20s"]["n"] == 3
    carried = OnnxModel(DEFAULT_MODEL, provider="cpu").metadata.provenance.get("shortcut")
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
    assert report.CAVEAT in page
    assert f"| gender | 5 | 4 | {result['gender']['all']['precision']:.3f} (" in page
    assert NO_LANGUAGE in page
    assert NO_LANGUAGE in done.stdout
    for name in ("picture", "calibration-picture"):
        assert (folder / f"out.{name}").read_bytes().startswith(b"\x89PNG")
    assert "Final predictions" in done.stdout
    assert report.CAVEAT in done.stdout


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
