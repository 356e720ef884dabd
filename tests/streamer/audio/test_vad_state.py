"""The memory of a VAD can be copied: exactly, wholly, and only where its layout is as declared."""

import ctypes
import importlib.metadata
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import webrtcvad
from hypothesis import given
from hypothesis import strategies as st

from streamer.audio import vad_state
from streamer.audio.vad_state import VAD_BYTES, VadStateError, check_vad_state, read_vad, write_vad

FRAME = 240
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def frames(voices):
    """Two seconds of speech and pauses."""
    samples = voices.caller[7 * 8000 :][: 66 * FRAME].astype("<i2")
    return [frame.tobytes() for frame in samples.reshape(-1, FRAME)]


def run(vad, frames):
    return [vad.is_speech(frame, 8000) for frame in frames]


def test_this_build_passes_and_is_the_pinned_one():
    check_vad_state()
    pinned = re.search(r"^webrtcvad-wheels==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert importlib.metadata.version("webrtcvad-wheels") == pinned.group(1)
    assert VAD_BYTES == 736


@given(cut=st.integers(0, 66), mode=st.integers(0, 3), tail=st.randoms(use_true_random=False))
def test_copy_continues_as_the_original(frames, cut, mode, tail):
    original, copy = webrtcvad.Vad(mode), webrtcvad.Vad(mode)
    run(copy, frames[::-1])
    run(original, frames[:cut])
    write_vad(copy, read_vad(original))
    rest = frames[cut:] + frames
    tail.shuffle(rest)
    assert run(copy, rest) == run(original, rest)
    assert read_vad(copy) == read_vad(original)


def test_every_field_that_speech_changes_matters(frames):
    """A copy without one of them differs from the original."""
    seen = set()
    for cut in range(1, 60):
        vad = webrtcvad.Vad(2)
        run(vad, frames[:cut])
        memory, fresh = read_vad(vad), read_vad(webrtcvad.Vad(2))
        for name, *_ in vad_state._VadInst._fields_:
            field = getattr(vad_state._VadInst, name)
            part = slice(field.offset, field.offset + field.size)
            if memory[part] == fresh[part]:
                continue
            lame = bytearray(memory)
            lame[part] = fresh[part]
            copy, original = webrtcvad.Vad(2), webrtcvad.Vad(2)
            write_vad(original, memory)
            write_vad(copy, bytes(lame))
            run(copy, frames[cut : cut + 1])
            run(original, frames[cut : cut + 1])
            if read_vad(copy) != read_vad(original):
                seen.add(name)
    # `vad` is the last decision, an output; the others are the mode's or of 16 kHz and above.
    assert seen == {
        "noise_means",
        "speech_means",
        "noise_stds",
        "speech_stds",
        "frame_counter",
        "over_hang",
        "num_of_speech",
        "index_vector",
        "low_value_vector",
        "mean_value",
        "upper_state",
        "lower_state",
        "hp_filter_state",
    }


def test_fields_fill_the_struct_without_holes():
    fields = [getattr(vad_state._VadInst, name) for name, *_ in vad_state._VadInst._fields_]
    ends = [field.offset + field.size for field in fields]
    assert [field.offset for field in fields] == [0, *ends[:-1]]
    assert ends[-1] == VAD_BYTES


@pytest.mark.parametrize(
    ("memory", "rule"),
    [(bytes(length), "a VAD has 736") for length in (0, 1, VAD_BYTES - 1, VAD_BYTES + 1)]
    + [(read_vad(webrtcvad.Vad(mode)), "other settings") for mode in (0, 1, 3)],
)
def test_other_memory_is_refused(memory, rule):
    vad = webrtcvad.Vad(2)
    before = read_vad(vad)
    with pytest.raises(ValueError, match=rule):
        write_vad(vad, memory)
    assert read_vad(vad) == before


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("webrtcvad.Vad", lambda _: SimpleNamespace(_vad=object()), "keeps its state elsewhere"),
        ("VAD_BYTES", VAD_BYTES - 32, "744 bytes are allocated for a struct of 704"),
        ("write_vad", lambda *_: None, "a copied VAD"),
        ("_signal", lambda: [bytes(2 * FRAME)] * 64, "a part of the memory is all of it"),
    ],
)
def test_other_build_is_refused(monkeypatch, name, value, rule):
    monkeypatch.setattr(f"streamer.audio.vad_state.{name}", value)
    with pytest.raises(VadStateError, match=rule):
        check_vad_state()


def test_copy_with_other_decisions_is_refused(monkeypatch):
    run_vad, calls = vad_state._run, itertools.count()

    def invert_first(vad, frames):
        decided = run_vad(vad, frames)
        return [not decided[0], *decided[1:]] if next(calls) % 6 == 2 else decided

    monkeypatch.setattr(vad_state, "_run", invert_first)
    with pytest.raises(VadStateError, match="decides otherwise"):
        check_vad_state()


@pytest.mark.parametrize(
    "name", [n for n, *_ in vad_state._VadInst._fields_ if n not in {"vad", "init_flag"}]
)
def test_other_layout_is_refused(monkeypatch, name):
    """The real memory, looked at through a declaration that lacks one of its fields."""
    fields = tuple(f for f in vad_state._VadInst._fields_ if f[0] != name)
    other = type("Other", (ctypes.Structure,), {"_fields_": fields})
    monkeypatch.setattr(vad_state, "_VadInst", other)
    monkeypatch.setattr(vad_state, "VAD_BYTES", ctypes.sizeof(other))
    monkeypatch.setattr(
        vad_state, "_FRESH", {k: v for k, v in vad_state._FRESH.items() if k != name}
    )
    with pytest.raises(VadStateError, match=r"are allocated|of a fresh VAD"):
        check_vad_state()


def test_signal_of_the_check_has_speech_and_silence():
    decided = run(webrtcvad.Vad(2), vad_state._signal())
    assert 16 <= np.sum(decided) <= 48
