import os
import unicodedata

import pytest

from train.corpora.faults import Unusable
from train.corpora.tree import AudioIndex, Entry, scan, walk
from train.corpora.utterance import Rejected


def test_folders_and_archives_are_walked_alike(tmp_path, make):
    members = {"가/b.wav": b"", "가/a.json": b"{}"}
    make.tree(tmp_path / "plain", members)
    make.zip(tmp_path / "packed.zip", members, cp949=True)
    names = [entry.name for entry in walk(tmp_path)]
    assert sorted(names) == [
        "packed.zip/가/a.json",
        "packed.zip/가/b.wav",
        "plain/가/a.json",
        "plain/가/b.wav",
    ]
    assert names == [entry.name for entry in walk(tmp_path)]
    packed = next(entry for entry in walk(tmp_path) if entry.source.endswith("b.wav"))
    assert (packed.stem, packed.suffix) == ("b", ".wav")
    assert packed.source == f"{tmp_path}/packed.zip!가/b.wav"


def test_decomposed_names_of_macos_are_composed_but_opened_as_they_are(tmp_path):
    name = unicodedata.normalize("NFD", "소리.wav")
    (tmp_path / name).write_bytes(b"")
    (entry,) = walk(tmp_path)
    assert entry.name == "소리.wav"
    assert os.path.exists(entry.source)  # noqa: PTH110


def test_hidden_files_and_loops_are_passed_over(tmp_path, make):
    make.tree(tmp_path, {"a/._0001.wav": b"", "a/.git/x.wav": b"", "a/0001.wav": b""})
    make.zip(tmp_path / "b.zip", {"__MACOSX/a/0002.wav": b"", "a/._0002.wav": b""})
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert [entry.name for entry in walk(tmp_path)] == ["a/0001.wav"]


def test_broken_and_unjoined_archives_cost_themselves(tmp_path, make):
    make.tree(tmp_path, {"bad.zip": b"PK", "c.zip.part0": b"", "good.wav": b""})
    found = list(walk(tmp_path))
    assert [one.reason for one in found if isinstance(one, Rejected)] == [
        "archive unreadable",
        "part of an archive, not joined",
    ]
    assert [one.name for one in found if isinstance(one, Entry)] == ["good.wav"]


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        list(walk(tmp_path / "none"))


def entry(name: str) -> Entry:
    return Entry(f"/{name}", name)


def index(depth: int, *names: str) -> AudioIndex:
    audio = AudioIndex(depth)
    for name in names:
        audio.add(entry(name))
    return audio


def test_audio_is_found_by_stem_whatever_suffix_and_case():
    audio = index(1, "raw/a/x_1.WAV", "raw/a/x_2.wav")
    label = entry("labels/a/x_1.json")
    assert audio.find("x_1.wavp", label) == entry("raw/a/x_1.WAV")
    assert audio.find("x_3.wav", label) is None


def test_of_equal_names_the_one_beside_its_label_wins():
    audio = index(1, "Training/[원천]1/p/x.wav", "Validation/[원천]1/p/x.wav")
    label = entry("Validation/[라벨]1/p/x.json")
    assert audio.find("x.wav", label) == entry("Validation/[원천]1/p/x.wav")


def test_equal_names_of_two_calls_are_told_apart_by_depth():
    audio = index(2, "TS/D04/J18/S1/0005.wav", "TS/D04/J18/S2/0005.wav")
    label = entry("TL/D04/J18/S2/S2.json")
    for path in ("D04/J18/S2/0005.wav", "/else/where/S2/0005.wav", "D04\\J18\\S2\\0005.wav"):
        assert audio.find(path, label) == entry("TS/D04/J18/S2/0005.wav")


def test_equal_calls_of_two_domains_are_told_apart_by_the_path():
    audio = index(2, "TS/D03/J1/S2/0005.wav", "TS/D04/J18/S2/0005.wav")
    label = entry("TL/S2.json")
    assert audio.find("x/D03/J1/S2/0005.wav", label) == entry("TS/D03/J1/S2/0005.wav")


def test_what_cannot_be_told_apart_is_not_guessed():
    audio = index(1, "a/1/x.wav", "a/2/x.wav")
    with pytest.raises(Unusable, match="audio ambiguous"):
        audio.find("x.wav", entry("b/x.json"))


def test_scan_sorts_labels_from_audio(tmp_path, make):
    make.tree(tmp_path, {"x.json": b"{}", "x.wav": b"", "x.txt": b"", "bad.zip": b""})
    labels, audio, rejected = scan(tmp_path, lambda one: one.suffix == ".json", depth=1)
    assert [label.name for label in labels] == ["x.json"]
    assert audio.find("x", labels[0]).name == "x.wav"
    assert len(rejected) == 1
