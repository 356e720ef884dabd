"""train.probe: a student's embedding end to end, its outputs, its command line."""

import json

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet
from pydantic_settings import CliApp
from rich.console import Console

from model.classifier import BLOCK, SpeakerClassifier, StudentConfig
from train.corpora.utterance import Utterance
from train.data.batching import Batch
from train.probe import Probe, picture, shortcut_report, show
from train.probing.embeddings import embed

RATE = 8000


@pytest.fixture(scope="module")
def student() -> SpeakerClassifier:
    torch.manual_seed(1)
    return SpeakerClassifier(StudentConfig()).eval()


@pytest.fixture(scope="module")
def checkpoint(student, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "last.pt"
    state = {"best": {"weights": student.state_dict()}, "config": student.config.to_dict()}
    torch.save(state, path)
    return path


def batch_of(rows, targets, names):
    longest = -(-max(1, *map(len, rows)) // BLOCK) * BLOCK
    samples = torch.zeros(len(rows), longest)
    for into, row in zip(samples, rows, strict=True):
        into[: len(row)] = torch.from_numpy(row)
    bands = torch.tensor(targets)
    lengths = torch.tensor([len(row) for row in rows])
    return Batch(samples, lengths, {"age_band": bands, "gender": bands, "age_group": bands}, names)


def hum(seed, colour, seconds=0.7):
    """Noise through the response of one corpus's microphone."""
    noise = np.random.default_rng(seed).standard_normal(int(seconds * RATE))
    spectrum = np.fft.rfft(noise)
    spectrum *= (
        np.linspace(1, 0.05, len(spectrum)) if colour else np.linspace(0.05, 1, len(spectrum))
    )
    return (0.05 * np.fft.irfft(spectrum, len(noise))).astype(np.float32)


def test_embedding_is_that_of_the_utterance_alone(student):
    rows = [hum(1, True, 1.0), hum(2, False, 0.4), np.zeros(0, np.float32)]
    together = embed(student, [batch_of(rows, [0, 2, 2], ["a", "b", "silent"])])
    assert together.ids == ["a", "b"]  # no speech, no row
    assert together.targets.tolist() == [0, 2]
    alone = embed(student, [batch_of(rows[1:2], [2], ["b"])])
    np.testing.assert_allclose(together.embeddings[1], alone.embeddings[0], atol=1e-4)
    np.testing.assert_allclose(together.posteriors[1], alone.posteriors[0], atol=1e-4)
    frames = student.frontend(torch.from_numpy(rows[1])[None])[0]
    np.testing.assert_allclose(together.spectra[1], frames.mean(dim=0).numpy(), atol=1e-4)
    np.testing.assert_allclose(together.posteriors.sum(axis=1), 1, atol=1e-5)


def test_nothing_but_silence_is_an_error(student):
    with pytest.raises(ValueError, match="speech in none"):
        embed(student, [batch_of([np.zeros(0, np.float32)], [0], ["x"])])


def people_of(student):
    """Two corpora, two microphones, 20s only in one and both bands in the other."""
    rows, targets, names, people = [], [], [], {}
    for corpus in ("a", "b"):
        for band in ("child", "20s") if corpus == "a" else ("20s",):
            for n in range(6):
                name = f"{corpus}/{band}{n}"
                rows.append(hum(len(rows), corpus == "a"))
                targets.append(student.config.tree.age_band.index(band))
                names.append(name)
                people[name] = Utterance(
                    f"{band}{n}", corpus, f"{band}{n}", "male", "", age_band=band
                )
    return [batch_of(rows, targets, names)], people


def test_report_of_two_microphones(student, tmp_path):
    batches, people = people_of(student)
    report = shortcut_report(student, batches, people)
    child, twenties = report["corpus_probe"]
    assert (child["band"], child["accuracy"]) == ("child", None)
    assert child["reason"]
    assert twenties["audio"] > 0.9  # even an untrained student and the spectrum tell them apart
    assert twenties["accuracy"] > 0.9
    (pair,) = report["within_corpus"]
    assert pair["corpus"] == "a"
    assert 0 <= pair["auc"]["low"] <= pair["auc"]["high"] <= 1
    assert json.loads(json.dumps(report, allow_nan=False))["utterances"] == 18
    console = Console(record=True, width=120)
    show(report, console)
    text = console.export_text()
    assert "Age inside one corpus" in text
    assert "needs 2" in text
    picture(report, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_where_nothing_can_be_measured_there_is_still_a_report(student, tmp_path):
    _, people = people_of(student)
    only = [batch_of([hum(1, True)], [0], ["a/child0"])]
    report = shortcut_report(student, only, people)
    assert report["corpus_probe"][0]["accuracy"] is None
    assert report["within_corpus"][0]["reason"] == "no corpus has both child and 20s"
    show(report, Console(record=True))
    picture(report, tmp_path / "p.png")


@pytest.fixture(scope="module")
def prepared(make_cut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    cuts = []
    t = np.arange(RATE) / RATE
    for n in range(10):
        pitch = 110 + 10 * n
        wave = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 15))
        path = folder / f"{n}.wav"
        soundfile.write(path, 0.05 * wave * (1 + 0.9 * np.sin(25 * t)), RATE)
        cuts.append(make_cut(path, f"c/{n}", f"s{n}", "male", ("child", "20s")[n % 2], "dev"))
    CutSet.from_cuts(cuts).to_file(folder / "cuts.dev.jsonl.gz")
    return folder


def test_command_line(prepared, checkpoint, tmp_path, capsys):
    args = ["--data", str(prepared), "--channel", "clean", "--json", "--student"]
    picture_of = ["--picture", str(tmp_path / "p.png")]
    CliApp.run(Probe, cli_args=[*args, str(checkpoint), *picture_of])
    report = json.loads(capsys.readouterr().out)
    CliApp.run(Probe, cli_args=[*args, str(checkpoint.parent)])  # of the run's folder likewise
    assert json.loads(capsys.readouterr().out) == report
    assert report["utterances"] == 10
    assert report["within_corpus"][0]["speakers"] == {"child": 5, "20s": 5}
    assert (tmp_path / "p.png").exists()


def test_command_line_names_what_is_wrong(prepared, checkpoint, tmp_path):
    args = ["--data", str(prepared), "--split", "test", "--student", str(checkpoint)]
    with pytest.raises(SystemExit, match="split 'test'"):
        CliApp.run(Probe, cli_args=args)
    args = ["--data", str(prepared), "--student", str(tmp_path / "none.pt")]
    with pytest.raises(SystemExit, match=r"none\.pt"):
        CliApp.run(Probe, cli_args=args)
