"""Steps on a GPU: on a CPU in place of one, and on a real GPU if there is one."""

import ctypes

import numpy as np
import onnxruntime
import pytest

from streamer.errors import InferenceFailed, ModelFileError
from streamer.inference import cuda
from streamer.inference.batch import BatchRunner
from streamer.inference.model import CPU_MODEL, DEFAULT_MODEL, OnnxModel, model_file
from streamer.inference.self_test import self_test


class FakeDevice:
    """A device whose memory is the host's; counts the copied bytes."""

    kind = "cpu"
    name = "fake"

    def __init__(self):
        self.copied = {True: 0, False: 0}

    def buffer(self, shape, dtype):
        return np.zeros(shape, dtype)

    def copy(self, source, target, size, *, to_host):
        self.copied[to_host] += size
        ctypes.memmove(target, source, size)


def open_on_cpu(content, options, cuda_options):
    assert cuda_options == {"enable_cuda_graph": "1"}
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@pytest.fixture
def fake_gpu(monkeypatch):
    """The model that a GPU runs, on a fake device."""
    device = FakeDevice()
    monkeypatch.setattr(cuda, "find", lambda provider: None if provider == "cpu" else device)
    monkeypatch.setattr(cuda, "_open", open_on_cpu)
    model = OnnxModel(provider="cuda")
    yield model, device
    model.close()


@pytest.fixture(params=["fake", "real"])
def gpu_model(request):
    """The model on a fake and on a real GPU."""
    if request.param == "fake":
        yield request.getfixturevalue("fake_gpu")[0]
        return
    try:
        found = cuda.find("cuda")
    except ModelFileError as error:
        pytest.skip(f"NOT TESTED on a GPU: {error}")
    model = OnnxModel(provider="cuda")
    assert model.device == found.name
    assert model.providers[0] == cuda.PROVIDER
    yield model
    model.close()


@pytest.fixture
def cpu_model():
    """The same file on a CPU."""
    model = OnnxModel(DEFAULT_MODEL, provider="cpu")
    yield model
    model.close()


def new_calls(meta, count):
    """A block of noise and the memory of a new call, ``count`` times."""
    noise = np.random.default_rng(4)
    blocks = [noise.integers(-9000, 9000, meta.block).astype(np.int16) for _ in range(count)]
    return [(block, meta.fresh()) for block in blocks]


def test_batches_are_padded_to_powers_of_two(gpu_model):
    assert [gpu_model.padded_size(n) for n in (1, 2, 3, 4, 5, 32, 33)] == [1, 2, 4, 4, 8, 32, 64]


def test_warm_up_runs_each_batch_size_once(fake_gpu, monkeypatch):
    model, _ = fake_gpu
    sizes = []
    run = cuda.Buckets.run
    monkeypatch.setattr(
        cuda.Buckets, "run", lambda self, *a: (sizes.append(a[2]), run(self, *a))[1]
    )
    model.warm_up(20)
    assert sizes == [1, 2, 4, 8, 16, 32]


def assert_close(result, same):
    (posteriors, memory), (same_posteriors, same_memory) = result, same
    for task, same_task in zip(posteriors, same_posteriors, strict=True):
        np.testing.assert_allclose(task, same_task, rtol=0, atol=1e-5)
    np.testing.assert_allclose(memory.state, same_memory.state, rtol=1e-3, atol=1e-4)


def test_batches_give_the_results_of_a_cpu(gpu_model, cpu_model):
    meta = cpu_model.metadata
    gpu_items, cpu_items = new_calls(meta, 5), new_calls(meta, 5)
    gpu, cpu = BatchRunner(gpu_model, 8), BatchRunner(cpu_model, 8)
    for size in (5, 3, 5, 1):
        results, same = gpu.run(gpu_items[:size]), cpu.run(cpu_items[:size])
        for row in range(size):
            assert_close(results[row], same[row])
            gpu_items[row] = gpu_items[row][0], results[row][1]
            cpu_items[row] = cpu_items[row][0], same[row][1]


def test_steps_of_different_sizes_do_not_interfere(gpu_model, cpu_model):
    """Compiled code of one shape must outlive that of the next ones."""
    meta = cpu_model.metadata
    noise = np.random.default_rng(5)
    feeds = []
    for rows in (1, 2, 4, 8, 16, 32, 64):
        samples = (0.1 * noise.standard_normal((rows, meta.block))).astype(np.float32)
        feeds.append((samples, np.full(rows, meta.block), meta.fresh(rows)))
    gpu_model.warm_up(64)
    for _ in range(3):
        for feed in feeds:
            assert_close(gpu_model.step(*feed), cpu_model.step(*feed))


def test_model_on_a_gpu_passes_the_self_test(gpu_model):
    self_test(gpu_model)


