"""Who answers in peers.py: what runs, in which environment, and how its answers are read."""

from __future__ import annotations

from dataclasses import dataclass

from neighbours.catalogue import INA, VOICE2GENDER, Environment

PITCH = Environment("pitch", ("praat-parselmouth==0.4.7", "numpy==2.4.6"))
# It names no dependencies; these are what its modules import.
PYAUDIOANALYSIS = Environment(
    "pyaudioanalysis",
    (
        "numpy==2.4.6",
        "scipy==1.17.1",
        "scikit-learn==1.9.1",
        "imbalanced-learn==0.14.2",
        "plotly==7.1.0",
        "hmmlearn==0.3.3",
        "eyed3==0.9.9",
        "pydub==0.25.1",
        "matplotlib==3.11.2",
        "tqdm==4.70.1",
    ),
    ("pyAudioAnalysis==0.3.14",),
)

LIKELIEST = "likeliest"
SURE = "sure"
TUNED = "tuned"


@dataclass(frozen=True)
class Reading:
    """One row: a way to take what a peer says for an answer.

    Attributes:
        key: in the JSON.
        title: in table and picture.
        what: was run, for the table.
        way: ``likeliest`` takes the label, ``sure`` leaves the peer's own "undecided" unanswered,
            ``tuned`` calls a pitch above the threshold that is best on another split female; a
            number is a threshold in Hz.
    """

    key: str
    title: str
    what: str
    way: str | float = LIKELIEST


@dataclass(frozen=True)
class Answerer:
    """One process.

    Attributes:
        key: for ``--peers``.
        module: under ``neighbours``.
        readings: rows that come of it.
        environment: None for the interpreter that runs the benchmark.
        telephone: Hz that telephone calls are resampled to, None for mu-law as it was delivered.
        wideband: Hz that the clean recordings are resampled to.
    """

    key: str
    module: str
    readings: tuple[Reading, ...]
    environment: Environment | None = None
    telephone: int | None = None
    wideband: int = 16_000

    @property
    def tunes(self) -> bool:
        """Has a threshold to be found first."""
        return any(reading.way == TUNED for reading in self.readings)


OURS = "ours"
TEXTBOOK_HERTZ = 165.0

ANSWERERS = (
    Answerer(
        OURS,
        "gender_ours",
        (
            Reading(OURS, "voicecohort", "speech gate, streaming student; likeliest class"),
            Reading(
                "ours_decided",
                "voicecohort, decided only",
                "the same; “undecided” counts as no answer",
                SURE,
            ),
        ),
    ),
    Answerer(
        "pitch",
        "gender_pitch",
        (
            Reading(
                "pitch_textbook",
                f"pitch above {TEXTBOOK_HERTZ:g} Hz",
                "Praat's median pitch of the call against a threshold that is often named",
                TEXTBOOK_HERTZ,
            ),
            Reading(
                "pitch_tuned",
                "pitch, threshold tuned",
                "Praat's median pitch of the call against the threshold that is best on dev",
                TUNED,
            ),
        ),
        PITCH,
    ),
    Answerer(
        "inaspeechsegmenter",
        "gender_ina",
        (
            Reading(
                "inaspeechsegmenter",
                "inaSpeechSegmenter",
                "speech/music/noise and gender networks; gender of most speech",
            ),
        ),
        INA,
        telephone=16_000,
    ),
    Answerer(
        "pyaudioanalysis",
        "gender_pyaudioanalysis",
        (
            Reading(
                "pyaudioanalysis",
                "pyAudioAnalysis, SVM",
                "svm_rbf_speaker_male_female of the package over mid-term features",
            ),
        ),
        PYAUDIOANALYSIS,
        telephone=16_000,
    ),
    Answerer(
        "voice2gender",
        "gender_voice2gender",
        (
            Reading(
                "voice2gender",
                "voice2gender, rate of the call",
                "20 acoustic features and boosted trees, told the call's own rate",
            ),
        ),
        VOICE2GENDER,
        telephone=8_000,
    ),
    Answerer(
        "voice2gender_44k",
        "gender_voice2gender",
        (
            Reading(
                "voice2gender_44k",
                "voice2gender, 44.1 kHz",
                "the same, calls resampled to the rate that its documentation asks for",
            ),
        ),
        VOICE2GENDER,
        telephone=44_100,
        wideband=44_100,
    ),
)
