"""What the tests of training share: the words of a tiny run, and one tiny teacher."""

import pytest
import torch

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
