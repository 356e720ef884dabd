import base64
import io
import re

import pytest
from matplotlib.image import imread

from train.corpora.audio import AudioInfo
from train.corpora.clip import Clip
from train.corpora.pictures import draw
from train.corpora.report import render
from train.corpora.utterance import Rejected, Utterance


def clips(exact: bool = True) -> list[Clip]:
    labels = [
        ("female", "30s", 37, "train"),
        ("male", "60+", 71, "test"),
        ("male", "", None, "dev"),
    ]
    return [
        Clip(
            Utterance(str(n), "c<1>", f"s{n}", gender, f"/{n}", age if exact else None, band),
            AudioInfo(8000, 8000 * (n + 1) * 3600, 1),
            split,
            1,
        )
        for n, (gender, band, age, split) in enumerate(labels)
    ]


def summary(**more: object) -> dict:
    split = {"clips": 1, "speakers": 1, "hours": 1.0}
    return {
        "read": 5,
        "kept": 3,
        "capped": 0,
        "rejected": {"audio missing": 7},
        "leaked_speakers": {"c/s": {}},
        "splits": dict.fromkeys(("train", "dev", "test"), split),
    } | more


def test_the_page_counts_and_lists_and_stands_alone():
    rejected = [Rejected(f"/lost/{n}<b>.wav", "audio missing", "no such file") for n in range(7)]
    page = render(clips(), rejected, summary(), "tsv: 내 자료")
    plain = re.sub(r"<[^>]*>", " ", page)
    assert re.search(r"female, 30s\s+1\s+1\s+1\.00\s+0", plain)
    assert re.search(r"male, age unknown\s+0\s+0\s+0\s+1\s+1\s+3\.00", plain)
    assert re.search(r"audio missing\s+7", plain)
    assert page.count("/lost/") == 5  # examples
    assert "/lost/0&lt;b&gt;.wav (no such file)" in page
    assert "c&lt;1&gt;" in page
    assert "내 자료" in page
    assert "http" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert len(re.findall("data:image/png;base64,", page)) == 3


@pytest.mark.parametrize("exact", [True, False])
def test_pictures_are_pictures(exact):
    for picture in draw(clips(exact)):
        image = imread(io.BytesIO(base64.b64decode(picture.base64)))
        assert min(image.shape[:2]) > 200
        assert image[..., :3].std() > 0.01


def test_a_page_without_clips_still_says_why():
    page = render([], [Rejected("/a", "label not JSON")], summary(kept=0), "t")
    assert "label not JSON" in page
    assert "data:image" not in page
