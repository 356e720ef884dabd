"""Embeddings of a teacher: of which utterances, how they are cached, and the dictionary K."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lhotse import CutSet

from model.classifier import SpeakerClassifier, StudentConfig
from model.labels import DEFAULT_TREE, LabelTree
from train.checkpoint import load_student
from train.data.clean import CleanSpeech
from train.data.dataset import audio_of, open_split, utterance_of
from train.method import teacher as module
from train.method.teacher import Embeddings, embed, embeddings_of


@pytest.fixture(scope="module")
def split(prepared):
    return open_split(prepared, "train")


@pytest.fixture(scope="module")
def teacher(teacher_run):
    return load_student(teacher_run)


@pytest.fixture(scope="module")
def found(teacher, split):
    return embed(teacher, split)


def with_line(cut, line):
    label = cut.supervisions[0]
    return replace(cut, supervisions=[replace(label, custom={**label.custom, "line": line})])


@pytest.fixture
def lines(split, tmp_path):
    """A split of recordings of every line: two wideband, one telephone, one finished call."""
    cuts = list(split.cuts())[:4]
    every = zip(cuts, ("wideband", "telephone", "call", "wideband"), strict=True)
    CutSet.from_cuts(with_line(*each) for each in every).to_file(tmp_path / "cuts.train.jsonl.gz")
    return open_split(tmp_path, "train")


def test_embeddings_kinds_and_confidences_are_those_of_single_utterances(found, teacher, split):
    rows = zip(found.matrix, found.kind, found.confidence, strict=True)
    by_name = dict(zip(found.ids, rows, strict=True))
    assert found.matrix.shape == (len(list(split.cuts())), 12)
    assert np.ptp(found.matrix, axis=0).max() > 0.1
    unknown = 0
    for cut in split.cuts():
        utterance, (row, kind, confidence) = utterance_of(cut), by_name.pop(cut.id)
        samples = torch.from_numpy(audio_of(cut, 16000) / np.float32(32768))[None]
        with torch.no_grad():
            output = teacher(samples, torch.tensor([samples.shape[1]]))
        np.testing.assert_allclose(row, output.embedding[0, 0].numpy(), atol=1e-4)
        if not utterance.age_band:
            assert kind == -1
            unknown += 1
            continue
        gender = DEFAULT_TREE.gender.index(utterance.gender)
        band = DEFAULT_TREE.age_band.index(utterance.age_band)
        assert kind == gender * 7 + band
        last = output.last()
        expected = last["gender"].softmax(1)[0, gender] * last["age_band"].softmax(1)[0, band]
        assert confidence == pytest.approx(float(expected), abs=1e-4)
    assert (unknown, by_name) == (4, {})


def test_only_wideband_recordings_have_a_clean_twin(teacher, lines):
    first, telephone, call, last = (cut.id for cut in lines.cuts())
    found = embed(teacher, lines)
    assert set(found.ids) == {first, last}
    rows, known = found.rows([first, telephone, call, last])
    assert known.tolist() == [True, False, False, True]
    assert not rows[1:3].any()
    assert rows[0].any()


def test_a_finished_call_is_no_clean_speech(lines):
    _, telephone, call, _ = lines.cuts()
    speech = CleanSpeech(DEFAULT_TREE, None, seed=1)
    with pytest.raises(
        ValueError, match=rf"{call.id}: not as it was recorded, .*train.simulate_calls"
    ):
        speech.example(call)
    assert len(speech.example(telephone).speech) == 16000 * telephone.duration


def test_clean_speech_is_the_recording_cropped_to_length(split):
    speech = CleanSpeech(DEFAULT_TREE, None, seed=1)
    for cut in split.cuts():
        whole = audio_of(cut, 16000)
        np.testing.assert_array_equal(speech.example(cut).speech, whole)
        crop = speech.example(cut, 0.5).speech
        assert len(crop) == 8000
        assert crop.tobytes() in whole.tobytes()
        np.testing.assert_array_equal(speech.example(cut, 4.0).speech, np.resize(whole, 64000))


def by_hand(**changes):
    parts = {
        "ids": np.array(["c/a", "c/b", "c/d", "c/e"]),
        "matrix": np.array([[1.0, 0.0], [4.0, 3.0], [0.0, 8.0], [6.0, 6.0]], np.float32),
        "kind": np.array([0, 0, 2, -1]),
        "confidence": np.array([0.2, 0.6, 0.2, 0.9], np.float32),
    }
    return Embeddings(**{**parts, **changes})


def test_rows_find_the_original_of_every_copy():
    rows, known = by_hand().rows(["c/b~2#0.1", "c/a#3.0", "c/d~0", "c/b", "c/x~0", "d/b", "c/~1"])
    assert known.tolist() == [True, True, True, True, False, False, False]
    expected = [[4, 3], [1, 0], [0, 8], [4, 3], [0, 0], [0, 0], [0, 0]]
    assert rows.tolist() == expected
    assert rows.dtype == torch.float32


def test_dictionary_by_hand():
    """A kind of no utterance gets the mean of all utterances of known kind."""
    known = by_hand().dictionary(4)
    assert known.dtype == torch.float32
    mean = [0.2 + 0.6 * 4, 0.6 * 3 + 0.2 * 8]
    expected = [[(0.2 + 2.4) / 0.8, 1.8 / 0.8], mean, [0.0, 8.0], mean]
    torch.testing.assert_close(known, torch.tensor(expected))
    unsure = by_hand(confidence=np.zeros(4, np.float32)).dictionary(1)
    assert unsure[0].tolist() == pytest.approx([2.75, 4.25])  # rather than 0 / 0


def copy_of(run, folder, **changes):
    folder.mkdir()
    state = torch.load(run / "last.pt", weights_only=True)
    torch.save({**state, **changes}, folder / "last.pt")
    return folder


def test_embeddings_are_cached_until_the_teacher_changes(
    teacher_run, split, sharded, found, tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr(module, "embed", lambda *_: calls.append(1) or found)
    folder = copy_of(teacher_run, tmp_path / "t")
    for _ in range(2):
        kept = embeddings_of(folder, split, DEFAULT_TREE)
        for name in Embeddings.__annotations__:
            np.testing.assert_array_equal(getattr(kept, name), getattr(found, name))
    assert len(calls) == 1
    assert len(list(folder.glob("embeddings-*.npz"))) == 1

    other = {name: 1.5 * value for name, value in load_student(folder).state_dict().items()}
    torch.save({**torch.load(folder / "last.pt"), "best": {"weights": other}}, folder / "last.pt")
    embeddings_of(folder, split, DEFAULT_TREE)
    assert len(calls) == 2
    embeddings_of(folder, open_split(sharded, "train"), DEFAULT_TREE)
    assert len(calls) == 3
    assert len(list(folder.iterdir())) == 4  # and no half-written file


def test_a_teacher_of_other_labels_is_refused(teacher_run, split):
    tree = LabelTree(("female", "male"), {"all": ("child", "adult")}, {"child": 0, "adult": 18})
    with pytest.raises(ValueError, match="run: the teacher was trained on other labels"):
        embeddings_of(teacher_run, split, tree)


def test_a_student_is_no_teacher(split, tmp_path):
    student = SpeakerClassifier(StudentConfig())
    state = {"best": {"weights": student.state_dict()}, "config": student.config.to_dict()}
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"takes 8000 Hz .*train\.pretrain"):
        embeddings_of(tmp_path, split, DEFAULT_TREE)
