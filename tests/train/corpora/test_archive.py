import os
import unicodedata
import zipfile

import pytest

from train.corpora.archive import (
    Archive,
    MissingFileError,
    UnreadableFileError,
    archive,
    read_bytes,
    split_source,
)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/a/b.wav", ("/a/b.wav", "")),
        ("/a/[원천]1.AI챗봇.zip!가/나.wav", ("/a/[원천]1.AI챗봇.zip", "가/나.wav")),
        ("/a/B.ZIP!c.wav", ("/a/B.ZIP", "c.wav")),
        ("/wow!/a.wav", ("/wow!/a.wav", "")),
        ("/wow!/a.zip!b!.wav", ("/wow!/a.zip", "b!.wav")),
    ],
)
def test_sources(source, expected):
    assert split_source(source) == expected


@pytest.mark.parametrize("cp949", [False, True])
def test_korean_names_with_and_without_the_utf8_flag(tmp_path, make, cp949):
    make.zip(tmp_path / "라벨.zip", {"일반남여/가.json": b"1"}, cp949=cp949)
    assert list(archive(tmp_path / "라벨.zip").members) == ["일반남여/가.json"]
    assert read_bytes(f"{tmp_path}/라벨.zip!일반남여/가.json") == b"1"


def test_names_are_utf8_without_flag_or_composed_or_have_backslashes(tmp_path):
    class Unflagged(zipfile.ZipInfo):
        def _encodeFilenameFlags(self):  # noqa: N802
            return self.filename.encode(), 0

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(Unflagged("가나다.txt"), b"1")
        file.writestr(unicodedata.normalize("NFD", "소리.txt"), b"2")
        file.writestr("folder\\b.txt", b"3")
    assert set(archive(tmp_path / "a.zip").members) == {"가나다.txt", "소리.txt", "folder/b.txt"}
    assert read_bytes(f"{tmp_path}/a.zip!소리.txt") == b"2"
    assert read_bytes(f"{tmp_path}/a.zip!folder/b.txt") == b"3"


def test_faults_say_what_is_wrong(tmp_path, make):
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UnreadableFileError, match="not a zip file"):
        Archive(str(tmp_path / "broken.zip"))
    with pytest.raises(MissingFileError):
        read_bytes(f"{tmp_path}/none.zip!a")
    with pytest.raises(MissingFileError):
        read_bytes(f"{tmp_path}/none")
    make.zip(tmp_path / "a.zip", {"a": b"x" * 100})
    with pytest.raises(MissingFileError, match="no member 'b'"):
        read_bytes(f"{tmp_path}/a.zip!b")
    with pytest.raises(UnreadableFileError, match="directory"):
        read_bytes(str(tmp_path))


def test_a_damaged_member_costs_itself_only(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("good", b"g" * 50)
        file.writestr("bad", b"b" * 50)
    path.write_bytes(path.read_bytes().replace(b"b" * 50, b"c" * 50))
    assert read_bytes(f"{path}!good") == b"g" * 50
    with pytest.raises(UnreadableFileError, match="CRC"):
        read_bytes(f"{path}!bad")


def test_archives_stay_open_but_not_over_a_fork(tmp_path, make):
    path = tmp_path / "a.zip"
    make.zip(path, {"a": b"1"})
    mine = archive(path)
    assert archive(path) is mine
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"same" if archive(path) is mine else read_bytes(f"{path}!a"))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 9) == b"1"
    os.close(reading)
    os.close(writing)
