"""The rows of peer_cost.py: what runs, in which environment, and what it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own.

    Attributes:
        name: of its folder.
        pins: what pip installs, with dependencies.
        bare: what pip installs without dependencies, where those ask for what cannot be had.
        on_ours: sees the packages of the interpreter that runs the benchmark behind its own, so
            that nobody installs torch twice.
    """

    name: str
    pins: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    on_ours: bool = False


GATE = ("numpy==2.4.6", "webrtcvad-wheels==2.0.14.post1")
SPEECHBRAIN = Environment("speechbrain", ("speechbrain==1.1.2",), on_ours=True)
SHERPA = Environment("sherpa", ("sherpa-onnx==2.0.1", *GATE))
WESPEAKER = Environment("wespeaker", ("wespeakerruntime==1.0.1",), on_ours=True)
# voice2gender asks for an xgboost that wants Python 3.12, and for its CUDA; its trees load in this.
VOICE2GENDER = Environment(
    "voice2gender",
    ("xgboost-cpu==3.2.0", "numpy==2.4.6", "scipy==1.17.1"),
    ("voice2gender==0.1.1",),
)
# Its own dependencies are TensorFlow and ONNX Runtime with all of CUDA.
INA = Environment(
    "ina",
    (
        "tensorflow-cpu==2.21.0",
        "onnxruntime==1.32.0",
        "numpy==2.4.6",
        "pandas==3.1.1",
        "scikit-image==0.26.0",
        "pyannote.core==6.1.0",
        "matplotlib==3.11.2",
        "Pyro4==4.82",
        "pytextgrid==0.1.4",
        "soundfile==0.14.0",
    ),
    ("inaSpeechSegmenter==0.8.0",),
)


@dataclass(frozen=True)
class Peer:
    """One row.

    Attributes:
        key: in the JSON.
        title: in table and picture.
        module: under ``neighbours``.
        what: what was run, for the table.
        group: ``ours``, ``peer``, or ``encoder`` for our own layers used as a peer would.
        running: gives predictions while the call goes on.
        neural: a neural network decides.
        environment: None for the interpreter that runs the benchmark.
        variant: see the module.
        ecapa: is fed the file of :mod:`neighbours.make_ecapa`.
        student: is fed ``--model``.
        batched: hears ``--calls`` calls side by side.
    """

    key: str
    title: str
    module: str
    what: str
    group: str = "peer"
    running: bool = True
    neural: bool = True
    environment: Environment | None = None
    variant: str = ""
    ecapa: bool = False
    student: bool = False
    batched: bool = False

    def arguments(self, audio: Path, calls: int, model: Path | None, ecapa: Path) -> list[str]:
        """Command line of its child, after the module."""
        words = [str(audio), "--variant", self.variant]
        words += ["--calls", str(calls)] if self.batched else []
        if self.ecapa:
            words += ["--model", str(ecapa)]
        elif self.student and model is not None:
            words += ["--model", str(model.resolve())]
        return words


OURS = "ours"
SERVER = "ours_server"
PIPELINE = "recompute_speechbrain"
EVERY = "last 3 s of speech every 0.5 s"

PEERS = (
    Peer(
        OURS,
        "voicecohort",
        "ours",
        "sessions, speech gates, engine and student, calls side by side; no gRPC",
        group="ours",
        variant="together",
        student=True,
        batched=True,
    ),
    Peer(
        "ours_alone",
        "voicecohort, one call at a time",
        "ours",
        "the same, one call after the other: nothing to batch",
        group="ours",
        variant="alone",
        student=True,
    ),
    Peer(
        "student_graph",
        "our encoder, recomputed (one graph)",
        "recompute_student",
        f"our layers in float32 as one ONNX graph of 2.88 s, {EVERY}",
        group="encoder",
        variant="graph",
        student=True,
    ),
    Peer(
        "student_steps",
        "our encoder, recomputed (model file)",
        "recompute_student",
        f"our model file from a zero state, {EVERY}",
        group="encoder",
        variant="steps",
        student=True,
    ),
    Peer(
        "sherpa_onnx",
        "sherpa-onnx, ECAPA-512",
        "recompute_sherpa",
        f"SpeakerEmbeddingExtractor, ECAPA-TDNN C=512, random weights, {EVERY}",
        environment=SHERPA,
        ecapa=True,
    ),
    Peer(
        "wespeaker",
        "WeSpeaker runtime, ECAPA-512",
        "recompute_wespeaker",
        f"torchaudio fbank, ECAPA-TDNN C=512 in ONNX Runtime, random weights, {EVERY}",
        environment=WESPEAKER,
        ecapa=True,
    ),
    Peer(
        PIPELINE,
        "recompute pipeline, SpeechBrain ECAPA-1024",
        "recompute_speechbrain",
        f"torchaudio fbank, ECAPA-TDNN C=1024 in PyTorch, random weights, {EVERY}",
        environment=SPEECHBRAIN,
    ),
    Peer(
        "inaspeechsegmenter",
        "inaSpeechSegmenter, whole file",
        "offline_ina",
        "speech/music/noise and gender networks, once a call; gender only",
        running=False,
        environment=INA,
    ),
    Peer(
        "voice2gender",
        "voice2gender, whole file",
        "offline_voice2gender",
        "20 acoustic features and boosted trees, once a call; gender only",
        running=False,
        neural=False,
        environment=VOICE2GENDER,
    ),
)
