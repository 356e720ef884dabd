import pytest
import torch

from model.classifier import SpeakerClassifier, StudentConfig
from model.encoders.ecapa import COMPACT, EcapaConfig
from model.heads import HeadsConfig

SMALL_RES2 = EcapaConfig(
    channels=32, dilations=(2, 3), kernel=3, res2_scale=4, stem_stride=1, aggregated=48,
    attention=16, squeeze=8,
)  # fmt: skip


def trained_looking(config: StudentConfig) -> SpeakerClassifier:
    """Random weights, but batch-norm statistics as after training."""
    torch.manual_seed(0)
    student = SpeakerClassifier(config)
    student.train()
    with torch.no_grad():
        for _ in range(3):
            student(torch.randn(6, 8000) * 0.1, torch.full((6,), 8000))
    return student.eval()


@pytest.fixture(scope="session", params=["compact", "res2"])
def student(request) -> SpeakerClassifier:
    encoder = {"compact": COMPACT, "res2": SMALL_RES2}[request.param]
    return trained_looking(StudentConfig(encoder=encoder, heads=HeadsConfig(embedding=32)))


@pytest.fixture(scope="session")
def compact() -> SpeakerClassifier:
    return trained_looking(StudentConfig())
