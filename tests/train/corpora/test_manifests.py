import gzip
import json

import pytest
from lhotse import CutSet, MonoCut, RecordingSet, SupervisionSet, validate

from train.corpora.audio import AudioInfo
from train.corpora.clip import Clip
from train.corpora.manifests import cut_of, recording_of, supervision_of, write_jsonl, write_text
from train.corpora.utterance import Utterance

CLIP = Clip(
    Utterance(
        "가-1", "c", "여-김XX", "female", "/a.zip!가/1.wav", 37, "30s", "ko", "MIT", "telephone"
    ),
    AudioInfo(44100, 100001, 2),
    "train",
    7,
)
UNKNOWN = Clip(Utterance("b", "c", "s", "male", "/b.wav"), AudioInfo(8000, 8000, 1), "dev", 1)


def test_a_cut_holds_all_that_training_asks_for():
    cut = cut_of(CLIP)
    validate(cut)
    (supervision,) = cut.supervisions
    assert (cut.id, supervision.speaker, supervision.gender) == ("c/가-1", "c/여-김XX", "female")
    assert (cut.recording.sources[0].type, cut.recording.sources[0].source) == (
        "file",
        "/a.zip!가/1.wav",
    )
    assert (cut.recording.num_samples, cut.num_channels) == (100001, 1)
    assert supervision.language == "ko"
    assert supervision.custom == {
        "corpus": "c",
        "licence": "MIT",
        "age": 37,
        "age_band": "30s",
        "line": "telephone",
        "split": "train",
        "speaker_clips": 7,
    }


def test_manifests_come_back_as_lhotse_wrote_them(tmp_path):
    pairs = ((RecordingSet, recording_of), (SupervisionSet, supervision_of), (CutSet, cut_of))
    for kind, make in pairs:
        path = tmp_path / f"{make.__name__}.jsonl.gz"
        write_jsonl(path, (make(clip).to_dict() for clip in (CLIP, UNKNOWN)))
        assert list(kind.from_file(path)) == [make(CLIP), make(UNKNOWN)]
    cut = list(CutSet.from_jsonl_lazy(tmp_path / "cut_of.jsonl.gz"))[1]
    assert isinstance(cut, MonoCut)
    assert cut.supervisions[0].custom["age"] is None


def test_files_are_the_same_bytes_every_time_and_never_half_written(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    write_jsonl(path, [{"a": "가"}])
    before = path.read_bytes()
    write_jsonl(path, [{"a": "가"}])
    assert path.read_bytes() == before
    assert json.loads(gzip.decompress(before)) == {"a": "가"}

    def broken():
        yield {"b": 1}
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_jsonl(path, broken())
    assert path.read_bytes() == before
    write_text(tmp_path / "b.txt", "가\n")
    assert (tmp_path / "b.txt").read_text() == "가\n"
