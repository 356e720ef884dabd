"""Common Voice releases of several years, as their archives unpack; speakers invented."""

import pytest

from train.corpora.commonvoice import read

OLD = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent"]
NEW = [
    "client_id",
    "path",
    "sentence_id",
    "sentence",
    "sentence_domain",
    "up_votes",
    "down_votes",
    "age",
    "gender",
    "accents",
    "variant",
    "locale",
    "segment",
]


def table(columns: list[str], *rows: dict[str, str]) -> bytes:
    lines = ["\t".join(columns)]
    lines += ["\t".join(row.get(column, "") for column in columns) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def row(client: str, number: int, gender: str, age: str, language: str, **more: str) -> dict:
    path = f"common_voice_{language}_{number}.mp3"
    sentence = 'He said "no'  # an unpaired quote must not swallow the rows after it
    return {
        "client_id": client,
        "path": path,
        "sentence": sentence,
        "gender": gender,
        "age": age,
        "locale": language,
    } | more


@pytest.fixture
def release(tmp_path, make):
    folder = tmp_path / "cv-corpus-17.0"
    train = row("a" * 128, 1, "male_masculine", "twenties", "ko")
    dev = row("b" * 128, 2, "female_feminine", "fourties", "ko")
    test = row("c" * 128, 3, "female_feminine", "sixties", "ko")
    extra = row("d" * 128, 4, "male_masculine", "teens", "ko")
    old = row("e" * 128, 5, "female", "nineties", "de", path="common_voice_de_5", locale="")
    make.tree(
        folder,
        {
            "ko/train.tsv": table(NEW, train),
            "ko/dev.tsv": table(NEW, dev),
            "ko/test.tsv": table(NEW, test),
            "ko/validated.tsv": table(NEW, train, dev, test, extra),
            "ko/other.tsv": table(NEW, row("f", 6, "male_masculine", "teens", "ko")),
            "ko/invalidated.tsv": table(NEW, row("g", 7, "male_masculine", "teens", "ko")),
            "de/validated.tsv": table(OLD, old),
            "de/clips/common_voice_de_5.mp3": b"",
        },
    )
    return folder


def test_every_clip_comes_once_with_its_labels_and_split(release, make):
    utterances, rejected = make.sort(read(release))
    assert rejected == []
    shown = [(one.id[13:], one.gender, one.age_band, one.split) for one in utterances]
    assert shown == [
        ("de_5", "female", "60+", ""),
        ("ko_1", "male", "20s", "train"),
        ("ko_2", "female", "40s", "dev"),
        ("ko_3", "female", "60+", "test"),
        ("ko_4", "male", "teens", ""),
    ]
    assert {one.age for one in utterances} == {None}
    assert [one.language for one in utterances] == ["de", "ko", "ko", "ko", "ko"]
    assert utterances[0].source == f"{release}/de/clips/common_voice_de_5.mp3"
    assert utterances[1].source == f"{release}/ko/clips/common_voice_ko_1.mp3"
    assert utterances[1].speaker == "a" * 128
    assert {one.licence for one in utterances} == {"CC0-1.0"}


def test_one_language_by_itself(release, make):
    utterances, _ = make.sort(read(release / "ko"))
    assert len(utterances) == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gender": ""}, "gender missing"),
        ({"gender": "other"}, "gender neither female nor male"),
        ({"gender": "non-binary"}, "gender neither female nor male"),
        ({"gender": "do_not_wish_to_say"}, "gender neither female nor male"),
        ({"age": "ancient"}, "age not understood"),
        ({"client_id": ""}, "speaker missing"),
    ],
)
def test_a_row_that_cannot_be_used_costs_itself(tmp_path, make, change, reason):
    good = row("a", 1, "male", "", "ko")
    make.tree(tmp_path, {"ko/train.tsv": table(NEW, row("b", 2, "male", "", "ko") | change, good)})
    ((one,), (fault,)) = make.sort(read(tmp_path))
    assert (one.speaker, one.age_band) == ("a", "")
    assert (fault.reason, fault.source) == (reason, f"{tmp_path}/ko/train.tsv")
    assert "line 2" in fault.detail


def test_broken_rows_and_tables_cost_themselves(tmp_path, make):
    good = table(NEW, row("a", 1, "male", "", "ko"))
    make.tree(
        tmp_path,
        {
            "ko/train.tsv": good + b"only\tthree\tcells\n" + b"\xff\t" * 12 + b"\n",
            "ko/dev.tsv": b"client_id\tpath\nx\ty\n",
            "ko/test.tsv": b"",
        },
    )
    utterances, rejected = make.sort(read(tmp_path))
    assert len(utterances) == 1
    assert [one.reason for one in rejected] == [
        "row broken",
        "row not UTF-8",
        "column missing",
        "column missing",
    ]
    assert "gender, age" in rejected[2].detail


def test_no_release_in_the_folder(tmp_path):
    with pytest.raises(ValueError, match=r"no train\.tsv"):
        list(read(tmp_path))
