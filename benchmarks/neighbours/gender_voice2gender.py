"""voice2gender: twenty acoustic features of the whole call, then boosted trees that it brings."""

from __future__ import annotations

import argparse
from importlib.metadata import version

from voice2gender import predict  # type: ignore[import-not-found,unused-ignore]

from neighbours.answering import Answer, Said, Sound, serve


def load(_: argparse.Namespace) -> tuple[str, Answer]:
    """Its trees come with the package."""

    def answer(sound: Sound) -> Said:
        said = predict([sound.samples.astype("<i2").tobytes()], sample_rate=sound.rate)
        female = said["female_probability"] > said["male_probability"]
        return Said("female" if female else "male")

    return f"voice2gender {version('voice2gender')}", answer


if __name__ == "__main__":
    serve(load)