def test_only_inputs_and_outputs_are_copied(fake_gpu):
    model, device = fake_gpu
    meta = model.metadata
    BatchRunner(model, 8).run(new_calls(meta, 3))
    assert device.copied[False] == 4 * (4 * meta.block + 8 + meta.memory_bytes)
    assert device.copied[True] == 4 * (4 * (2 + 4 + 7) + meta.memory_bytes)


def test_halves_of_a_batch_keep_their_memories(fake_gpu, monkeypatch):
    """Both halves are steps of the same size, whose outputs lie in the same buffer."""
    model, _ = fake_gpu
    meta = model.metadata
    alone = [BatchRunner(model, 4).run([item])[0] for item in new_calls(meta, 4)]
    step = model.step

    def raising(samples, valid, memory):
        if len(samples) == 4:
            raise ArithmeticError("marker")
        return step(samples, valid, memory)

    monkeypatch.setattr(model, "step", raising)
    results = BatchRunner(model, 4).run(new_calls(meta, 4))
    assert not any(isinstance(result, InferenceFailed) for result in results)
    for result, same in zip(results, alone, strict=True):
        assert_close(result, same)


def test_inputs_of_another_shape_or_type_are_rejected(fake_gpu):
    """Bytes are copied: those behind a wrong array would be other memory of the process."""
    model, _ = fake_gpu
    meta = model.metadata
    samples, valid, memory = np.zeros((1, meta.block)), np.zeros(1, np.int64), meta.fresh(1)
    with pytest.raises(ValueError, match=r"^samples: float64 "):
        model.step(samples, valid, memory)
    memory = memory._replace(state=np.zeros((1, 5), np.float32))
    with pytest.raises(ValueError, match=r"^state: float32 \(1, 5\), not \[1, "):
        model.step(samples.astype(np.float32), valid, memory)


def test_closed_model_frees_its_buckets(fake_gpu):
    model, _ = fake_gpu
    model.warm_up(2)
    model.close()
    assert model._buckets is None


@pytest.mark.usefixtures("fake_gpu")
def test_model_without_a_cuda_graph_is_stepped_without(monkeypatch, capsys):
    """For example one whose 8-bit products have no GPU kernel; logged once."""
    tried = []

    def open_without_graphs(content, options, cuda_options):
        tried.append(cuda_options)
        if cuda_options:
            raise RuntimeError("nodes have not been partitioned\nto the GPU")
        return open_on_cpu(content, options, {"enable_cuda_graph": "1"})

    monkeypatch.setattr(cuda, "_open", open_without_graphs)
    model = OnnxModel(DEFAULT_MODEL, provider="cuda")
    model.warm_up(2)
    assert tried == [{"enable_cuda_graph": "1"}, {}, {}, {}]
    log = capsys.readouterr().out
    assert log.count("no_cuda_graph") == 1
    assert "nodes have not been partitioned" in log
    model.close()


@pytest.mark.usefixtures("fake_gpu")
def test_file_that_the_gpu_cannot_load_is_rejected(monkeypatch):
    def none(*_):
        raise RuntimeError("ONNX Runtime cannot use the GPU, for a reason that it has printed")

    monkeypatch.setattr(cuda, "_open", none)
    with pytest.raises(ModelFileError, match=r"student.onnx: cannot be loaded: ONNX Runtime ca"):
        OnnxModel(DEFAULT_MODEL, provider="cuda")


# --- choice of the device ---


def test_cpu_runs_the_8_bit_file_by_default(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert model_file(None, "auto") == CPU_MODEL
    model = OnnxModel(provider="auto")
    assert (model.providers, model.device) == (["CPUExecutionProvider"], "CPU")


def test_gpu_runs_the_float32_file_by_default(fake_gpu):
    model, device = fake_gpu
    assert model_file(None, "auto") == DEFAULT_MODEL
    assert model.device == device.name


def test_cuda_needs_an_onnxruntime_for_gpus(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ModelFileError, match=r"^provider cuda: this onnxruntime offers only \["):
        OnnxModel(DEFAULT_MODEL, provider="cuda")


@pytest.fixture
def no_gpu(monkeypatch):
    """An onnxruntime for GPUs on a machine without a GPU."""
    both = [cuda.PROVIDER, "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def none():
        raise RuntimeError("there is no GPU")

    monkeypatch.setattr(cuda, "_first_gpu", none)
    cuda._warn_unusable.cache_clear()


@pytest.mark.usefixtures("no_gpu")
def test_cuda_needs_a_gpu():
    with pytest.raises(ModelFileError, match=r"^provider cuda: there is no GPU$"):
        OnnxModel(DEFAULT_MODEL, provider="cuda")


@pytest.mark.usefixtures("no_gpu")
def test_missing_gpu_is_logged_once(capsys):
    assert [cuda.find("auto"), cuda.find("auto"), cuda.find("cpu")] == [None] * 3
    assert model_file(None, "auto") == CPU_MODEL
    assert capsys.readouterr().out.count("gpu_unusable") == 1
