"""Genders, ages and missing values as corpora spell them."""

from __future__ import annotations

import re
import unicodedata

from model.labels import DEFAULT_TREE, LabelTree
from train.corpora.faults import Unusable

_MISSING_LATIN = {"null", "none", "nan", "n/a", "na", "-", "--", ".", "?", "unknown", "undefined"}
_MISSING = _MISSING_LATIN | {"알수없음", "미상", "모름", "없음", "무응답", "불명"}
_GENDERS = {
    "female": ("female", "f", "woman", "w", "female_feminine", "여", "여성", "여자"),
    "male": ("male", "m", "man", "male_masculine", "남", "남성", "남자"),
}
_GENDER = {spelling: gender for gender, spellings in _GENDERS.items() for spelling in spellings}
OLDEST = 120
"""Years; an age above it is a mistake."""
_TEENS = (13, 19)


def text(value: object) -> str:
    """A label as text, empty for the many spellings of a missing value."""
    if value is None:
        return ""
    plain = unicodedata.normalize("NFC", str(value)).strip()
    return "" if plain.replace(" ", "").casefold() in _MISSING else plain


def gender_of(value: object) -> str:
    """``female`` or ``male``.

    Raises:
        Unusable: missing, or neither (the model predicts perceived, binary gender).
    """
    stated = text(value)
    if not stated:
        raise Unusable("gender missing", f"gender {value!r}")
    gender = _GENDER.get(stated.casefold())
    if gender is None:
        raise Unusable("gender neither female nor male", f"gender {value!r}")
    return gender


def _plain_age(stated: str) -> float | None:
    """Years of ``37``, ``37.0``, ``37세``, ``만 37세``; None for anything else."""
    match = re.fullmatch(r"(?:만\s*)?(\d+(?:\.\d+)?)\s*(?:세|살)?", stated)
    return float(match[1]) if match else None


def _in_range(age: float, value: object) -> float:
    if not 0 <= age <= OLDEST:
        raise Unusable("age implausible", f"age {value!r}")
    return age


def decade(low: float) -> tuple[float, float]:
    """Youngest and oldest age of a decade; the one of 10 means the teens, as in ``10대``."""
    return _TEENS if low == _TEENS[0] // 10 * 10 else (low, low + 9)


def _age_range(stated: str, value: object) -> tuple[float, float]:
    """Bounds of ``30대``, ``50(추정)``, ``20(?)``, ``60대 이상``, ``30~49``, ``20s``, ``60+``."""
    match = re.match(r"(?:만\s*)?(\d+)(?:대|세)?(?:\s*[~\-–]\s*(\d+))?", stated)  # noqa: RUF001
    if match is None:
        raise Unusable("age not understood", f"age {value!r}")
    low, high = float(match[1]), float(match[2] or match[1])
    by_decade = "대" in stated or low % 10 == 0
    if by_decade and high % 10 == 0:
        high = decade(high)[1]
        low = decade(low)[0]
    if "이상" in stated or stated.endswith("+"):
        high = OLDEST
    elif "미만" in stated:
        low, high = 0, float(match[1]) - 1
    return _in_range(low, value), _in_range(high, value)


def band_of_range(low: float, high: float, tree: LabelTree = DEFAULT_TREE) -> str:
    """The band that holds all ages from ``low`` to ``high`` years; empty where two share them."""
    band = tree.band_of_age(low)
    return band if band == tree.band_of_age(high) else ""


def age_of(value: object, tree: LabelTree = DEFAULT_TREE) -> tuple[float | None, str]:
    """Exact age in years and band; only a band for a decade or an estimate, neither if missing.

    Zero counts as missing: corpora of adults write it for unknown.

    Raises:
        Unusable: beyond 120 years, negative or not understood.
    """
    stated = text(value)
    plain = _plain_age(stated)
    if not stated or plain == 0:
        return None, ""
    if plain is not None:
        return _in_range(plain, value), tree.band_of_age(plain)
    if stated in tree.age_band:
        return None, stated
    return None, band_of_range(*_age_range(stated, value), tree)


def band_of_decade(value: object, tree: LabelTree = DEFAULT_TREE) -> str:
    """Band of an age given by decades, where a bare ``30`` means the thirties; raises as above."""
    age, band = age_of(value, tree)
    return band_of_range(*decade(age), tree) if age is not None and age % 10 == 0 else band
