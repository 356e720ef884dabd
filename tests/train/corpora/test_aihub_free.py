"""A tree in the layout of AI-Hub's free conversation (data sets 109 and 107), people invented."""

import zipfile

import pytest

from train.corpora.aihub_free import read
from train.corpora.audio import info

ADULT = "일반남여_일반통합05_M_1455308554-6_37_수도권_실내"
MASKED = "일반남여_일반통합07_F_김XX_24_경상_실외"
OTHER_MASKED = "일반남여_일반통합08_F_김XX_51_강원_실내"
ELDER = "노인남여_노인대화07_F_1522434093_60_경상_실내"


def label(gender: object, recorder: object, age: object, file: str) -> dict:
    return {
        "발화정보": {
            "stt": "안녕하세요. 연습입니다.",
            "scriptId": "일반통합-20281",
            "fileNm": file,
            "recrdTime": "1.000",
            "recrdQuality": "16K",
            "recrdDt": "2020-01-01 00:00:00",
            "scriptSetNo": "일반통합05",
        },
        "대화정보": {"recrdEnvrn": "실내", "cityCode": "수도권", "convrsThema": "일상"},
        "녹음자정보": {"gender": gender, "recorderId": recorder, "age": age},
    }


def labels(make) -> dict[str, bytes]:
    """Name below the label archive -> content: one folder a recorder."""
    return {
        f"{ADULT}/{ADULT}_20281.json": make.json(
            label("남", "1455308554-6", 37, f"{ADULT}_20281.wav")
        ),
        f"{ADULT}/{ADULT}_20282.json": make.json(  # the typo
            label("남", "1455308554-6", 37, f"{ADULT}_20282.wavp"), "utf-8"
        ),
        f"{MASKED}/{MASKED}_00001.json": make.json(label("여", "김XX", 24, f"{MASKED}_00001.wav")),
        f"{OTHER_MASKED}/{OTHER_MASKED}_00001.json": make.json(
            label("여", "김XX", "51", f"{OTHER_MASKED}_00001.wav")
        ),
    }


def audio(make) -> dict[str, bytes]:
    return {
        f"{ADULT}/{ADULT}_20281.WAV": make.tone(),
        f"{ADULT}/{ADULT}_20282.wav": make.tone(),
        f"{MASKED}/{MASKED}_00001.wav": make.tone(),
        f"{OTHER_MASKED}/{OTHER_MASKED}_00001.wav": make.tone(),
    }


@pytest.fixture(params=["zips", "cp949 zips", "folders", "labeled_data"])
def tree(request, tmp_path, make):
    root = tmp_path / "자유대화 음성(일반남녀)"
    if request.param == "folders":
        make.tree(root / "Training" / "[라벨]1.AI챗봇", labels(make))
        make.tree(root / "Training" / "[원천]1.AI챗봇_1", audio(make))
    elif request.param == "labeled_data":
        make.tree(root / "1.Training" / "labeled_data" / "1.AI챗봇", labels(make))
        make.tree(root / "1.Training" / "raw_data" / "1.AI챗봇", audio(make))
    else:
        cp949 = request.param == "cp949 zips"
        sound = audio(make)
        half = len(sound) // 2
        make.zip(root / "Training" / "[라벨]1.AI챗봇.zip", labels(make), cp949)
        for number, part in enumerate((list(sound)[:half], list(sound)[half:]), 1):
            members = {name: sound[name] for name in part}
            make.zip(root / "Training" / f"[원천]1.AI챗봇_{number}.zip", members, cp949)
    return root


def test_every_utterance_comes_back_with_its_labels_and_audio(tree, make):
    utterances, rejected = make.sort(read(tree, "aihub-fcvg"))
    assert rejected == []
    assert [one.id for one in utterances] == sorted(
        [f"{ADULT}_20281", f"{ADULT}_20282", f"{MASKED}_00001", f"{OTHER_MASKED}_00001"]
    )
    first = utterances[0]
    assert (first.corpus, first.gender, first.age, first.age_band) == (
        "aihub-fcvg",
        "male",
        37,
        "30s",
    )
    assert (first.language, first.licence, first.line) == ("ko", "AI-Hub", "wideband")
    assert (first.split, first.seconds) == ("train", 1.0)
    assert all(info(one.source).rate == 16000 for one in utterances)


def test_strangers_who_share_a_masked_id_are_kept_apart(tree, make):
    utterances, _ = make.sort(read(tree, "aihub-fcvg"))
    speakers = {one.id: one.speaker for one in utterances}
    assert speakers[f"{MASKED}_00001"] == "female-24-김XX"
    assert speakers[f"{OTHER_MASKED}_00001"] == "female-51-김XX"
    assert speakers[f"{ADULT}_20281"] == speakers[f"{ADULT}_20282"] == "male-37-1455308554-6"


