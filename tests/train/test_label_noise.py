"""train.label_noise end to end on made voices with planted errors."""

import csv
import json
from collections import defaultdict

import numpy as np
import pytest
import soundfile
from lhotse import CutSet
from pydantic_settings import CliApp

from train.corpora.utterance import Utterance
from train.corpora.weights import read_weights
from train.label_noise import LabelNoise, age_label, gender_label, implausible

RATE = 8000
WRONG = {"b/s4", "b/s11", "b/s18"}
MUMBLER = "b/s7"


def voice(pitch, tract, seed, seconds=0.8):
    """Harmonics under three resonances whose place follows the vocal tract, int16."""
    random = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.08 * np.sin(2 * np.pi * 3 * t))) / RATE
    harmonics = np.arange(1, int(3600 / pitch))
    hz = harmonics * pitch
    gain = sum(1 / (1 + ((hz - tract * f) / 120) ** 2) for f in (550, 1500, 2500)) + 0.02
    wave = (gain[:, None] * np.cos(harmonics[:, None] * phase)).sum(axis=0)
    wave = wave / np.abs(wave).max() + 0.01 * random.standard_normal(len(t))
    return (9000 * wave).astype(np.int16)


@pytest.fixture(scope="module")
def prepared(make_cut, tmp_path_factory):
    """Corpus a: 24 adults and 12 children; corpus b: 24 adults, three of them mislabelled."""
    folder = tmp_path_factory.mktemp("prepared")
    random = np.random.default_rng(7)
    cuts = []
    for corpus, count in (("a", 36), ("b", 24)):
        for n in range(count):
            gender = ("female", "male")[n % 2]
            child = corpus == "a" and n >= 24
            pitch = (270 if child else 205 if gender == "female" else 115) * random.uniform(
                0.9, 1.1
            )
            tract = (1.35 if child else 1.15 if gender == "female" else 1.0) * random.uniform(
                0.97, 1.03
            )
            given = (
                {"female": "male", "male": "female"}[gender]
                if f"{corpus}/s{n}" in WRONG
                else gender
            )
            for clip in range(2):
                name = f"u{n}-{clip}"
                samples = voice(pitch, tract, 100 * n + clip)
                if f"{corpus}/s{n}" == MUMBLER:
                    samples = np.zeros(RATE, np.int16)
                soundfile.write(folder / f"{corpus}{name}.wav", samples, RATE)
                band = "child" if child else "20s"
                path = folder / f"{corpus}{name}.wav"
                cuts.append(make_cut(path, f"{corpus}/{name}", f"s{n}", given, band, clips=2))
    CutSet.from_cuts(cuts).to_file(folder / "cuts.train.jsonl.gz")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def run(prepared, cache, out, *more):
    CliApp.run(
        LabelNoise, cli_args=[str(prepared), str(out), "--cache", str(cache), "--folds", "3", *more]
    )


def test_planted_errors_are_listed(prepared, cache, tmp_path, capsys):
    out, page = tmp_path / "d.tsv", tmp_path / "d.html"
    more = ("--json", "--tasks", "gender,age_group", "--report", str(page), "--jobs", "2")
    run(prepared, cache, out, *more)
    with out.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    speakers = defaultdict(list)
    for row in rows:
        assert row["task"] == "gender"
        assert {row["given"], row["suggested"]} == {"female", "male"}
        assert float(row["confidence"]) >= 0.7
        speakers[row["speaker"]].append(row["id"])
    assert set(speakers) == WRONG  # precision and recall 1
    assert sorted(speakers["b/s4"]) == ["b/u4-0", "b/u4-1"]
    weights = read_weights(out)
    assert len(weights) == 6
    assert set(weights.values()) == {0.0}

    result = json.loads(capsys.readouterr().out)
    assert result["listed"] == 6
    assert result["without_voice"] == 2
    by = {(row["task"], row["corpus"]): row for row in result["corpora"]}
    assert by["gender", "a"] == {
        "task": "gender", "corpus": "a", "judged": 24, "flagged": 0, "clips": 0,
        "by_pitch": 0, "both": 0,
    }  # fmt: skip
    assert by["gender", "b"]["judged"] == 23
    assert (by["gender", "b"]["flagged"], by["gender", "b"]["both"]) == (3, 3)
    assert (by["age_group", "a"]["judged"], by["age_group", "a"]["flagged"]) == (36, 0)
    why = "1 labels with enough speakers, needs 2"
    assert result["skipped"] == [{"task": "age_group", "among": "b", "label": "", "why": why}]
    text = page.read_text()
    assert "data:image/png;base64," in text
    assert "b/s11" in text
    assert "too few speakers with a label to compare: age_group in b." in text


