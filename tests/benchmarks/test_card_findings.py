"""What the model card finds in the figures."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

from card_files import crowd, result
from model_card import findings as say


@pytest.fixture(scope="module")
def measured():
    return result(), result(per_speaker=True)


class TestFindings:
    def test_the_weak_group_and_what_it_is_taken_for(self, measured):
        said = " ".join(say.age_classes(measured[0]))
        assert said.startswith("**Senior voices** are missed more often than found: recall 0.000 ")
        assert "29 calls of 29 speakers. Most often they are taken for young (100%)." in said
        assert "Child" not in said

    def test_no_weak_group_is_no_claim(self):
        good = result(outcomes=crowd(9, 1, "male", "20s") + crowd(9, 1, "male", "60+"))
        said = say.age_classes(good)
        assert said[0].startswith("Every age group is found in half of its calls.")
        assert said[1] == "Not in the test, so not measured: child, middle."

    def test_a_wide_interval_makes_it_probable_only(self, measured):
        wide = copy.deepcopy(measured[0])
        wide["age_group"]["per_class"]["senior"].update(recall=0.4, interval={"recall": [0.2, 0.6]})
        assert "**Senior voices** are probably missed" in say.age_classes(wide)[0]

    @pytest.mark.parametrize(
        ("recall", "interval", "word"),
        [
            (0.55, [0.4, 0.7], "cannot be told from guessing"),
            (0.8, [0.7, 0.9], "better than by guessing"),
            (0.3, [0.2, 0.4], "worse than by guessing"),
            (0.5, None, "too few"),
        ],
    )
    def test_children(self, measured, recall, interval, word):
        told = copy.deepcopy(measured[0])
        told["gender"]["child"].update(recall=recall, interval={"recall": interval})
        assert word in say.children(told)[0]

    def test_gap_between_genders(self, measured):
        said = say.women_and_men(measured[0])
        assert said[0].startswith("**Female, 60+**: gender is recognised less often than of male")
        assert "(29 speakers). The largest gap, 52.9 points; its interval, " in said[0]
        assert "leaves out zero." in said[0]
        assert len(said) == 1  # the gap of the 20s may be chance and is not the largest

    def test_a_gap_that_may_be_chance(self, measured):
        told = copy.deepcopy(measured[0])
        told["fairness"]["bands"]["60+"].update(gap_points=-52.9, interval=[-60.0, 2.0])
        (said,) = say.women_and_men(told)
        assert "its interval, -2.0 to 60.0, includes zero: it may be chance." in said

    def test_no_gap_without_bands(self):
        few = result(outcomes=crowd(3, 1, "male", "20s"))
        assert "the gap is unknown" in say.women_and_men(few)[0]

    def test_whole_calls(self, measured):
        single, calls = copy.deepcopy(measured)
        assert "no class differently" in say.whole_calls(single, calls)[0]
        calls["age_group"]["per_class"]["child"]["recall"] = 0.3
        (said,) = say.whole_calls(single, calls)
        assert said.startswith(
            "**Longer calls**: child (age group) is missed more often, recall 1.000"
        )
        assert "not given" in say.whole_calls(single, None)[0]

    def test_confidence(self, measured):
        told = copy.deepcopy(measured[0])
        for at in told["calibration"].values():
            at["interval"]["overconfidence"] = [-0.1, 0.1]
        assert "No task is over- or underconfident" in say.confidence(told)[0]
        told["calibration"]["gender"].update(
            overconfidence=0.2, interval={"overconfidence": [0.1, 0.3]}
        )
        assert say.confidence(told)[0].startswith("**Gender states more confidence than it earns**")

    def test_languages_with_enough_speakers(self, measured):
        (said,) = say.languages(measured[0])
        assert (
            "1 (en) with 20 speakers or more in the test. Of 1 other nothing can be said." in said
        )

    def test_cells_of_few_speakers_are_not_called_weak(self, measured):
        table = say.weakest_cells(measured[0])
        assert table.rows[0][:2] == ("gender", "female, 60+")
        assert all(int(row[3]) >= 5 for row in table.rows)
