import json

import pytest

from train.corpora.audio import AudioInfo
from train.corpora.faults import Unusable
from train.corpora.headers import Journal, read_header, read_headers


@pytest.fixture
def sources(tmp_path, make):
    make.tree(tmp_path, {"a.wav": make.tone(1.0), "bad.wav": b"x", "empty.wav": make.tone(0.0)})
    make.zip(tmp_path / "z.zip", {"b.wav": make.tone(2.0, 8000)})
    names = ("a.wav", "bad.wav", "empty.wav", "none.wav", "z.zip!b.wav", "z.zip!none.wav")
    return [f"{tmp_path}/{name}" for name in names]


def test_every_source_gets_a_header_or_a_reason(sources, tmp_path):
    found = dict(read_headers(sources, Journal(tmp_path / "headers.jsonl"), jobs=2))
    assert found[sources[0]] == AudioInfo(16000, 16000, 1)
    assert found[sources[4]] == AudioInfo(8000, 16000, 1)
    faults = {one: found[one].reason for one in sources if isinstance(found[one], Unusable)}
    reasons = ["audio unreadable", "audio empty", "audio missing", "audio missing"]
    assert list(faults.values()) == reasons


def test_what_is_known_is_not_read_again_but_faults_are(sources, tmp_path, make, monkeypatch):
    path = tmp_path / "headers.jsonl"
    first = dict(read_headers(sources, Journal(path), jobs=1))
    make.tree(tmp_path, {"bad.wav": make.tone(3.0)})
    read = []
    monkeypatch.setattr(
        "train.corpora.headers.read_header", lambda one: read.append(one) or read_header(one)
    )
    second = dict(read_headers(sources, Journal(path), jobs=1))
    assert sorted(read) == sorted(one for one in sources if isinstance(first[one], Unusable))
    assert second[sources[1]] == AudioInfo(16000, 48000, 1)
    assert second[sources[0]] == first[sources[0]]


def test_a_journal_cut_short_by_a_kill_goes_on(tmp_path):
    path = tmp_path / "headers.jsonl"
    path.write_text('["/가.wav", 8000, 80, 1]\n["/b.wav", 80')
    journal = Journal(path)
    assert journal.known == {"/가.wav": AudioInfo(8000, 80, 1)}
    journal.append({"/c.wav": AudioInfo(16000, 1, 2)})
    assert [json.loads(line)[0] for line in path.read_text().splitlines()] == ["/가.wav", "/c.wav"]
    assert Journal(path).known == journal.known


@pytest.mark.parametrize("line", ["nonsense", '["/a.wav", 1]', '["/a.wav", null, 1, 1]', "7"])
def test_a_journal_that_is_none_is_refused(tmp_path, line):
    path = tmp_path / "headers.jsonl"
    path.write_text(f'["/a.wav", 8000, 80, 1]\n{line}\n')
    with pytest.raises(ValueError, match="line 2"):
        Journal(path)


def test_an_interrupted_run_keeps_what_it_has_read(tmp_path, make, monkeypatch):
    make.tree(tmp_path, {f"{n}.wav": make.tone(0.1) for n in range(6)})
    sources = [f"{tmp_path}/{n}.wav" for n in range(6)]
    monkeypatch.setattr("train.corpora.headers._BATCH", 2)
    running = read_headers(sources, Journal(tmp_path / "headers.jsonl"), jobs=1)
    for _ in range(3):
        next(running)
    running.close()
    assert len(Journal(tmp_path / "headers.jsonl").known) == 4
