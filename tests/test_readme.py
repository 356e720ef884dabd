"""The gateway of the README runs as printed, its first output is real, its form is kept."""

import asyncio
import dataclasses
import itertools
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamer.client import Client, Prediction
from streamer.client.audio_file import read_as_call
from streamer.demo.__main__ import CALL
from streamer.process.local_server import local_server

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
MAX_LINES, MAX_COLUMNS = 160, 120
SECTIONS = [
    "What comes out",
    "Quick start",
    "A gateway in 20 lines",
    "How it works",
    "Figures",
    "Intended use and limits",
    "Install",
    "Documentation",
    "Contributing, licence, citation",
]


@pytest.fixture(scope="module")
def server():
    with local_server("--provider", "cpu") as running:
        yield running


def test_gateway_prints_a_decision_per_leg(server, capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    namespace: dict[str, Any] = {}
    exec(code[1], namespace)  # noqa: S102 - our own README
    handler = code[1].partition("async def handle_leg")[2]
    assert len([line for line in handler.splitlines() if line]) <= 20
    call = read_as_call(CALL)

    async def payloads(side: int) -> AsyncIterator[bytes]:
        for chunk in call.chunks(0.1):
            yield chunk[side::2]

    async def legs(target: str) -> None:
        async with Client(target) as client:
            await asyncio.gather(
                *(namespace["handle_leg"](client, f"leg-{n}", payloads(n)) for n in (0, 1))
            )

    asyncio.run(legs(server.target))
    printed = capsys.readouterr().out
    assert re.search(r"^leg-0 (female|male|undecided) \w+$", printed, re.MULTILINE)
    assert re.search(r"^leg-1 (female|male|undecided) \w+$", printed, re.MULTILINE)


def test_printed_response_is_that_of_the_demo_call(server):
    code = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert code is not None
    printed = json.loads(code[1])["prediction"]
    audio = read_as_call(CALL)

    async def receive() -> dict[str, Any]:
        """The prediction of the same channel after the same audio, as ``--json`` prints it."""
        async with (
            Client(server.target) as client,
            client.call(channels=["caller", "agent"], update_seconds=0.5) as call,
        ):
            for chunk in itertools.islice(audio.chunks(0.1), printed["sequence"]):
                await call.send(chunk)
            async for event in call:
                assert isinstance(event, Prediction)
                if (event.channel, event.sequence) == (printed["channel"], printed["sequence"]):
                    return dataclasses.asdict(event)
        raise AssertionError("the call ended before the prediction")

    real = asyncio.run(asyncio.wait_for(receive(), 30))
    assert list(real) == list(printed)
    for name, value in printed.items():
        if not isinstance(value, dict):
            assert real[name] == value, name
            continue
        assert list(real[name]) == list(value), name
        assert list(real[name]["posterior"]) == list(value["posterior"])
        assert real[name]["label"] == value["label"]
        assert real[name]["undecided"] == value["undecided"]
        # Other CPUs round the 8-bit arithmetic in another way.
        assert real[name]["posterior"] == pytest.approx(value["posterior"], abs=0.02)


def test_length_width_and_order():
    lines = README.splitlines()
    assert len(lines) <= MAX_LINES
    assert [line for line in lines if len(line) > MAX_COLUMNS and not line.startswith("|")] == []
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == SECTIONS
