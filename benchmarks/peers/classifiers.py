"""Gender classifiers that read a whole call.

Each function loads one, in the environment of that system, so their imports are local.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from peers.child import Answer, Process, Sound

Classify = Callable[[Sound], Answer]

PITCH_STEP_SECONDS = 0.01
PITCH_HERTZ = (75.0, 500.0)


def pitch() -> tuple[str, Classify]:
    """Praat's pitch: the median over voiced frames; the threshold is the caller's.

    Autocorrelation (Boersma 1993), a frame every 10 ms, 75 to 500 Hz, otherwise Praat's settings.
    """
    import numpy as np
    import parselmouth  # type: ignore[import-not-found,unused-ignore]

    def classify(sound: Sound) -> Answer:
        whole = parselmouth.Sound(sound.samples / 32768, sound.rate)
        low, high = PITCH_HERTZ
        found = whole.to_pitch_ac(
            time_step=PITCH_STEP_SECONDS, pitch_floor=low, pitch_ceiling=high
        ).selected_array["frequency"]
        voiced = found[found > 0]
        return Answer(hertz=float(np.median(voiced)) if len(voiced) else None)

    praat = parselmouth.PRAAT_VERSION
    return f"praat-parselmouth {parselmouth.__version__} (Praat {praat})", classify


def ina() -> tuple[str, Classify]:
    """inaSpeechSegmenter: the gender that has more of the call's speech.

    It reads 16 kHz files only, so the call is written to one, about a millisecond. Its weights are
    downloaded at first use.
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

    return f"inaSpeechSegmenter {version('inaSpeechSegmenter')}", classify


def pyaudioanalysis() -> tuple[str, Classify]:
    """pyAudioAnalysis: the support vector machine for gender in the package.

    The steps are those of its ``audioTrainTest.file_classification``, which loads the model again
    for every file.
    """
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
        features, _, _ = MidTermFeatures.mid_feature_extraction(
            samples,
            rate,
            min(window * rate, len(samples)),
            step * rate,
            round(short * rate),
            round(short_step * rate),
        )
        vector = (features.mean(axis=1) - mean) / deviation
        index, _ = audioTrainTest.classifier_wrapper(classifier, "svm_rbf", vector)
        return Answer(str(classes[int(index)]).lower())

    return f"pyAudioAnalysis {version('pyAudioAnalysis')}", classify


def voice2gender() -> tuple[str, Classify]:
    """voice2gender: twenty acoustic features of the call, then boosted trees of the package."""
    from voice2gender import predict  # type: ignore[import-not-found,unused-ignore]

    def classify(sound: Sound) -> Answer:
        found = predict([sound.samples.astype("<i2").tobytes()], sample_rate=sound.rate)
        female = found["female_probability"] > found["male_probability"]
        return Answer("female" if female else "male")

    return f"voice2gender {version('voice2gender')}", classify


def load(options: argparse.Namespace) -> tuple[str, Process]:
    """Load the classifier that ``--variant`` names."""
    loaders = (pitch, ina, pyaudioanalysis, voice2gender)
    name, classify = {loader.__name__: loader for loader in loaders}[options.variant]()

    def process(sounds: Sequence[Sound]) -> list[Answer]:
        return [classify(sound) for sound in sounds]

    return name, process
