"""The systems compared: each function loads one, in the environment of that system.

Three kinds: our own signal path; classifiers that read a whole call; encoders that recompute a
window, the usual way to get running predictions from offline networks: every half second in which
our speech gate passed speech, the last three seconds of it. Their weights are random, which cost
the same. Choices favour the peers: nothing is resampled, sherpa-onnx and WeSpeaker get the smaller
published ECAPA-TDNN, and none has a classifier behind the embedding.

    python -m peers.systems OUT.onnx    # writes that ECAPA-TDNN, C=512, with SpeechBrain's layers
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peers.child import Answer, Process, Sound

from streamer.audio.codec import SAMPLE_RATE, Samples, decode

WINDOW_SECONDS = 3.0
EVERY_SECONDS = 0.5
DIMENSION = 192
METADATA = {  # as sherpa-onnx requires
    "framework": "wespeaker",
    "language": "none",
    "url": "none",
    "normalize_samples": "0",
    "sample_rate": "8000",
    "output_dim": str(DIMENSION),
    "comment": "random weights",
}


def ours(model: Path | None) -> tuple[str, Process]:
    """Our signal path without gRPC; 100 ms of each call before the next, so the engine batches."""
    import queue

    from streamer.inference.decision import Decider
    from streamer.inference.engine import Engine
    from streamer.inference.metadata import TASKS
    from streamer.inference.model import OnnxModel
    from streamer.session.events import Update
    from streamer.session.session import CallConfig, CallSession

    student = OnnxModel(model, provider="cpu")
    results: queue.Queue[Callable[[], None]] = queue.Queue()
    engine = Engine(student, results.put)
    engine.prepared.result()  # its first steps belong to no call
    decider, labels = Decider(student.metadata), student.metadata.labels.gender

    class Listener:
        """Counts the predictions of a call and keeps the final one."""

        def __init__(self) -> None:
            self.predictions = 0
            self.final: Update | None = None

        def on_prediction(self, update: Update) -> None:
            self.predictions += update.posteriors is not None
            self.final = update if update.final else self.final

        def on_speech(self, channel: int, started: bool, audio_seconds: float) -> None:
            """Ignore the begin and the end of speech."""

        def on_progress(self) -> None:
            """Ignore progress: the loop checks the backlog itself."""

        def on_error(self, error: Exception) -> None:
            raise error

    def process(sounds: Sequence[Sound]) -> list[Answer]:
        first = sounds[0]
        config = CallConfig("benchmark", first.encoding, first.rate)
        listeners = [Listener() for _ in sounds]
        sessions = [CallSession(config, engine, listener) for listener in listeners]

        def settle() -> None:
            engine.flush()  # as a trunk does: nothing else arrives before the answer
            while any(session.backlog.blocks for session in sessions):
                results.get()()

        chunk = first.rate // 10 * first.encoding.width
        for number, start in enumerate(range(0, len(first.data), chunk), start=1):
            for session, sound in zip(sessions, sounds, strict=True):
                session.audio(number, sound.data[start : start + chunk])
            settle()
        for session in sessions:
            session.finish()
        settle()
        for session in sessions:
            session.close()
        return [answer(listener) for listener in listeners]

    def answer(listener: Listener) -> Answer:
        final, count = listener.final, listener.predictions
        assert final is not None
        if final.posteriors is None:
            return Answer(predictions=count)
        decisions = decider.decide(final.posteriors, final.speech_seconds)
        gender = decisions[TASKS.index("gender")]
        return Answer(labels[gender.posterior.index(gender.confidence)], predictions=count)

    return student.metadata.model_id, process


def _each(classify: Callable[[Sound], Answer]) -> Process:
    return lambda sounds: [classify(sound) for sound in sounds]


def pitch(_: Path | None) -> tuple[str, Process]:
    """Praat's pitch: the median over voiced frames; the threshold is the caller's.

    Autocorrelation (Boersma 1993), a frame every 10 ms, 75 to 500 Hz.
    """
    import parselmouth  # type: ignore[import-not-found,unused-ignore]

    def classify(sound: Sound) -> Answer:
        whole = parselmouth.Sound(sound.samples / 32768, sound.rate)
        found = whole.to_pitch_ac(time_step=0.01, pitch_floor=75.0, pitch_ceiling=500.0)
        found = found.selected_array["frequency"]
        voiced = found[found > 0]
        return Answer(hertz=float(np.median(voiced)) if len(voiced) else None)

    praat = parselmouth.PRAAT_VERSION
    return f"praat-parselmouth {parselmouth.__version__} (Praat {praat})", _each(classify)


def inaspeechsegmenter(_: Path | None) -> tuple[str, Process]:
    """inaSpeechSegmenter: the gender that has more of the call's speech.

    It reads 16 kHz files only, so the call is written to one. Its weights are downloaded.
    """
    import soundfile
    from inaSpeechSegmenter import Segmenter  # type: ignore[import-not-found,unused-ignore]

    segmenter = Segmenter(vad_engine="smn", detect_gender=True, ffmpeg=None)
    folder = tempfile.TemporaryDirectory()

    def classify(sound: Sound) -> Answer:
        path = Path(folder.name) / "call.wav"
        soundfile.write(path, sound.samples, sound.rate)
        seconds = {"female": 0.0, "male": 0.0}
        for label, start, stop in segmenter(str(path)):
            if label in seconds:
                seconds[label] += stop - start
        return Answer(max(seconds, key=seconds.__getitem__) if any(seconds.values()) else "")

    return f"inaSpeechSegmenter {version('inaSpeechSegmenter')}", _each(classify)


def pyaudioanalysis(_: Path | None) -> tuple[str, Process]:
    """pyAudioAnalysis: its SVM, by the steps of its ``audioTrainTest.file_classification``."""
    import pyAudioAnalysis  # type: ignore[import-not-found,unused-ignore]
    from pyAudioAnalysis import MidTermFeatures, audioTrainTest

    # Pickled by scikit-learn 0.24; checked: 1.1 and 1.9 give the same probabilities.
    warnings.simplefilter("ignore")
    path = Path(pyAudioAnalysis.__file__).parent / "data/models/svm_rbf_speaker_male_female"
    classifier, mean, deviation, classes, window, step, short, short_step, _ = (
        audioTrainTest.load_model(str(path))
    )

    def classify(sound: Sound) -> Answer:
        rate, samples = sound.rate, sound.samples
        lengths = (min(window * rate, len(samples)), step * rate)
        features, _, _ = MidTermFeatures.mid_feature_extraction(
            samples, rate, *lengths, round(short * rate), round(short_step * rate)
        )
        vector = (features.mean(axis=1) - mean) / deviation
        index, _ = audioTrainTest.classifier_wrapper(classifier, "svm_rbf", vector)
        return Answer(str(classes[int(index)]).lower())

    return f"pyAudioAnalysis {version('pyAudioAnalysis')}", _each(classify)


def voice2gender(_: Path | None) -> tuple[str, Process]:
    """voice2gender: twenty acoustic features of the call, then boosted trees of the package."""
    from voice2gender import predict  # type: ignore[import-not-found,unused-ignore]

    def classify(sound: Sound) -> Answer:
        found = predict([sound.samples.astype("<i2").tobytes()], sample_rate=sound.rate)
        female = found["female_probability"] > found["male_probability"]
        return Answer("female" if female else "male")

    return f"voice2gender {version('voice2gender')}", _each(classify)


def windows(sound: Sound) -> Iterator[Samples]:
    """Yield the windows of a telephone call, the first after half a second of speech."""
    from streamer.audio.speech_gate import SpeechGate

    gate = SpeechGate()
    chunk, every = SAMPLE_RATE // 10, round(EVERY_SECONDS * SAMPLE_RATE)
    speech = np.zeros(0, np.int16)
    fresh = False
    due = every
    for start in range(0, len(sound.data), chunk):
        passed, _ = gate.push(decode(sound.data[start : start + chunk], sound.encoding))
        if passed:
            fresh = True
            speech = np.concatenate([speech, np.frombuffer(passed, np.int16)])
            speech = speech[-round(WINDOW_SECONDS * SAMPLE_RATE) :]
        if start + chunk >= due:
            due += every
            if fresh and len(speech) >= every:
                fresh = False
                yield speech


def _recompute(encode: Callable[[Samples], object]) -> Process:
    return _each(lambda sound: Answer(predictions=len([encode(w) for w in windows(sound)])))


def _fbank(window: Samples, **settings: Any) -> Any:  # noqa: ANN401 - a tensor of the environment
    import torch
    from torchaudio.compliance import kaldi

    samples = torch.from_numpy(window.astype(np.float32))[None]
    return kaldi.fbank(samples, num_mel_bins=80, sample_frequency=SAMPLE_RATE, **settings)


def speechbrain(_: Path | None) -> tuple[str, Process]:
    """Kaldi fbank and SpeechBrain's ECAPA-TDNN in PyTorch, C=1024 as published."""
    import speechbrain as package  # type: ignore[import-not-found,unused-ignore]
    import torch
    from speechbrain.lobes.models.ECAPA_TDNN import (  # type: ignore[import-not-found,unused-ignore]
        ECAPA_TDNN,
    )

    torch.set_num_threads(1)
    encoder = ECAPA_TDNN(80, lin_neurons=DIMENSION).eval()

    def encode(window: Samples) -> object:
        with torch.inference_mode():
            mels = _fbank(window)
            return encoder((mels - mels.mean(dim=0))[None])

    return f"speechbrain {package.__version__}, torch {torch.__version__}", _recompute(encode)


