"""Corpora in the layout their publishers give them, made here: tones, and labels of nobody."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from train.corpora.utterance import Rejected, Utterance


def tone(seconds: float = 1.0, rate: int = 16000, channels: int = 1) -> bytes:
    """A WAV file; channel k is a sine of 200 (k + 1) Hz."""
    t = np.arange(int(seconds * rate)) / rate
    wave = [0.3 * np.sin(2 * np.pi * 200 * (k + 1) * t) for k in range(channels)]
    file = io.BytesIO()
    soundfile.write(file, np.stack(wave, axis=1), rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


class Cp949Info(zipfile.ZipInfo):
    """An entry as Korean Windows writes it: name in cp949, no UTF-8 flag."""

    def _encodeFilenameFlags(self):  # noqa: N802
        return self.filename.encode("cp949"), self.flag_bits & ~0x800


def write_zip(path: Path, members: dict[str, bytes], cp949: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = (Cp949Info if cp949 else zipfile.ZipInfo)(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


def write_tree(folder: Path, members: dict[str, bytes]) -> None:
    for name, content in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def as_json(content: object, encoding: str = "utf-8-sig") -> bytes:
    return json.dumps(content, ensure_ascii=False).encode(encoding)


def sort(found) -> tuple[list[Utterance], list[Rejected]]:
    """Utterances by id, and what was rejected."""
    found = list(found)
    utterances = [one for one in found if isinstance(one, Utterance)]
    rejected = [one for one in found if isinstance(one, Rejected)]
    return sorted(utterances, key=lambda one: one.id), rejected


@pytest.fixture
def make():
    """The helpers above; a fixture, since test folders are no packages."""

    class Make:
        tone = staticmethod(tone)
        zip = staticmethod(write_zip)
        tree = staticmethod(write_tree)
        json = staticmethod(as_json)
        sort = staticmethod(sort)

    return Make
