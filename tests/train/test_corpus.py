import numpy as np
import pytest

from train.corpus import DecodedCorpus, read_audio, read_manifest


def test_rows_and_paths(manifest):
    rows = read_manifest(manifest, "train")
    assert len(rows) == 20
    assert rows[0].path.is_file()
    assert (rows[0].gender, rows[0].age_band, rows[0].licence) == ("female", "child", "CC0")
    assert rows[4].age_band == ""


def test_unknown_split_names_what_there_is(manifest):
    with pytest.raises(ValueError, match=r"'test'.*\['dev', 'train'\]"):
        read_manifest(manifest, "test")


def test_missing_column_is_named(tmp_path):
    (tmp_path / "m.tsv").write_text("id\tcorpus\tspeaker\tgender\tsplit\tpath\n")
    with pytest.raises(ValueError, match="no column age_band"):
        read_manifest(tmp_path / "m.tsv")


def test_cache_holds_what_decoding_gives_and_is_reused(manifest, tmp_path, monkeypatch):
    rows = read_manifest(manifest, "dev")
    first = DecodedCorpus(rows, tmp_path)
    for index in (0, len(rows) - 1):
        np.testing.assert_array_equal(first.samples(index), read_audio(rows[index].path))
    monkeypatch.setattr("train.corpus.read_audio", lambda _: pytest.fail("decoded again"))
    again = DecodedCorpus(rows, tmp_path)
    np.testing.assert_array_equal(again.samples(3), first.samples(3))


def test_an_interrupted_decoding_starts_again(manifest, tmp_path, monkeypatch):
    rows = read_manifest(manifest, "dev")
    calls = []

    def failing(path):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read_audio(path)

    monkeypatch.setattr("train.corpus.read_audio", failing)
    with pytest.raises(KeyboardInterrupt):
        DecodedCorpus(rows, tmp_path)
    monkeypatch.undo()
    whole = DecodedCorpus(rows, tmp_path)
    np.testing.assert_array_equal(whole.samples(9), read_audio(rows[9].path))


def test_a_short_row_is_named_by_its_line(manifest, tmp_path):
    header, first, *_ = manifest.read_text().splitlines()
    (tmp_path / "m.tsv").write_text("\n".join([header, first, "only-an-id\tcorpus"]))
    with pytest.raises(ValueError, match=r"line 3: no speaker, gender, age_band, split, path"):
        read_manifest(tmp_path / "m.tsv")


def test_a_manifest_in_another_encoding_is_named(tmp_path):
    (tmp_path / "m.tsv").write_bytes("id\tcorpus\tschön".encode("latin-1"))
    with pytest.raises(ValueError, match=r"m\.tsv: not UTF-8 at byte 13"):
        read_manifest(tmp_path / "m.tsv")
