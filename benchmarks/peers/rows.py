"""The systems compared and the rows of both tables, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        name: of its folder.
        pins: what pip installs, with dependencies.
        bare: what pip installs without dependencies, if those cannot be installed.
        on_ours: sees the packages of the interpreter that runs the benchmark behind its own, so
            that torch is not installed twice.
    """

    name: str
    pins: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    on_ours: bool = False


@dataclass(frozen=True)
class System:
    """One process.

    Attributes:
        key: for ``--only``.
        module: in this package.
        variant: see the module.
        environment: None for the interpreter that runs the benchmark.
        ecapa: environment that makes the ECAPA-TDNN file which this system loads.
        telephone_rate: Hz that telephone calls are resampled to, None for mu-law as delivered.
        wideband_rate: Hz that clean recordings are resampled to.
    """

    key: str
    module: str
    variant: str = ""
    environment: Environment | None = None
    ecapa: Environment | None = None
    telephone_rate: int | None = None
    wideband_rate: int = 16_000


@dataclass(frozen=True)
class GenderRow:
    """A way to read the answers of a system about gender.

    Attributes:
        key: in the JSON.
        title: in table and picture.
        system: that answers.
        what: ran, for the table.
        read: "label"; "decided", which leaves the system's own undecided unanswered; "tuned", a
            pitch above the threshold that is best on another split is female; a number is a
            threshold in Hz.
    """

    key: str
    title: str
    system: System
    what: str
    read: str | float = "label"


@dataclass(frozen=True)
class CostRow:
    """A system whose CPU time is measured.

    Attributes:
        key: in the JSON.
        title: in table and picture.
        system: that runs.
        what: ran, for the table.
        group: "ours" or "peer".
        running: gives predictions while the call goes on.
        neural: a neural network decides.
    """

    key: str
    title: str
    system: System
    what: str
    group: str = "peer"
    running: bool = True
    neural: bool = True


SPEECHBRAIN = Environment("speechbrain", ("speechbrain==1.1.2",), on_ours=True)
GATE = ("numpy==2.4.6", "webrtcvad-wheels==2.0.14.post1")
SHERPA = Environment("sherpa", ("sherpa-onnx==2.0.1", *GATE))
WESPEAKER = Environment("wespeaker", ("wespeakerruntime==1.0.1",), on_ours=True)
PITCH = Environment("pitch", ("praat-parselmouth==0.4.7", "numpy==2.4.6"))
# It requires an xgboost for Python 3.12 with CUDA; its trees load in this one.
VOICE2GENDER = Environment(
    "voice2gender",
    ("xgboost-cpu==3.2.0", "numpy==2.4.6", "scipy==1.17.1"),
    ("voice2gender==0.1.1",),
)
# Its own dependencies are TensorFlow and ONNX Runtime with all of CUDA.
INA = Environment(
    "ina",
    (
        *("tensorflow-cpu==2.21.0", "onnxruntime==1.32.0", "numpy==2.4.6", "pandas==3.1.1"),
        *("scikit-image==0.26.0", "pyannote.core==6.1.0", "matplotlib==3.11.2", "Pyro4==4.82"),
        *("pytextgrid==0.1.4", "soundfile==0.14.0"),
    ),
    ("inaSpeechSegmenter==0.8.0",),
)
# It declares no dependencies; these are what its modules import.
PYAUDIOANALYSIS = Environment(
    "pyaudioanalysis",
    (
        *("numpy==2.4.6", "scipy==1.17.1", "scikit-learn==1.9.1", "imbalanced-learn==0.14.2"),
        *("plotly==7.1.0", "hmmlearn==0.3.3", "eyed3==0.9.9", "pydub==0.25.1"),
        *("matplotlib==3.11.2", "tqdm==4.70.1"),
    ),
    ("pyAudioAnalysis==0.3.14",),
)

