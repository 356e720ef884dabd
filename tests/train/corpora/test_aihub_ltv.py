"""A tree in the layout of AI-Hub's low-quality telephone speech (data set 571), calls invented."""

import pytest

from train.corpora.aihub_ltv import read
from train.corpora.audio import info

ROOT = "007.저음질 전화망 음성인식 데이터/01.데이터"
CALL, NEXT, HELD_OUT = "D04/J18/S023423", "D04/J18/S023424", "D03/J09/S000001"


def speaker(number: object, kind: str, gender: object, age: object) -> dict:
    known = {"residence": "서울", "telephone_network": "8k"}
    return {"id": number, "type": kind, "gender": gender, "age": age} | known


def call(path: str, agent: dict, customer: dict, **changes: object) -> dict:
    dialogs = [
        {
            "speaker": who["id"],
            "audioPath": f"{path}/{number:04}.wav",
            "textPath": f"{path}/{number:04}.txt",
            "duration": "1.5",
            "text": "네 n/ 상담사입니다",
        }
        for number, who in enumerate((agent, customer, agent), 1)
    ]
    info = {"category": "쇼핑", "subcategory": "환불", "speakers": [agent, customer]}
    return {"dataSet": {"typeInfo": info, "dialogs": dialogs} | changes}


AGENT = speaker("10614", "상담사1", "여", "30대")
CALLS = {
    CALL: call(CALL, AGENT, speaker("20001", "고객1", "남", "50(추정)")),
    # the same agent again; paths with a prefix that is not on disk
    NEXT: call(f"/data/KlowtelSpeech/{NEXT}", AGENT, speaker("고객1", "고객1", "남", "None")),
    HELD_OUT: call(
        HELD_OUT, speaker("1", "상담사1", "여", ""), speaker("2", "고객1", "여", "60대")
    ),
}


def files(make, path: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
    session = path.rsplit("/", maxsplit=1)[-1]
    labels = {f"{path}/{session}.json": make.json(CALLS[path], "utf-8")}
    labels |= {f"{path}/{number:04}.txt": "네".encode() for number in (1, 2, 3)}
    audio = {f"{path}/{number:04}.wav": make.tone(1.5, 8000) for number in (1, 2, 3)}
    return labels, audio


@pytest.fixture(params=["zips", "folders"])
def tree(request, tmp_path, make):
    root = tmp_path / ROOT
    parts = {("1.Training", "T", "D04"): (CALL, NEXT), ("2.Validation", "V", "D03"): (HELD_OUT,)}
    for (part, letter, domain), paths in parts.items():
        labels, audio = {}, {}
        for path in paths:
            some_labels, some_audio = files(make, path)
            labels |= some_labels
            audio |= some_audio
        if request.param == "zips":
            make.zip(root / part / "라벨링데이터_230316" / f"{letter}L_{domain}.zip", labels)
            make.zip(root / part / "원천데이터_230316" / f"{letter}S_{domain}.zip", audio)
        else:  # as one user unpacked it: the domain folder gone on one side
            make.tree(root / part / "라벨링데이터_230316", labels)
            bare = {name.split("/", 1)[1]: content for name, content in audio.items()}
            make.tree(root / part / "원천데이터_230316" / f"{letter}S_{domain}", bare)
    return tmp_path


def test_every_utterance_comes_back_with_its_labels_and_audio(tree, make):
    utterances, rejected = make.sort(read(tree))
    assert rejected == []
    ids = [f"{path.replace('/', '-')}-{number:04}" for path in CALLS for number in (1, 2, 3)]
    assert [one.id for one in utterances] == sorted(ids)
    assert {one.line for one in utterances} == {"telephone"}
    assert all(info(one.source) == (8000, 12000, 1) for one in utterances)
    assert all(one.age is None for one in utterances)
    by_id = {one.id: one for one in utterances}
    agent, customer = by_id["D04-J18-S023423-0001"], by_id["D04-J18-S023423-0002"]
    assert (agent.gender, agent.age_band, agent.split) == ("female", "30s", "train")
    assert (customer.gender, customer.age_band, customer.seconds) == ("male", "50s", 1.5)
    assert by_id["D03-J09-S000001-0002"].age_band == "60+"
    assert by_id["D03-J09-S000001-0002"].split == "test"
    assert by_id["D04-J18-S023424-0002"].age_band == ""  # "None": kept, without a band


def test_an_agent_of_several_calls_is_one_speaker_and_placeholders_are_not(tree, make):
    utterances, _ = make.sort(read(tree))
    speakers = {one.id: one.speaker for one in utterances}
    assert speakers["D04-J18-S023423-0001"] == speakers["D04-J18-S023424-0003"] == "10614"
    assert speakers["D04-J18-S023424-0002"] == "D04-J18-S023424-고객1"
    assert speakers["D03-J09-S000001-0001"] == "D03-J09-S000001-상담사1"


@pytest.mark.parametrize("value", ["", None, "null", "None", "알수없음", "-"])
def test_missing_ages_are_kept_and_missing_genders_are_not(tmp_path, make, value):
    labels, audio = files(make, CALL)
    for gender, kept in (("남", ["0001", "0002", "0003"]), (value, ["0001", "0003"])):
        content = call(CALL, AGENT | {"age": value}, speaker("20001", "고객1", gender, value))
        make.tree(tmp_path, labels | audio | {f"{CALL}/S023423.json": make.json(content)})
        utterances, rejected = make.sort(read(tmp_path))
        assert {one.id[-4:]: one.age_band for one in utterances} == dict.fromkeys(kept, "")
        faults = [(one.reason, one.detail[:8]) for one in rejected]
        assert faults == [("gender missing", "dialog 2")] * (3 - len(kept))


def faulty_calls() -> dict[str, tuple[object, str]]:
    broken = call(CALL, AGENT, speaker("20001", "고객1", "남", "20대"))
    listed = broken["dataSet"]["dialogs"]
    same = call(CALL, speaker("", "상담사1", "여", "30대"), speaker("", "고객1", "남", "20대"))
    return {
        "no dialogs": ({"dataSet": {"typeInfo": {"speakers": []}}}, "label incomplete"),
        "no speakers": ({"dataSet": {"typeInfo": {}, "dialogs": listed}}, "label incomplete"),
        "stranger": (call(CALL, AGENT, AGENT, typeInfo={"speakers": []}), "speaker missing"),
        "same ids": (same, "speaker ambiguous"),
        "odd dialog": (call(CALL, AGENT, AGENT, dialogs=["x"]), "dialog not an object"),
        "no path": (call(CALL, AGENT, AGENT, dialogs=[{"speaker": "10614"}]), "label incomplete"),
        "no audio": (call("D04/J18/S9", AGENT, speaker("20001", "", "남", "")), "audio missing"),
    }


@pytest.mark.parametrize("fault", faulty_calls())
def test_a_fault_costs_its_dialog_or_its_call(tmp_path, make, fault):
    content, reason = faulty_calls()[fault]
    labels, audio = files(make, CALL)
    make.tree(tmp_path, labels | audio | {f"{CALL}/S023423.json": make.json(content)})
    good_labels, good_audio = files(make, HELD_OUT)
    make.tree(tmp_path, good_labels | good_audio)
    utterances, rejected = make.sort(read(tmp_path))
    assert [one.id[:15] for one in utterances] == ["D03-J09-S000001"] * 3
    assert {one.reason for one in rejected} == {reason}
    assert {one.source for one in rejected} == {f"{tmp_path}/{CALL}/S023423.json"}
