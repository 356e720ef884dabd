import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from train.corpora.audio import read_audio
from train.data.dataset import audio_of, open_data
from train.preview_channel import PreviewChannel, main, write_examples
from train.telephone import EFFECTS, ChannelSettings, TelephoneChannel, active_level_db
from train.telephone.spectrogram import Panel, side_by_side, spectrogram_db

REPOSITORY = Path(__file__).parents[2]
CORPUS = REPOSITORY.parent / "shared" / "corpus" / "audio"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three recordings of 16 kHz, one in a subfolder, and something else."""
    folder = tmp_path_factory.mktemp("speech")
    (folder / "more").mkdir()
    t = np.arange(24_000) / 16_000
    for number, name in enumerate(("a.wav", "b.flac", "more/c.ogg")):
        wave = np.sin(2 * np.pi * (150 + 60 * number) * t) * (np.sin(20 * t) > 0)
        soundfile.write(folder / name, 0.2 * wave, 16_000)
    (folder / "notes.txt").write_text("not audio")
    return folder


def settings(source, out, **more):
    return PreviewChannel.model_validate({"in": source, "out": out, **more})


def test_writes_pairs_pictures_and_a_page(folder, tmp_path):
    examples = write_examples(settings(folder, tmp_path, count=2))
    assert len(examples) == 2
    page = (tmp_path / "index.html").read_text()
    for example in examples:
        clean, rate = soundfile.read(tmp_path / example["clean"], dtype="int16")
        np.testing.assert_array_equal(clean, read_audio(example["source"], 8000))
        (version,) = example["versions"]
        call, call_rate = soundfile.read(tmp_path / version["wav"], dtype="int16")
        assert rate == call_rate == 8000
        assert len(call) >= len(clean)
        assert (tmp_path / example["picture"]).read_bytes().startswith(b"\x89PNG")
        for name in (example["clean"], version["wav"], example["picture"]):
            assert name in page
        for effect in version["effects"]:
            assert effect["effect"] in page


def test_one_file_and_every_effect_alone(folder, tmp_path):
    (example,) = write_examples(settings(folder / "a.wav", tmp_path, each_effect=True))
    names = [version["name"] for version in example["versions"]]
    # One file has no other talkers.
    assert names == ["full", *(e for e in EFFECTS if e not in ("babble", "far_end_echo"))]
    for version in example["versions"]:
        assert (tmp_path / version["wav"]).exists()


def test_several_files_babble_too(folder, tmp_path):
    example = write_examples(settings(folder, tmp_path, count=1, each_effect=True))[0]
    assert [version["name"] for version in example["versions"]] == ["full", *EFFECTS]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(folder, tmp_path):
    for out, seed in (("one", 5), ("two", 5), ("three", 6)):
        write_examples(settings(folder, tmp_path / out, seed=seed))
    files = sorted(p.name for p in (tmp_path / "one").glob("*_full.wav"))
    one, two, three = (
        b"".join((tmp_path / out / name).read_bytes() for name in files)
        for out in ("one", "two", "three")
    )
    assert one == two
    assert one != three


@pytest.mark.parametrize("kind", ["prepared", "sharded"])
def test_a_corpus_is_read(request, kind, tmp_path):
    corpus = request.getfixturevalue(kind)
    (example,) = write_examples(settings(corpus, tmp_path, split="dev", count=1))
    cut = next(cut for cut in open_data(corpus, "dev") if cut.id == example["source"])
    clean, _ = soundfile.read(tmp_path / example["clean"], dtype="int16")
    np.testing.assert_array_equal(clean, audio_of(cut, 8000))
    with pytest.raises(ValueError, match="split 'test': no utterances"):
        write_examples(settings(corpus, tmp_path, split="test"))


def test_command_prints_json(folder, tmp_path, capsys):
    main([str(folder / "a.wav"), "--out", str(tmp_path), "--preset", "simple", "--json"])
    (example,) = json.loads(capsys.readouterr().out)
    assert {e["effect"] for e in example["versions"][0]["effects"]} <= {
        "level",
        "trunk_band",
        "g711",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "in: no audio in nowhere"),
        (["x.wav", "--count", "0"], "count"),
        (["x.wav", "--preset", "loud"], "preset"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        main([*arguments, "--out", str(tmp_path)])


def test_it_runs_as_a_module():
    run = subprocess.run(
        [sys.executable, "-m", "train.preview_channel", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--each-effect" in run.stdout


def test_a_sine_is_where_and_as_loud_as_it_should_be():
    sine = (3276.8 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)).astype(np.int16)
    levels = spectrogram_db(sine)
    assert levels.argmax(axis=0)[10] == 32  # of 128 bins to 4 kHz
    assert levels[32, 10] == pytest.approx(-20, abs=0.2)


@pytest.mark.parametrize("n", [0, 1, 300])
def test_short_speech_has_a_picture_too(n):
    assert side_by_side([Panel("short", np.ones(n, np.int16))] * 5).startswith(b"\x89PNG")


def test_real_speech_survives_the_channel(lag):
    files = sorted(CORPUS.glob("*/*/*.opus"))
    if not files:
        pytest.skip(f"no corpus at {CORPUS.relative_to(REPOSITORY.parent)}")
    channel = TelephoneChannel(ChannelSettings.full().only("amr"))
    for number, file in enumerate(files[:: len(files) // 3][:3]):
        speech = read_audio(str(file), 8000)
        call = channel(speech, np.random.default_rng(number))
        assert len(call) == len(speech)
        assert abs(lag(speech, call)) <= 8
        assert abs(active_level_db(call) - active_level_db(speech)) < 3


def test_nothing_of_the_corpus_is_in_the_repository():
    tracked = subprocess.run(
        ["git", "ls-files", "*.opus", "*.wav", "*.flac"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    # The demo is synthetic; any other audio would have to come from somewhere.
    assert [f for f in tracked.stdout.split() if not f.startswith("streamer/demo/")] == []
