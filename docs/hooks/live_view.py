"""Draw the picture of the live view: ``python docs/hooks/live_view.py``.

Streams the demo call through a real server and stores the view as it stands after twelve seconds
of audio in ``docs/images/live-view.svg``.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
from pathlib import Path

from rich.console import Console

from streamer.client import Client, Prediction
from streamer.client.audio_file import read_as_call
from streamer.client.live_view import CallView
from streamer.demo.__main__ import CALL
from streamer.process.local_server import local_server

PICTURE = Path(__file__).resolve().parents[1] / "images" / "live-view.svg"
AUDIO_SECONDS = 12.0
CHUNK_SECONDS = 0.1
COLUMNS = 112
FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Web fonts of rich's template. A reader's own monospace font serves as well, and the picture
stays free of requests to another host."""


async def view_after(target: str, seconds: float) -> CallView:
    """The view of the demo call after so many seconds of audio."""
    audio = read_as_call(CALL)
    view = CallView("python -m streamer.client dialogue.wav", ("caller", "agent"), audio.seconds)
    async with (
        Client(target) as client,
        client.call(channels=("caller", "agent"), speech_events=True) as call,
    ):
        for chunk in itertools.islice(audio.chunks(CHUNK_SECONDS), round(seconds / CHUNK_SECONDS)):
            await call.send(chunk)
            # In real time: the server replaces predictions that wait behind newer audio.
            await asyncio.sleep(CHUNK_SECONDS)
        await call.end_of_audio()
        async for event in call:
            if not (isinstance(event, Prediction) and event.final):
                view.show(event)
    return view


def draw(path: Path) -> None:
    """Write the picture to ``path`` as SVG."""
    with local_server("--provider", "cpu") as server, path.with_suffix(".txt").open("w") as text:
        console = Console(record=True, width=COLUMNS, file=text, force_terminal=True)
        console.print(asyncio.run(view_after(server.target, AUDIO_SECONDS)))
    path.with_suffix(".txt").unlink()
    svg = console.export_svg(title="voicecohort", unique_id="live-view")
    path.write_text(FONT_FACE.sub("", svg))


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
