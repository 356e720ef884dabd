"""voice2gender per call: twenty acoustic features of the whole file, then boosted trees.

No neural network, no age, no running predictions: one answer once the call is over.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version

from voice2gender import predict  # type: ignore[import-not-found,unused-ignore]

from neighbours.child import Calls, Hear, serve, whole
from streamer.audio.codec import SAMPLE_RATE


def load(_: argparse.Namespace) -> tuple[str, Hear]:
    """Its trees come with the package."""

    def hear(calls: Calls) -> int:
        for call in calls:
            predict([whole(call).astype("<i2").tobytes()], sample_rate=SAMPLE_RATE)
        return len(calls)

    return f"voice2gender {version('voice2gender')}", hear


if __name__ == "__main__":
    serve(load)