OURS = System("ours", "ours")
PRAAT = System("pitch", "classifiers", "pitch", PITCH)
SEGMENTER = System("inaspeechsegmenter", "classifiers", "ina", INA, None, 16_000)
SVM = System("pyaudioanalysis", "classifiers", "pyaudioanalysis", PYAUDIOANALYSIS, None, 16_000)
TREES = System("voice2gender", "classifiers", "voice2gender", VOICE2GENDER, None, 8_000)
TREES_44K = replace(TREES, key="voice2gender_44k", telephone_rate=44_100, wideband_rate=44_100)

TEXTBOOK_HERTZ = 165.0
_MEDIAN = "Praat's median pitch of the call against"
GENDER_ROWS = (
    GenderRow("ours", "voicecohort", OURS, "speech gate, streaming model; likeliest class"),
    GenderRow(
        *("ours_decided", "voicecohort, decided only", OURS),
        *("the same; “undecided” counts as no answer", "decided"),
    ),
    GenderRow(
        *("pitch_textbook", f"pitch above {TEXTBOOK_HERTZ:g} Hz", PRAAT),
        *(f"{_MEDIAN} a common threshold", TEXTBOOK_HERTZ),
    ),
    GenderRow(
        *("pitch_tuned", "pitch, threshold tuned", PRAAT),
        *(f"{_MEDIAN} the threshold that is best on dev", "tuned"),
    ),
    GenderRow(
        *("inaspeechsegmenter", "inaSpeechSegmenter", SEGMENTER),
        "speech/music/noise and gender networks; gender of most speech",
    ),
    GenderRow(
        *("pyaudioanalysis", "pyAudioAnalysis, SVM", SVM),
        "svm_rbf_speaker_male_female of the package over mid-term features",
    ),
    GenderRow(
        *("voice2gender", "voice2gender, rate of the call", TREES),
        "20 acoustic features and boosted trees, at the call's own rate",
    ),
    GenderRow(
        *("voice2gender_44k", "voice2gender, 44.1 kHz", TREES_44K),
        "the same, calls resampled to the rate of its documentation",
    ),
)

_EVERY = "random weights, last 3 s of speech every 0.5 s"
PIPELINE = "recompute_speechbrain"
COST_ROWS = (
    CostRow(
        *("ours", "voicecohort", System("ours", "ours", "together")),
        *("sessions, speech gates, engine and model, calls side by side; no gRPC", "ours"),
    ),
    CostRow(
        *("ours_alone", "voicecohort, one call at a time", System("ours_alone", "ours")),
        *("the same, one call after the other: nothing to batch", "ours"),
    ),
    CostRow(
        *("sherpa_onnx", "sherpa-onnx, ECAPA-512"),
        System("sherpa_onnx", "recompute", "sherpa", SHERPA, SPEECHBRAIN),
        f"SpeakerEmbeddingExtractor, ECAPA-TDNN C=512, {_EVERY}",
    ),
    CostRow(
        *("wespeaker", "WeSpeaker runtime, ECAPA-512"),
        System("wespeaker", "recompute", "wespeaker", WESPEAKER, SPEECHBRAIN),
        f"torchaudio fbank, ECAPA-TDNN C=512 in ONNX Runtime, {_EVERY}",
    ),
    CostRow(
        *(PIPELINE, "recompute pipeline, SpeechBrain ECAPA-1024"),
        System(PIPELINE, "recompute", "speechbrain", SPEECHBRAIN),
        f"torchaudio fbank, ECAPA-TDNN C=1024 in PyTorch, {_EVERY}",
    ),
    CostRow(
        *("inaspeechsegmenter", "inaSpeechSegmenter, whole file", SEGMENTER),
        "speech/music/noise and gender networks, once a call; gender only",
        running=False,
    ),
    CostRow(
        *("voice2gender", "voice2gender, whole file", TREES),
        "20 acoustic features and boosted trees, once a call; gender only",
        running=False,
        neural=False,
    ),
)
