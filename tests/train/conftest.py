"""A tiny labelled corpus that we make ourselves: tones with the pitch of their class."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from train.corpus import DecodedCorpus, read_manifest

FIELDS = [
    "id",
    "corpus",
    "speaker",
    "gender",
    "age",
    "age_band",
    "language",
    "seconds",
    "split",
    "licence",
    "path",
]


def voiced(pitch: float, seconds: float, seed: int, rate: int = 16000) -> np.ndarray:
    """Harmonics with syllables, enough for the speech gate to take it for speech."""
    random = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * pitch * k * t + random.uniform(0, 6)) / k for k in range(1, 20))
    return 0.05 * wave * (1 + 0.9 * np.sin(2 * np.pi * 4 * t)) + 0.002 * random.standard_normal(
        len(t)
    )


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    bands = ("child", "20s", "40s", "60+", "")
    rows = []
    for split, count in (("train", 20), ("dev", 10)):
        for n in range(count):
            gender = ("female", "male")[n % 2]
            name = f"{split}-{n}"
            pitch = (210 if gender == "female" else 110) + n
            soundfile.write(folder / f"{name}.wav", voiced(pitch, 2.0, n), 16000)
            row = [name, "made", f"s{n // 2}-{split}", gender, "", bands[n % 5], "en", "2.0"]
            rows.append([*row, split, "CC0", f"{name}.wav"])
    with (folder / "m.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(FIELDS)
        writer.writerows(rows)
    return folder / "m.tsv"


@pytest.fixture(scope="session")
def corpus(manifest, tmp_path_factory) -> DecodedCorpus:
    return DecodedCorpus(read_manifest(manifest, "train"), tmp_path_factory.mktemp("cache"))
