import pytest

from model.labels import DEFAULT_TREE, TASKS, LabelTree


def test_default_tree_is_the_designs():
    assert DEFAULT_TREE.gender == ("female", "male")
    assert DEFAULT_TREE.age_group == ("child", "young", "middle", "senior")
    assert DEFAULT_TREE.age_band == ("child", "teens", "20s", "30s", "40s", "50s", "60+")
    assert DEFAULT_TREE.parent == (0, 1, 1, 1, 2, 2, 3)


def test_group_of_follows_parent():
    assert [DEFAULT_TREE.group_of(band) for band in DEFAULT_TREE.age_band] == [
        "child", "young", "young", "young", "middle", "middle", "senior",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (0, "child"),
        (12.9, "child"),
        (13, "teens"),
        (20, "20s"),
        (59, "50s"),
        (60, "60+"),
        (99, "60+"),
    ],
)
def test_band_of_age(age, band):
    assert DEFAULT_TREE.band_of_age(age) == band


def test_negative_age_is_refused():
    with pytest.raises(ValueError, match="-1"):
        DEFAULT_TREE.band_of_age(-1)


def test_plain_form_round_trips():
    assert LabelTree.from_dict(DEFAULT_TREE.to_dict()) == DEFAULT_TREE  # type: ignore[arg-type]


def test_a_band_cannot_stand_under_two_groups():
    with pytest.raises(ValueError, match="two age groups"):
        LabelTree(("f", "m"), {"a": ("x",), "b": ("x",)}, {"x": 0})


def test_a_band_needs_a_lower_age():
    with pytest.raises(ValueError, match="'y'"):
        LabelTree(("f", "m"), {"a": ("x", "y")}, {"x": 0})


def test_classes_by_task():
    assert [len(DEFAULT_TREE.classes(task)) for task in TASKS] == [2, 4, 7]
