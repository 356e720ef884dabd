"""pyAudioAnalysis: the support vector machine for gender that the package brings.

The steps are those of its ``audioTrainTest.file_classification``, which would load the model anew
for every file.
"""

from __future__ import annotations

import argparse
import warnings
from importlib.metadata import version
from pathlib import Path

import pyAudioAnalysis  # type: ignore[import-not-found,unused-ignore]
from pyAudioAnalysis import (  # type: ignore[import-not-found,unused-ignore]
    MidTermFeatures,
    audioTrainTest,
)

from neighbours.answering import Answer, Said, Sound, serve

MODEL = Path("data", "models", "svm_rbf_speaker_male_female")


def load(_: argparse.Namespace) -> tuple[str, Answer]:
    """The model from the package's folder."""
    # Pickled by scikit-learn 0.24; checked: 1.1 and 1.9 give the same probabilities.
    warnings.simplefilter("ignore")
    path = Path(pyAudioAnalysis.__file__).parent / MODEL
    classifier, mean, deviation, classes, window, step, short, short_step, _ = (
        audioTrainTest.load_model(str(path))
    )

    def answer(sound: Sound) -> Said:
        rate = sound.rate
        features, _, _ = MidTermFeatures.mid_feature_extraction(
            sound.samples,
            rate,
            min(window * rate, len(sound.samples)),
            step * rate,
            round(short * rate),
            round(short_step * rate),
        )
        vector = (features.mean(axis=1) - mean) / deviation
        index, _ = audioTrainTest.classifier_wrapper(classifier, "svm_rbf", vector)
        return Said(str(classes[int(index)]).lower())

    return f"pyAudioAnalysis {version('pyAudioAnalysis')}", answer


if __name__ == "__main__":
    serve(load)
