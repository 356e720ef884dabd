"""`python -m train.prepare` from a folder to manifests."""

import json
import zipfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, RecordingSet, SupervisionSet, validate
from lhotse.audio.backend import get_current_audio_backend, set_current_audio_backend

from train.corpora import lhotse_backend
from train.corpora.sources import SOURCES
from train.prepare import Prepare, main

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
MANIFESTS = [
    "recordings.jsonl.gz",
    "supervisions.jsonl.gz",
    "cuts.train.jsonl.gz",
    "cuts.dev.jsonl.gz",
    "cuts.test.jsonl.gz",
]


@pytest.fixture
def corpus(tmp_path, tones):
    """Twenty speakers of three clips, and one of each fault."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = ["path,speaker,gender,age"]
    for speaker in range(20):
        gender, age = ("female", "male")[speaker % 2], 25 + 20 * (speaker % 4 // 2)
        for number in range(3):
            name = f"s{speaker}-{number}.wav"
            tones(folder / name, 0.6 + 0.01 * number)
            rows.append(f"{name},s{speaker},{gender},{age}")
    tones(folder / "short.wav", 0.1)
    (folder / "text.wav").write_text("no audio")
    rows += ["short.wav,s0,female,25", "text.wav,s0,female,25", "gone.wav,s0,female,25"]
    rows += ["x.wav,s0,,25", "s0-0.wav,s0,female,25"]
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def tones():
    def write(path: Path, seconds: float) -> None:
        t = np.arange(int(seconds * 8000)) / 8000
        soundfile.write(path, 0.1 * np.sin(2 * np.pi * 200 * t), 8000)

    return write


def run(capsys, *args: object) -> dict:
    main([str(arg) for arg in args] + ["--json"])
    return json.loads(capsys.readouterr().out)


def test_a_folder_of_recordings_becomes_manifests(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    summary = run(capsys, "tsv", corpus, out, "--language", "ko", "--licence", "ours")
    assert summary == json.loads((out / "prepare.json").read_text())
    assert (summary["read"], summary["kept"], summary["capped"]) == (64, 60, 0)
    assert summary["rejected"] == {
        "id repeated": 1,
        "gender missing": 1,
        "audio missing": 1,
        "audio unreadable": 1,
        "too short": 1,
    }
    listed = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert {Path(one["source"]).name: one["reason"] for one in listed}["text.wav"] == (
        "audio unreadable"
    )
    assert [of["speakers"] for of in summary["splits"].values()] == [16, 2, 2]
    assert (out / "report.html").read_text().count("data:image/png") == 3

    recordings = RecordingSet.from_file(out / "recordings.jsonl.gz").to_eager()
    supervisions = SupervisionSet.from_file(out / "supervisions.jsonl.gz").to_eager()
    assert len(recordings) == len(supervisions) == 60
    speakers = {}
    for split in ("train", "dev", "test"):
        cuts = CutSet.from_file(out / f"cuts.{split}.jsonl.gz")
        validate(cuts, read_data=True)
        for cut in cuts:
            (one,) = cut.supervisions
            assert recordings[cut.id] == cut.recording
            assert cut.id.startswith("mine/s")
            assert (one.language, one.custom["licence"], one.custom["split"]) == (
                "ko",
                "ours",
                split,
            )
            assert one.custom["speaker_clips"] == 3
            assert speakers.setdefault(one.speaker, split) == split
    assert len(speakers) == 20
    train = [cut.id for cut in CutSet.from_file(out / "cuts.train.jsonl.gz")]
    assert train != sorted(train)  # shuffled for readers that stream


def test_the_same_again_gives_the_same_bytes_and_reads_no_audio_twice(
    corpus, tmp_path, capsys, monkeypatch
):
    run(capsys, "tsv", corpus, tmp_path / "one", "--jobs", 2)
    run(capsys, "tsv", corpus, tmp_path / "two", "--jobs", 1)
    before = {name: (tmp_path / "one" / name).read_bytes() for name in MANIFESTS}
    assert before == {name: (tmp_path / "two" / name).read_bytes() for name in MANIFESTS}

    def known(source: str) -> None:
        assert Path(source).name in {"text.wav", "gone.wav"}, f"{source} read again"
        raise FileNotFoundError(source)

    monkeypatch.setattr("train.corpora.headers.info", known)
    run(capsys, "tsv", corpus, tmp_path / "one")
    assert before == {name: (tmp_path / "one" / name).read_bytes() for name in MANIFESTS}


def test_cap_seed_and_shares_are_obeyed(corpus, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ("--max-clips-per-speaker", 2, "--splits", "0.5,0,0.5", "--seed", 7)
    summary = run(capsys, "tsv", corpus, out, *flags)
    assert (summary["kept"], summary["capped"]) == (40, 20)
    assert [of["clips"] for of in summary["splits"].values()] == [20, 0, 20]
    cut = next(iter(CutSet.from_file(out / "cuts.train.jsonl.gz")))
    assert cut.supervisions[0].custom["speaker_clips"] == 2


def test_archives_are_read_in_place_up_to_the_cuts(tmp_path, capsys, tones):
    folder = tmp_path / "packed"
    folder.mkdir()
    tones(tmp_path / "a.wav", 1.0)
    with zipfile.ZipFile(folder / "원천.zip", "w") as archive:
        archive.write(tmp_path / "a.wav", "가/a.wav")
    (folder / "manifest.tsv").write_text(
        "path\tspeaker\tgender\tage\n원천.zip!가/a.wav\ts\tm\t30\n"
    )
    run(capsys, "tsv", folder, tmp_path / "out", "--splits", "1,0,0")
    (cut,) = CutSet.from_file(tmp_path / "out" / "cuts.train.jsonl.gz")
    before = get_current_audio_backend()
    lhotse_backend.install()
    try:
        assert cut.load_audio().shape == (1, 8000)
    finally:
        set_current_audio_backend(before)


def test_the_environment_does_not_set_the_language(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LANGUAGE", "en_US:en")
    monkeypatch.setenv("SEED", "nonsense")
    assert run(capsys, "tsv", corpus, tmp_path / "out")["settings"]["language"] == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("tsv", "{}/none", "{}/out"), "No such file"),
        (("aihub-ltv", "{}/none", "{}/out"), "no such folder"),
        (("commonvoice", "{}", "{}/out"), "no train.tsv"),
        (("aihub-fcvg", "{}", "{}/out"), "nothing usable: no labels found"),
        (("other", "{}", "{}/out"), "source: Input should be"),
        (("tsv", "{}", "{}/out", "--splits", "0.5,0.1,0.1"), "sum to 0.7"),
        (("tsv", "{}", "{}/out", "--jobs", "0"), "jobs"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, args, message):
    with pytest.raises(SystemExit) as stop:
        main([arg.format(tmp_path) for arg in args])
    assert message in str(stop.value)
    assert not (tmp_path / "out" / "prepare.json").exists()


def test_nothing_usable_says_why(tmp_path):
    (tmp_path / "manifest.csv").write_text("path,speaker,gender,age\ngone.wav,s,f,20\n")
    with pytest.raises(SystemExit, match=r"nothing usable: audio missing \(1\)"):
        main(["tsv", str(tmp_path), str(tmp_path / "out")])
    assert "gone.wav" in (tmp_path / "out" / "rejected.jsonl").read_text()


def test_help_names_every_source(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in SOURCES)
    assert get_args(Prepare.model_fields["source"].annotation) == tuple(SOURCES)


@pytest.mark.skipif(
    not (CORPUS / "manifest.tsv").exists(), reason="NOT TESTED: ../shared/corpus is not here"
)
def test_the_shared_corpus_keeps_its_splits(tmp_path, capsys):
    summary = run(capsys, "tsv", CORPUS, tmp_path)
    assert (summary["read"], summary["kept"], summary["rejected"]) == (11177, 11177, {})
    assert [of["clips"] for of in summary["splits"].values()] == [7890, 1197, 2090]
