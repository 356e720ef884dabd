"""Start a server, stream the demo call through it, show running predictions, stop.

``python -m streamer.demo [options of streamer.client]``
"""

from __future__ import annotations

import sys
from pathlib import Path

from streamer.client import cli
from streamer.process.local_server import local_server

CALL = Path(__file__).parent / "dialogue.wav"


def main() -> int:
    """Run the demo; return 0 if every channel got its final prediction."""
    options = sys.argv[1:] or ["--realtime"]
    with local_server() as server:
        return cli.main([str(CALL), "--target", server.target, *options])


if __name__ == "__main__":
    sys.exit(main())
