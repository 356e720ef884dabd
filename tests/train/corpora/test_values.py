import pytest

from train.corpora.faults import Unusable
from train.corpora.values import age_of, band_of_decade, band_of_range, gender_of, text


@pytest.mark.parametrize(
    "value",
    [None, "", " ", "null", "None", "NONE", "nan", "-", "N/A", "알수없음", "알 수 없음", "미상"],
)
def test_missing_values_in_every_spelling_are_empty(value):
    assert text(value) == ""
    assert age_of(value) == (None, "")
    with pytest.raises(Unusable, match="gender missing"):
        gender_of(value)


@pytest.mark.parametrize("value", ["여", "여성", "F", "female", "female_feminine", "Female "])
def test_female_in_every_spelling(value):
    assert gender_of(value) == "female"


@pytest.mark.parametrize("value", ["남", "남성", "M", "male", "male_masculine"])
def test_male_in_every_spelling(value):
    assert gender_of(value) == "male"


@pytest.mark.parametrize("value", ["other", "non-binary", "do_not_wish_to_say", "남여", "3"])
def test_other_genders_are_not_forced_into_two(value):
    with pytest.raises(Unusable, match="neither") as fault:
        gender_of(value)
    assert value in fault.value.detail


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (37, (37.0, "30s")),
        ("37", (37.0, "30s")),
        ("만 37세", (37.0, "30s")),
        (12, (12.0, "child")),
        (60, (60.0, "60+")),
        (0, (None, "")),  # unknown, in corpora of adults
        ("30대", (None, "30s")),
        ("50(추정)", (None, "50s")),
        ("20(?)", (None, "20s")),
        ("23(?)", (None, "20s")),
        ("10대", (None, "teens")),
        ("60대", (None, "60+")),
        ("70대", (None, "60+")),
        ("60대 이상", (None, "60+")),
        ("60+", (None, "60+")),
        ("30~40대", (None, "")),  # straddles two bands: never guessed
        ("30-49", (None, "")),
        ("30~39", (None, "30s")),
        ("10대 미만", (None, "child")),
        ("20s", (None, "20s")),
        ("child", (None, "child")),
    ],
)
def test_ages(value, expected):
    assert age_of(value) == expected


@pytest.mark.parametrize(("value", "reason"), [(121, "implausible"), ("999대", "implausible")])
def test_implausible_ages(value, reason):
    with pytest.raises(Unusable, match=reason):
        age_of(value)


@pytest.mark.parametrize("value", ["old", "-5", "삼십대"])
def test_ages_that_are_none(value):
    with pytest.raises(Unusable, match="age not understood"):
        age_of(value)


@pytest.mark.parametrize(
    ("value", "band"), [("30대", "30s"), ("30", "30s"), (10, "teens"), ("34", "30s"), ("None", "")]
)
def test_decades(value, band):
    assert band_of_decade(value) == band


def test_a_range_over_two_bands_has_none():
    assert band_of_range(50, 69) == ""
    assert band_of_range(60, 120) == "60+"
