"""What the README shows is run as it stands there."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamer.client import Client
from streamer.client.audio_file import read_as_call
from streamer.demo.__main__ import CALL
from streamer.process.local_server import local_server

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_gateway_example_prints_a_decision_per_leg(capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    namespace: dict[str, Any] = {}
    exec(code[1], namespace)  # noqa: S102 - our own README
    assert len(code[1].splitlines()) <= 25
    call = read_as_call(CALL)

    async def payloads(side: int) -> AsyncIterator[bytes]:
        for chunk in call.chunks(0.1):
            yield chunk[side::2]

    async def legs(target: str) -> None:
        async with Client(target) as client:
            await asyncio.gather(
                *(namespace["handle_leg"](client, f"leg-{n}", payloads(n)) for n in (0, 1))
            )

    with local_server() as server:
        asyncio.run(legs(server.target))
    printed = capsys.readouterr().out
    assert re.search(r"^leg-0 (female|male|undecided) \w+$", printed, re.MULTILINE)
    assert re.search(r"^leg-1 (female|male|undecided) \w+$", printed, re.MULTILINE)


@pytest.mark.parametrize("command", re.findall(r"\.venv/bin/python -m ([\w.]+)", README))
def test_every_module_that_the_readme_starts_exists(command):
    path = Path(__file__).parent.parent / command.replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_paths_in_the_readme_exist():
    root = Path(__file__).parent.parent
    for name in re.findall(r"`((?:proto|streamer|model|train|benchmarks|tests)/[\w./-]*)`", README):
        assert (root / name).exists(), name