def test_a_second_run_takes_the_cache(prepared, cache, tmp_path, capsys, monkeypatch):
    run(prepared, cache, tmp_path / "a.tsv")
    monkeypatch.setattr(
        "train.label_quality.voice_cache.describe", lambda _: pytest.fail("not cached")
    )
    run(
        prepared,
        cache,
        tmp_path / "b.tsv",
        "--keep-weight",
        "0.25",
        "--report",
        str(tmp_path / "r.png"),
    )
    assert set(read_weights(tmp_path / "b.tsv").values()) == {0.25}
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "Labels that contradict the voice" in shown
    assert "A list of doubts, not of errors" in shown


def test_a_stopped_run_goes_on(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("train.label_quality.voice_cache.PART", 50)
    broken = tmp_path / "cache"

    def stop(*_):
        raise KeyboardInterrupt

    settings = LabelNoise(prepared=prepared, out=tmp_path / "d.tsv", cache=broken, folds=3)
    with monkeypatch.context() as patch:
        patch.setattr("rich.progress.Progress.advance", stop)
        with pytest.raises(KeyboardInterrupt):
            settings.run()
    assert [p.name for p in broken.glob("*/*")] == ["00000.npy"]
    assert settings.run()["listed"] == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--split", "dev"), "split 'dev'"),
        (("--report", "page.pdf"), "report: 'page.pdf' ends neither in .png nor in .html"),
    ],
)
def test_what_cannot_be_used_is_named(prepared, cache, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        run(prepared, cache, tmp_path / "d.tsv", *more)
    assert not (tmp_path / "d.tsv").exists()


def test_audio_that_cannot_be_read_is_named(prepared, tmp_path):
    cuts = list(CutSet.from_file(prepared / "cuts.train.jsonl.gz"))[:3]
    cuts[1].recording.sources[0].source = str(tmp_path / "gone.wav")
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.train.jsonl.gz")
    with pytest.raises(SystemExit, match="a/u0-1: its audio cannot be used"):
        run(tmp_path, tmp_path / "cache", tmp_path / "d.tsv")


def person(age=None, band="", gender="male"):
    return Utterance("u", "c", "s", gender, "x.wav", age=age, age_band=band)


@pytest.mark.parametrize(
    ("speaker", "gender", "age"),
    [
        (person(band="20s"), "male", "adult"),
        (person(band="60+"), "male", "adult"),
        (person(), "male", ""),  # bands wider than ours are adults'
        (person(band="child"), "", "child"),
        (person(band="teens"), "", ""),  # may be ten
        (person(age=15, band="teens"), "", ""),
        (person(age=17, band="teens"), "male", ""),
    ],
)
def test_which_speakers_are_judged(speaker, gender, age):
    assert gender_label(speaker) == gender
    assert age_label(speaker) == age


@pytest.mark.parametrize(
    ("gender", "pitch", "expected"),
    [("male", 179, False), ("male", 181, True), ("female", 146, False), ("female", 144, True)],
)
def test_pitch_rule(gender, pitch, expected):
    assert implausible(gender, pitch) is expected
