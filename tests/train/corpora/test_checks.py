from train.corpora.audio import AudioInfo
from train.corpora.checks import audible, of_one_gender
from train.corpora.clip import Clip
from train.corpora.faults import Unusable
from train.corpora.utterance import Utterance


def utterance(name: str, speaker: str = "s", gender: str = "female") -> Utterance:
    return Utterance(name, "c", speaker, gender, f"/{name}")


def test_rate_and_length_must_make_sense():
    headers = {
        "/good": AudioInfo(8000, 8000, 1),
        "/narrow": AudioInfo(6000, 6000, 1),
        "/short": AudioInfo(8000, 3999, 1),
        "/long": AudioInfo(8000, 80001, 1),
        "/none": Unusable("audio missing", "no such file"),
    }
    clips, rejected = audible([utterance(name[1:]) for name in headers], headers, 0.5, 10)
    assert [clip.id for clip in clips] == ["c/good"]
    assert clips[0].seconds == 1.0
    assert {one.source: one.reason for one in rejected} == {
        "/narrow": "sample rate too low",
        "/short": "too short",
        "/long": "too long",
        "/none": "audio missing",
    }


def test_a_speaker_of_two_genders_is_left_out():
    named = [("a", "s", "female"), ("b", "s", "male"), ("c", "t", "male")]
    clips, rejected = of_one_gender(
        Clip(utterance(*one), AudioInfo(8000, 8000, 1)) for one in named
    )
    assert [clip.id for clip in clips] == ["c/c"]
    assert [(one.source, one.reason) for one in rejected] == [
        ("/a", "speaker with two genders"),
        ("/b", "speaker with two genders"),
    ]