def wespeaker(model: Path | None) -> tuple[str, Process]:
    """WeSpeaker's runtime: torchaudio fbank, ONNX Runtime; the steps behind its entry for files."""
    import torch
    from wespeakerruntime import Speaker  # type: ignore[import-not-found,unused-ignore]

    torch.set_num_threads(1)
    speaker = Speaker(onnx_path=str(model))

    def encode(window: Samples) -> object:
        mels = _fbank(window, window_type="hamming", use_energy=False)
        return speaker.extract_embedding_feat(mels.numpy()[None])

    return f"wespeakerruntime {version('wespeakerruntime')}", _recompute(encode)


def sherpa(model: Path | None) -> tuple[str, Process]:
    """sherpa-onnx's speaker embedding extractor: fbank in C++, ONNX Runtime."""
    import sherpa_onnx  # type: ignore[import-not-found,unused-ignore]

    config = sherpa_onnx.SpeakerEmbeddingExtractorConfig(
        model=str(model), num_threads=1, provider="cpu"
    )
    extractor = sherpa_onnx.SpeakerEmbeddingExtractor(config)

    def encode(window: Samples) -> object:
        stream = extractor.create_stream()
        stream.accept_waveform(SAMPLE_RATE, window * np.float32(1 / 32768))
        stream.input_finished()
        return extractor.compute(stream)

    return f"sherpa-onnx {version('sherpa-onnx')}", _recompute(encode)


def write_ecapa(path: Path) -> None:
    """Write ECAPA-TDNN, C=512, random weights; input and output are named as WeSpeaker's."""
    import onnx
    import torch
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from torch import Tensor, nn

    class Embedding(nn.Module):
        """fbank [B, T, 80] to [B, 192]."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = ECAPA_TDNN(80, channels=[512] * 4 + [1536], lin_neurons=DIMENSION)

        def forward(self, feats: Tensor) -> Tensor:
            embedding: Tensor = self.encoder(feats)
            return embedding[:, 0]

    draft = path.with_suffix(".partial")
    warnings.simplefilter("ignore")  # the exporter's own deprecations
    torch.onnx.export(
        Embedding().eval(),
        (torch.zeros(1, 298, 80),),
        draft,
        input_names=["feats"],
        output_names=["embs"],
        dynamic_axes={"feats": {0: "batch", 1: "frames"}, "embs": {0: "batch"}},
        dynamo=False,
    )
    made = onnx.load(draft)
    for key, value in METADATA.items():
        made.metadata_props.add(key=key, value=value)
    onnx.save(made, draft)
    draft.rename(path)


if __name__ == "__main__":
    write_ecapa(Path(sys.argv[1]))
