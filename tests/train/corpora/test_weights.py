"""The exclusion list: what is written comes back, what is malformed is refused by name."""

import pytest

from train.corpora.weights import COLUMNS, Doubt, read_weights, write_weights


def doubt(cut="c/u1", weight=0.0, task="gender"):
    return Doubt(cut, "c/s", task, "male", "female", 0.98765, weight)


def test_a_list_comes_back(tmp_path):
    path = tmp_path / "d.tsv"
    write_weights([doubt(), doubt('c/"quoted" u2', 0.25)], path)
    assert read_weights(path) == {"c/u1": 0.0, 'c/"quoted" u2': 0.25}
    lines = path.read_text().splitlines()
    assert lines[0] == "id\tspeaker\ttask\tgiven\tsuggested\tconfidence\tweight"
    assert lines[1] == "c/u1\tc/s\tgender\tmale\tfemale\t0.9877\t0"
    assert [p.name for p in tmp_path.iterdir()] == ["d.tsv"]


def test_an_empty_list_is_a_header(tmp_path):
    write_weights([], tmp_path / "d.tsv")
    assert (tmp_path / "d.tsv").read_text().split() == list(COLUMNS)
    assert read_weights(tmp_path / "d.tsv") == {}


def test_the_smaller_of_two_weights_counts(tmp_path):
    write_weights([doubt(weight=0.2), doubt(weight=0.6, task="age_group")], tmp_path / "d.tsv")
    assert read_weights(tmp_path / "d.tsv") == {"c/u1": 0.2}


def test_by_hand_two_columns_suffice(tmp_path):
    path = tmp_path / "d.tsv"
    path.write_bytes("\ufeffweight\tid\r\n0.5\tc/ü\r\n\r\n1\tc/v\r\n".encode())
    assert read_weights(path) == {"c/ü": 0.5, "c/v": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: 0 columns 'id'"),
        ("id\tspeaker\nc/u\tc/s\n", "line 1: 0 columns 'weight'"),
        ("id\tid\tweight\n", "line 1: 2 columns 'id'"),
        ("id\tweight\nc/u\t0\nc/v\n", "line 3: 1 fields, header has 2"),
        ("id\tweight\n\t0\n", "line 2: id is empty"),
        ("id\tweight\nc/u\tlow\n", "line 2: weight 'low'"),
        ("id\tweight\nc/u\tnan\n", "line 2: weight 'nan'"),
        ("id\tweight\nc/u\t1.5\n", "line 2: weight '1.5'"),
        ("id\tweight\nc/u\t-0.1\n", "line 2: weight '-0.1'"),
    ],
)
def test_a_malformed_list_is_refused(tmp_path, text, message):
    (tmp_path / "d.tsv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "d.tsv")


def test_other_bytes_are_refused(tmp_path):
    (tmp_path / "d.tsv").write_bytes(b"id\tweight\n\xff\t1\n")
    with pytest.raises(ValueError, match="not UTF-8 at byte 10"):
        read_weights(tmp_path / "d.tsv")


def test_an_id_that_breaks_the_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"id 'c/a\\tb'"):
        write_weights([doubt("c/a\tb")], tmp_path / "d.tsv")
    assert not list(tmp_path.iterdir())
