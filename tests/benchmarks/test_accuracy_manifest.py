import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from scoring.manifest import read_manifest

COLUMNS = ["id", "corpus", "speaker", "gender", "age", "age_band", "split", "path"]


@pytest.fixture
def manifest(tmp_path):
    rows = [COLUMNS]
    for n in range(6):
        split = "sealed" if n < 4 else "dev"
        rows.append([f"u{n}", "c", f"s{n}", "female", "", "child" if n else "", split, f"{n}.wav"])
    path = tmp_path / "whole.tsv"
    path.write_text("\n".join("\t".join(row) for row in rows))
    return path


def test_rows_and_paths(manifest):
    rows = read_manifest(manifest, "sealed")
    assert [row.id for row in rows] == ["u0", "u1", "u2", "u3"]
    assert rows[0].path == manifest.parent / "0.wav"
    assert (rows[1].gender, rows[1].age_band, rows[0].age_band) == ("female", "child", "")


def test_unknown_split_names_what_there_is(manifest):
    with pytest.raises(ValueError, match=r"'test'.*\['dev', 'sealed'\]"):
        read_manifest(manifest, "test")


def test_missing_column_is_named(tmp_path):
    (tmp_path / "m.tsv").write_text("id\tcorpus\tspeaker\tgender\tsplit\tpath\n")
    with pytest.raises(ValueError, match="no column age_band"):
        read_manifest(tmp_path / "m.tsv", "dev")


def test_a_short_row_is_named_by_its_line(manifest, tmp_path):
    header, first, *_ = manifest.read_text().splitlines()
    (tmp_path / "m.tsv").write_text("\n".join([header, first, "only-an-id\tcorpus"]))
    with pytest.raises(ValueError, match=r"line 3: no speaker, gender, age_band, split, path"):
        read_manifest(tmp_path / "m.tsv", "dev")


def test_a_manifest_in_another_encoding_is_named(tmp_path):
    (tmp_path / "m.tsv").write_bytes("id\tcorpus\tschön".encode("latin-1"))
    with pytest.raises(ValueError, match=r"m\.tsv: not UTF-8 at byte 13"):
        read_manifest(tmp_path / "m.tsv", "dev")


def test_language_is_read_where_there_is_such_a_column(manifest, tmp_path):
    assert read_manifest(manifest, "dev")[0].language is None
    lines = manifest.read_text().splitlines()
    (tmp_path / "m.tsv").write_text(
        "\n".join([lines[0] + "\tlanguage", lines[-2] + "\tko", lines[-1] + "\t"])
    )
    assert [row.language for row in read_manifest(tmp_path / "m.tsv", "dev")] == ["ko", ""]
    (tmp_path / "m.tsv").write_text("\n".join([lines[0] + "\tlanguage", lines[-1]]))
    with pytest.raises(ValueError, match="line 2: no language"):
        read_manifest(tmp_path / "m.tsv", "dev")
