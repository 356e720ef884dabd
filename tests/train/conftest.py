"""What the tests of training share: the words of a tiny run, one tiny teacher, cuts, a delay."""

import numpy as np
import pytest
import torch
from lhotse import MonoCut, Recording, SupervisionSegment

_THREADS = torch.get_num_threads()
TINY = {
    "width": 16,
    "epochs": 1,
    "batch-size": 8,
    "shortest-crop": 0.5,
    "longest-crop": 0.8,
    "accelerator": "cpu",
    "threads": 1,
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """With tensors this small, threads wait for each other longer than they work."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(_THREADS)


@pytest.fixture(scope="session")
def tiny():
    """Command line of a run that takes less than a second; what comes later wins."""

    def words(data, out, *flags):
        usual = [word for name, value in TINY.items() for word in (f"--{name}", value)]
        return [str(word) for word in ("--data", data, "--out", out, *usual, *flags)]

    return words


@pytest.fixture(scope="session")
def teacher_run(sharded, tiny, tmp_path_factory):
    """Folder of a finished run of train.pretrain; its embeddings are 12 wide."""
    from train.pretrain import Pretrain, pretrain  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("teacher") / "run"
    flags = ("--backbone", "ecapa", "--embedding", 12, "--epochs", 2)
    pretrain(Pretrain(_cli_parse_args=tiny(sharded, folder, *flags)))
    return folder


@pytest.fixture(scope="session")
def lag():
    """Samples by which a copy is late, by the peak of the cross-correlation.

    Of the phases alone and from 600 to 3000 Hz: plain correlation cannot tell a pitch period from
    none, and steep filters are late at their edges by nature.
    """

    def measure(original, copy):
        n = 2 ** int(np.ceil(np.log2(len(original) + len(copy))))
        spectrum = np.fft.rfft(copy.astype(float), n) * np.conj(np.fft.rfft(original, n))
        spectrum /= np.abs(spectrum) + 1e-9
        hertz = np.fft.rfftfreq(n, 1 / 8000)
        spectrum[(hertz < 600) | (hertz > 3000)] = 0
        peak = int(np.argmax(np.fft.irfft(spectrum, n)))
        return peak if peak < n // 2 else peak - n

    return measure


@pytest.fixture(scope="session")
def make_cut():
    """Make the cut of an audio file as train.prepare labels it."""

    def make(path, name, speaker, gender, band, split="train", clips=1) -> MonoCut:
        corpus = name.split("/")[0]
        recording = Recording.from_file(path, recording_id=name)
        custom = {"corpus": corpus, "licence": "CC0", "age": None, "age_band": band}
        custom |= {"line": "wideband", "split": split, "speaker_clips": clips}
        label = SupervisionSegment(
            id=name, recording_id=name, start=0.0, duration=recording.duration,
            speaker=f"{corpus}/{speaker}", gender=gender, custom=custom,
        )  # fmt: skip
        return MonoCut(name, 0.0, recording.duration, 0, [label], recording=recording)

    return make
