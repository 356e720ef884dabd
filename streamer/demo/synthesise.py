"""Synthesise the demo call: a short two-channel telephone dialogue, 8 kHz, mu-law.

Channel 0 is the caller (female voice `slt`), channel 1 the call-centre agent (male
voice `rms`).  Both sides are made by CMU Flite; its licence (SPDX: MIT-Festival)
covers engine and voices and lets anyone use and distribute them without restriction.

Install (version the shipped file was made with, licence):

    apt-get install flite          # 2.2-5, MIT-Festival: the engine and both voices
    pip install numpy==2.4.6       # BSD-3-Clause (and compatible ones)
    pip install soundfile==0.14.0  # BSD-3-Clause (with libsndfile: LGPL-2.1-or-later)
    pip install soxr==1.1.0        # LGPL-2.1-or-later

Make the file, from the repository's root:

    python streamer/demo/synthesise.py streamer/demo/dialogue.wav

With these versions on x86-64 every run gives the same file, byte for byte.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile  # type: ignore[import-untyped,unused-ignore]
import soxr  # type: ignore[import-untyped,unused-ignore]

Samples = npt.NDArray[np.float64]

RATE: Final = 8000
CALLER: Final = 0
AGENT: Final = 1
SPEECH_DBFS: Final = -22.0  # RMS of the speech
NOISE_DBFS: Final = -68.0  # RMS of the comfort noise, about one mu-law step


class Voice(NamedTuple):
    """A Flite voice and its settings: pace (below 1: faster), mean pitch in hertz."""

    name: str
    settings: tuple[str, ...]


class Turn(NamedTuple):
    """One turn: channel, preceding silence in seconds, and text."""

    channel: int
    pause: float
    text: str


VOICES: Final = {
    CALLER: Voice("slt", ("duration_stretch=0.95", "int_f0_target_mean=200")),
    AGENT: Voice("rms", ("duration_stretch=0.88",)),
}

DIALOGUE: Final = (
    Turn(AGENT, 0.60, "Good morning, thank you for calling. How can I help you today?"),
    Turn(CALLER, 0.45, "Hello. I would like to discuss a savings account, please."),
    Turn(AGENT, 0.35, "Of course. Would Tuesday at ten in the morning suit you?"),
    Turn(CALLER, 0.50, "Tuesday is a little difficult. Is Thursday afternoon possible?"),
    Turn(AGENT, 0.40, "Yes, half past two is still free. Shall I book that for you?"),
    Turn(CALLER, 0.30, "Yes, please, that would be perfect. Do I need to bring anything?"),
    Turn(AGENT, 0.40, "Only your passport. We will send you a reminder the day before."),
    Turn(CALLER, 0.35, "Wonderful. Thank you very much for your help, and goodbye."),
)


def find_flite() -> str:
    """Return the path of Flite, or exit with a message about what is missing."""
    flite = shutil.which("flite")
    if flite is None:
        sys.exit("error: no program 'flite' on the PATH: run 'apt-get install flite'")
    listed = subprocess.run([flite, "-lv"], capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        sys.exit(f"error: '{flite} -lv' failed: {listed.stderr.strip()}")
    missing = {voice.name for voice in VOICES.values()} - set(listed.stdout.split())
    if missing:
        sys.exit(f"error: {flite} lacks {', '.join(sorted(missing))}: use Flite 2.2")
    return flite


def speak(flite: str, voice: Voice, text: str) -> Samples:
    """Synthesise `text`: trimmed, 8 kHz, telephone band, at speech level."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "turn.wav"
        settings = [part for setting in voice.settings for part in ("--setf", setting)]
        command = [flite, "-voice", voice.name, *settings, "-t", text, "-o", str(wav)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not wav.exists():
            sys.exit(f"error: flite failed on {text!r}: {done.stderr.strip()}")
        wide, wide_rate = soundfile.read(wav, dtype="float64")
    narrow: Samples = telephone_band(soxr.resample(wide, wide_rate, RATE, quality="VHQ"))
    loud = np.flatnonzero(np.abs(narrow) > 0.02 * np.abs(narrow).max())
    margin = RATE // 20
    narrow = narrow[max(0, loud[0] - margin) : loud[-1] + margin]
    fade = np.hanning(2 * margin)[:margin]
    narrow[:margin] *= fade
    narrow[-margin:] *= fade[::-1]
    return at_level(narrow, SPEECH_DBFS)


def telephone_band(signal: Samples) -> Samples:
    """Keep 300 to 3400 Hz, with soft edges 100 and 200 Hz wide outside that band."""
    frequency = np.fft.rfftfreq(len(signal), 1 / RATE)
    gain = np.interp(frequency, [200.0, 300.0, 3400.0, 3600.0], [0.0, 1.0, 1.0, 0.0])
    return np.fft.irfft(np.fft.rfft(signal) * gain, len(signal))


def at_level(signal: Samples, dbfs: float) -> Samples:
    """Scale `signal` to an RMS of `dbfs`."""
    return signal * float(10 ** (dbfs / 20) / np.sqrt(np.mean(signal**2)))


def main() -> None:
    """Read the command line, build and write the call, and print the times of its turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="the WAV file to write (it is overwritten)")
    output: Path = parser.parse_args().output
    flite = find_flite()
    clock, placed = 0, list[tuple[int, int, Samples]]()
    for turn in DIALOGUE:
        speech = speak(flite, VOICES[turn.channel], turn.text)
        start = clock + round(turn.pause * RATE)
        clock = start + len(speech)
        placed.append((start, turn.channel, speech))
        print(f"{start / RATE:6.2f} to {clock / RATE:5.2f} s  {turn.channel}: {turn.text}")

    length = clock + round(0.6 * RATE)
    noise = np.random.default_rng(20240229).standard_normal((2, length))
    call = np.stack([at_level(telephone_band(line), NOISE_DBFS) for line in noise], axis=1)
    for start, channel, speech in placed:
        call[start : start + len(speech), channel] += speech
    soundfile.write(output, call, RATE, format="WAV", subtype="ULAW")
    print(f"wrote {output}: {length / RATE:.2f} s")


if __name__ == "__main__":
    main()
