"""The systems compared and the rows of both tables, as data."""

from __future__ import annotations

from dataclasses import dataclass


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
        name: of the function in ``systems.py``, or MODULE:FUNCTION.
        environment: None for the interpreter that runs the benchmark.
        ecapa: environment that makes the ECAPA-TDNN file which this system loads.
        telephone_rate: Hz that telephone calls are resampled to, None for mu-law as delivered.
        wideband_rate: Hz that clean recordings are resampled to.
    """

    name: str
    environment: Environment | None = None
    ecapa: Environment | None = None
    telephone_rate: int | None = None
    wideband_rate: int = 16_000


@dataclass(frozen=True)
class PeerRow:
    """A row of either table.

    Attributes:
        key: in the JSON.
        title: in the table.
        system: that answers.
        what: ran, for the table.
        read: how gender is read: "label"; "tuned", a pitch above the threshold that is best on
            another split is female; a number is a threshold in Hz.
        running: gives predictions while the call goes on.
        neural: a neural network decides.
    """

    key: str
    title: str
    system: System
    what: str
    read: str | float = "label"
    running: bool = True
    neural: bool = True


SPEECHBRAIN = Environment("speechbrain", ("speechbrain==1.1.2",), on_ours=True)
GATE = ("numpy==2.4.6", "webrtcvad-wheels==2.0.14.post1")
SHERPA = Environment("sherpa", ("sherpa-onnx==2.0.1", *GATE))
WESPEAKER = Environment("wespeaker", ("wespeakerruntime==1.0.1",), on_ours=True)
PITCH = Environment("pitch", ("praat-parselmouth==0.4.7", "numpy==2.4.6"))
# It requires an xgboost for Python 3.12 with CUDA; its trees load in this one.
_TREES = ("xgboost-cpu==3.2.0", "numpy==2.4.6", "scipy==1.17.1")
VOICE2GENDER = Environment("voice2gender", _TREES, ("voice2gender==0.1.1",))
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

OURS = System("ours")
PRAAT = System("pitch", PITCH)
SEGMENTER = System("inaspeechsegmenter", INA, None, 16_000)
SVM = System("pyaudioanalysis", PYAUDIOANALYSIS, None, 16_000)
TREES = System("voice2gender", VOICE2GENDER, None, 8_000)

_MEDIAN = "Praat's median pitch of the call against"
_SEGMENTS = "speech/music/noise and gender networks"
_BOOSTED = "20 acoustic features and boosted trees"
_SVM = "svm_rbf_speaker_male_female of the package over mid-term features"
_OWN = "speech gate, streaming model; likeliest class"
GENDER_ROWS = (
    PeerRow("ours", "voicecohort", OURS, _OWN),
    PeerRow("pitch_textbook", "pitch above 165 Hz", PRAAT, f"{_MEDIAN} a common threshold", 165.0),
    PeerRow(
        *("pitch_tuned", "pitch, threshold tuned", PRAAT),
        *(f"{_MEDIAN} the threshold that is best on dev", "tuned"),
    ),
    PeerRow(
        *("inaspeechsegmenter", "inaSpeechSegmenter", SEGMENTER),
        f"{_SEGMENTS}; gender of most speech",
    ),
    PeerRow("pyaudioanalysis", "pyAudioAnalysis, SVM", SVM, _SVM),
    PeerRow("voice2gender", "voice2gender", TREES, f"{_BOOSTED}, at the call's own rate"),
)

_EVERY = "random weights, last 3 s of speech every 0.5 s"
PIPELINE = "recompute_speechbrain"
COST_ROWS = (
    PeerRow(
        *("ours", "voicecohort", OURS),
        "sessions, speech gates, engine and model, calls side by side; no gRPC",
    ),
    PeerRow(
        *("sherpa_onnx", "sherpa-onnx, ECAPA-512", System("sherpa", SHERPA, SPEECHBRAIN)),
        f"SpeakerEmbeddingExtractor, ECAPA-TDNN C=512, {_EVERY}",
    ),
    PeerRow(
        *("wespeaker", "WeSpeaker runtime, ECAPA-512", System("wespeaker", WESPEAKER, SPEECHBRAIN)),
        f"torchaudio fbank, ECAPA-TDNN C=512 in ONNX Runtime, {_EVERY}",
    ),
    PeerRow(
        *(PIPELINE, "recompute pipeline, SpeechBrain ECAPA-1024"),
        System("speechbrain", SPEECHBRAIN),
        f"torchaudio fbank, ECAPA-TDNN C=1024 in PyTorch, {_EVERY}",
    ),
    PeerRow(
        *("inaspeechsegmenter", "inaSpeechSegmenter, whole file", SEGMENTER),
        f"{_SEGMENTS}, once a call; gender only",
        running=False,
    ),
    PeerRow(
        *("voice2gender", "voice2gender, whole file", TREES),
        f"{_BOOSTED}, once a call; gender only",
        running=False,
        neural=False,
    ),
)
