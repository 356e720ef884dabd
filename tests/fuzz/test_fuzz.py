"""Every target for a while: with hypothesis, and coverage-guided where atheris is installed."""

import asyncio
import runpy
import sys
from pathlib import Path

import pytest
import structlog
from hypothesis import given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))  # the targets import each other by name

import campaign
import harness
import target_wire
from targets import NAMES, load

from streamer.call.call import Call
from streamer.session.channel import Channel

IN_PROCESS = {
    "codec": 300,
    "sound_file": 250,
    "stream": 150,
    "stream_raw": 150,
    "wire": 40,
    "trunk": 120,
    "secrets": 300,
    "checkpoint": 120,
}
"""Inputs of each; coverage-guided runs follow below."""


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    before = structlog.get_config()
    campaign.quiet()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def calls(run_async):
    """The service without sockets, on the loop that all tests share."""
    made = harness.CallHarness(run_async)
    yield made
    made.close()


@pytest.fixture(scope="module")
def wire(run_async):
    """The same behind a real server."""
    made = target_wire.RpcStream(run_async)
    yield made
    made.close()


@pytest.fixture
def broken(run_async):
    """A service to break."""
    made = harness.CallHarness(run_async)
    yield made
    made.close()


@st.composite
def mutations(draw, seeds, longest):
    """A seed with some bytes set, cut out, or put in; rarely anything at all."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        change = draw(st.sampled_from(["set", "set", "cut", "insert", "double"]))
        if change == "set":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif change == "cut":
            del data[at : at + draw(st.integers(1, 300))]
        elif change == "insert":
            data[at:at] = draw(st.binary(max_size=40))
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 200))]
    return bytes(data[:longest])


@pytest.mark.parametrize("name", list(NAMES))
def test_target_accepts_seeds_and_mutations(name, calls, wire, monkeypatch):
    monkeypatch.setattr(harness, "shared_harness", lambda: calls)
    monkeypatch.setattr(target_wire, "wire", lambda: wire)
    target = load(name)
    seeds = target.seeds()
    for data in seeds:
        target.run(data)

    @seed(1)
    @settings(max_examples=IN_PROCESS[name])
    @given(mutations(seeds, target.longest) | st.binary(max_size=200))
    def run(data):
        target.run(data)

    run()


@pytest.mark.skipif(not campaign.available(), reason="atheris is not installed")
@pytest.mark.parametrize("name", ["codec", "stream"])
def test_coverage_guided_for_a_moment(name, tmp_path):
    result = campaign.fuzz(name, 100_000, seconds=1, seed=1, crashes=tmp_path / "crashes")
    assert result["crashes"] == [], result.get("report")
    assert result["inputs"] > 10
    assert 0 < result["coverage_of_seeds"] <= result["coverage"]
    assert 0 < result["longest_input_s"] < 10


def test_command_reports_missing_atheris(monkeypatch, capsys):
    command = runpy.run_path(str(Path(__file__).parent))
    monkeypatch.setattr(campaign, "available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["fuzz", "--runs", "1"])
    assert command["main"]() == 3
    assert "atheris is not installed" in capsys.readouterr().err


# --- the fuzzer itself: does it see a defect? ---


@pytest.mark.skipif(not campaign.available(), reason="atheris is not installed")
def test_planted_defect_is_found_and_stored(tmp_path, monkeypatch):
    source = "def seeds(): return [b'abc']\ndef run(data): assert not data.startswith(b'zz')\n"
    (tmp_path / "target_planted.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = campaign.fuzz("planted", 1_000_000, seconds=20, seed=1, crashes=tmp_path / "crashes")
    (path,) = result["crashes"]
    assert Path(path).read_bytes().startswith(b"zz")
    assert "AssertionError" in result["report"]


def test_witness_detects_audio_of_another_call(broken, monkeypatch):
    process = Channel.process
    mixed = []

    def process_both(channel, samples):
        mixed.append(samples)
        process(channel, samples if len(samples) < 100 or len(mixed) < 12 else mixed[-2])

    monkeypatch.setattr(Channel, "process", process_both)
    with pytest.raises(AssertionError):
        broken.try_call(list(harness.witness_requests())[:8])


def test_open_stream_is_detected(broken, monkeypatch):
    async def never(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(harness, "LIMIT_SECONDS", 0.5)
    monkeypatch.setattr(Call, "finish", never)
    with pytest.raises(TimeoutError):
        broken.try_call(harness.witness_requests()[:3])


def test_exception_without_status_is_detected(broken, monkeypatch):
    monkeypatch.setattr(Call, "handle", lambda *_: 1 / 0)
    with pytest.raises(AssertionError, match="INTERNAL"):
        broken.try_call(harness.witness_requests()[:3])
