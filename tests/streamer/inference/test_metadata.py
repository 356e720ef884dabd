import pytest
from pydantic import ValidationError

from streamer.inference.metadata import Calibration, Labels, Metadata


def labels(**changes):
    good = {
        "gender": ["f", "m"],
        "age_group": ["young", "old"],
        "age_band": ["a", "b", "c"],
        "parent": [0, 1, 1],
    }
    return Labels.model_validate(good | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parent": [0, 1]}, "2 parents for 3 age bands"),
        ({"parent": [0, 1, 2]}, "point outside the age groups"),
        ({"parent": [0, 1, -1]}, "point outside the age groups"),
    ],
)
def test_age_bands_must_fit_the_age_groups(changes, message):
    assert labels().parent == (0, 1, 1)
    with pytest.raises(ValidationError, match=message):
        labels(**changes)


@pytest.mark.parametrize(
    ("seconds", "temperature", "message"),
    [
        ([1, 2], [1], "differ in length"),
        ([2, 1], [1, 1], "must rise"),
        ([1], [0], "greater than 0"),
        ([-1], [1], "greater than or equal to 0"),
        ([], [], "at least 1"),
    ],
)
def test_invalid_calibration_is_rejected(seconds, temperature, message):
    with pytest.raises(ValidationError, match=message):
        Calibration.model_validate({"speech_seconds": seconds, "temperature": temperature})


def test_unknown_metadata_fields_are_ignored(student):
    plain = student.metadata.model_dump() | {"later": {"more": 1}}
    assert Metadata.model_validate(plain) == student.metadata