def test_elderly_in_validation_are_the_test_split(tmp_path, make):
    file = f"{ELDER}/{ELDER}_08582"
    root = tmp_path / "자유대화 음성(노인남녀)"
    content = make.json(label("여", "1522434093", 60, f"{ELDER}_08582.wav"))
    make.zip(root / "Validation" / "[라벨]3.스튜디오.zip", {f"{file}.json": content})
    make.zip(root / "Validation" / "[원천]3.스튜디오.zip", {f"{file}.wav": make.tone()})
    ((one,), rejected) = make.sort(read(root, "aihub-fcve"))
    assert rejected == []
    assert (one.corpus, one.split, one.age_band) == ("aihub-fcve", "test", "60+")
    assert one.speaker == "female-60-1522434093"


def test_what_a_label_leaves_out_its_file_name_may_say(tmp_path, make):
    content = label("", None, "알수없음", "")
    make.tree(tmp_path, {f"{ADULT}_1.json": make.json(content), f"{ADULT}_1.wav": make.tone()})
    ((one,), _) = make.sort(read(tmp_path, "aihub-fcvg"))
    assert (one.gender, one.age, one.speaker) == ("male", 37, "male-37-1455308554-6")


def test_an_unknown_age_is_kept_without_band(tmp_path, make):
    content = make.json(label("여", "r1", "알수없음", "x.wav"))
    make.tree(tmp_path, {"x.json": content, "x.wav": make.tone()})
    ((one,), _) = make.sort(read(tmp_path, "aihub-fcvg"))
    assert (one.age, one.age_band, one.speaker) == (None, "", "female-unknown-r1")


def damaged(make) -> dict[str, tuple[bytes, str]]:
    """File -> content, reason."""
    return {
        "not_json": (b"{", "label not JSON"),
        "no_object": (b"[1]", "label not a JSON object"),
        "cp949": ("{'가': 1}".encode("cp949"), "label not UTF-8"),
        "no_recorder": (make.json({"발화정보": {}}), "label incomplete"),
        "no_gender": (make.json(label("null", "r", 20, "")), "gender missing"),
        "odd_gender": (make.json(label("X", "r", 20, "")), "gender neither female nor male"),
        "no_speaker": (make.json(label("여", "", 20, "")), "speaker missing"),
        "old": (make.json(label("여", "r", 370, "")), "age implausible"),
        "no_audio": (make.json(label("여", "r", 20, "elsewhere.wav")), "audio missing"),
        "pcm": (make.json(label("여", "r", 20, "pcm.pcm")), "audio without header"),
        f"{ADULT}_1": (make.json(label("여", "r", 20, "")), "gender contradicts file name"),
    }


def test_a_damaged_label_costs_itself_and_says_why(tmp_path, make):
    faults = damaged(make)
    make.tree(tmp_path, {f"{name}.json": content for name, (content, _) in faults.items()})
    silent = {"no_audio", "pcm"}
    make.tree(tmp_path, {f"{name}.wav": make.tone() for name in faults.keys() - silent})
    make.tree(tmp_path, {"pcm.pcm": b"\0\0", "good.wav": make.tone()})
    make.tree(tmp_path, {"good.json": make.json(label("여", "r", 20, "good.wav"))})
    utterances, rejected = make.sort(read(tmp_path, "aihub-fcvg"))
    assert [one.id for one in utterances] == ["good"]
    expected = {f"{tmp_path}/{name}.json": reason for name, (_, reason) in faults.items()}
    assert {one.source: one.reason for one in rejected} == expected


def test_a_damaged_archive_costs_what_is_in_it(tmp_path, make):
    good, bad = f"{ADULT}/{ADULT}_20281", f"{MASKED}/{MASKED}_00001"
    path = tmp_path / "[라벨]1.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in (good, bad):
            file.writestr(f"{name}.json", labels(make)[f"{name}.json"])
    content = path.read_bytes()
    path.write_bytes(content.replace("김XX".encode(), "박XX".encode()))  # within the label: CRC
    make.tree(tmp_path, {"[라벨]2.zip": b"no archive"})
    make.zip(tmp_path / "[원천]1.zip", {f"{good}.wav": make.tone(), f"{bad}.wav": make.tone()})
    utterances, rejected = make.sort(read(tmp_path, "aihub-fcvg"))
    assert [one.id for one in utterances] == [f"{ADULT}_20281"]
    assert {one.reason for one in rejected} == {"archive unreadable", "label unreadable"}
