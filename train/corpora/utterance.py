"""What every corpus source yields: labelled utterances, and what it had to leave out."""

from __future__ import annotations

from dataclasses import dataclass

CALL = "call"
"""Line of what train.simulate_calls wrote, with simulated telephone and speech gate applied."""


@dataclass(frozen=True)
class Utterance:
    """One labelled stretch of one speaker.

    Attributes:
        id: unique within the corpus.
        corpus: name of the corpus.
        speaker: unique within the corpus; never in two splits.
        gender: "female" or "male", as the corpus records it.
        source: where the audio lies: a path, or ``ARCHIVE.zip!MEMBER`` (``train/corpora/audio``).
        age: years, None where the corpus has none.
        age_band: a subclass of the label tree, empty where unknown.
        language: ISO 639 code, empty where unknown.
        licence: of the audio.
        line: what the microphone signal went through: "wideband" or "telephone" in a corpus,
            :data:`CALL` in shards of train.simulate_calls.
        split: "train", "dev" or "test" where the corpus has splits, else empty.
        seconds: of audio; 0 where the source's labels do not say.
    """

    id: str
    corpus: str
    speaker: str
    gender: str
    source: str
    age: float | None = None
    age_band: str = ""
    language: str = ""
    licence: str = ""
    line: str = "wideband"
    split: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Rejected:
    """One file or record that could not be used; it costs nothing but itself.

    Attributes:
        source: path, or ``ARCHIVE.zip!MEMBER``.
        reason: kind of fault in a few fixed words, the same for the same fault, to count by.
        detail: field and value.
    """

    source: str
    reason: str
    detail: str = ""
