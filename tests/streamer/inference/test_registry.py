"""Which model a call uses and when a model is retired, on a clock that only the test advances."""

import asyncio
import hashlib
import threading

import numpy as np
import pytest
import structlog

from streamer.errors import ModelFileError
from streamer.inference.engine import Engine
from streamer.inference.model import CPU_MODEL, DEFAULT_MODEL, OnnxModel
from streamer.inference.registry import ModelFile, ModelRegistry, ServedModel
from streamer.observability.metrics import Metrics
from tests.streamer.doubles import WAIT_SECONDS, FakeModel


def new_engine(model):
    return Engine(model, lambda callback: callback())


class FakeFile:
    """A model file whose content the test replaces; the content is its digest."""

    def __init__(self):
        self.content = "a"
        self.loads = []
        self.gate = threading.Event()
        self.gate.set()

    def digest(self):
        if isinstance(self.content, Exception):
            raise self.content
        return self.content

    def load(self):
        assert self.gate.wait(WAIT_SECONDS)
        self.loads.append(self.content)
        return self.served(self.content)

    def served(self, digest):
        model = FakeModel()
        model.digest = digest
        model.metadata = model.metadata.model_copy(update={"model_id": f"model-{digest}"})
        return ServedModel.of(new_engine(model))


class Case:
    def __init__(self, clock, keep_seconds):
        self.metrics = Metrics()
        self.file = FakeFile()
        self.first = self.file.served("a")
        self.models = ModelRegistry(
            self.first, self.file, metrics=self.metrics, keep_seconds=keep_seconds, clock=clock
        )

    async def reload(self, content):
        self.file.content = content
        await self.models.reload()
        return self.models.current

    def retire(self):
        """Retire unused models; returns the digests of those that stay."""
        self.models.retire()
        return [model.digest for model in self.models.loaded]

    def swaps(self, outcome):
        return self.metrics.registry.get_sample_value(
            "voicecohort_model_swaps_total", {"outcome": outcome}
        )

    def info(self):
        (family,) = (f for f in self.metrics.registry.collect() if f.name == "voicecohort_model")
        return [sample.labels["model_id"] for sample in family.samples]

    async def closed(self, model):
        async with asyncio.timeout(WAIT_SECONDS):
            while model.engine.alive:
                await asyncio.sleep(0.005)


@pytest.fixture
def case(run_async, clock):
    async def main(scenario, keep_seconds):
        case = Case(clock, keep_seconds)
        try:
            with structlog.testing.capture_logs() as case.logs:
                await scenario(case)
        finally:
            await case.models.stop()
            case.first.engine.stop()

    return lambda scenario, keep_seconds=0.0: run_async(main(scenario, keep_seconds))


def test_old_model_is_retired_after_its_last_call(case):
    async def scenario(c):
        c.models.acquire(c.first)
        c.models.acquire(c.first)
        second = await c.reload("b")
        assert second is not c.first
        assert (c.swaps("changed"), c.info()) == (1, ["model-b"])
        c.models.acquire(second)
        assert c.retire() == ["a", "b"]
        c.models.release(c.first)
        assert c.retire() == ["a", "b"], "one call still uses it"
        assert c.models.by_digest("a") is c.first
        assert c.first.engine.alive
        c.models.release(c.first)
        assert c.retire() == ["b"]
        assert c.models.by_digest("a") is None
        await c.closed(c.first)
        (changed,) = [e for e in c.logs if e["event"] == "model_changed"]
        assert (changed["before"], changed["after"]) == ("model-a", "model-b")
        assert (changed["digest"], changed["calls_on_older"]) == ("b", 2)
        c.models.release(second)
        assert c.retire() == ["b"], "the current model stays without calls"

    case(scenario)


def test_unused_model_stays_for_resumed_calls(case, clock):
    async def scenario(c):
        c.models.acquire(c.first)
        await c.reload("b")
        for resumed in (True, False):
            clock.now += 1000
            assert c.retire() == ["a", "b"]
            c.models.release(c.first)
            clock.now += 59
            assert c.retire() == ["a", "b"]
            if resumed:
                c.models.acquire(c.first)
        clock.now += 2
        assert c.retire() == ["b"]
        await c.closed(c.first)

    case(scenario, keep_seconds=60.0)


def test_model_without_calls_is_kept_from_the_swap_on(case, clock):
    async def scenario(c):
        clock.now += 1000
        await c.reload("b")
        clock.now += 59
        assert c.retire() == ["a", "b"]
        clock.now += 2
        assert c.retire() == ["b"]

    case(scenario, keep_seconds=60.0)


def test_unchanged_file_is_not_loaded(case):
    async def scenario(c):
        assert await c.reload("a") is c.first
        assert c.file.loads == []
        assert c.swaps("unchanged") == 1
        assert [e["event"] for e in c.logs] == ["model_unchanged"]

    case(scenario)


def test_failed_reload_keeps_the_model(case):
    async def scenario(c):
        c.file.load = lambda: (_ for _ in ()).throw(MemoryError())
        assert await c.reload("b") is c.first
        assert await c.reload(ModelFileError("model file m.onnx:\nnot found")) is c.first
        assert (c.swaps("failed"), c.swaps("changed"), c.info()) == (2, 0, ["model-a"])
        assert [(e["event"], e["model"], e["reason"]) for e in c.logs] == [
            ("model_reload_failed", "model-a", "MemoryError"),
            ("model_reload_failed", "model-a", "model file m.onnx: not found"),
        ]
        assert c.retire() == ["a"]

    case(scenario)


def test_loaded_model_is_not_loaded_again(case, clock):
    async def scenario(c):
        c.models.acquire(c.first)
        second = await c.reload("b")
        assert await c.reload("a") is c.first
        assert c.file.loads == ["b"]
        c.models.retire()
        await c.closed(second)
        c.models.release(c.first)
        clock.now += 1000
        assert c.retire() == ["a"]
        assert c.first.engine.alive
        assert c.info() == ["model-a"]

    case(scenario)


def test_loading_does_not_block_the_event_loop(case):
    async def scenario(c):
        c.file.gate.clear()
        loading = asyncio.create_task(c.reload("b"))
        again = asyncio.create_task(c.models.reload())
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert c.models.current is c.first
        c.file.gate.set()
        await asyncio.gather(loading, again)
        assert c.file.loads == ["b"], "the second reload found it unchanged"
        assert (c.swaps("changed"), c.swaps("unchanged")) == (1, 1)

    case(scenario)


def test_queue_seconds_are_those_of_any_engine(case):
    async def scenario(c):
        c.models.acquire(c.first)
        await c.reload("b")
        engine = c.first.engine
        engine.model.gate.clear()
        stream, other = (engine.new_stream(lambda _: None) for _ in range(2))
        engine.submit(stream, np.ones(1280, np.int16))
        assert await asyncio.to_thread(engine.model.stepping.wait, WAIT_SECONDS)
        engine.submit(other, np.ones(1280, np.int16))
        await asyncio.sleep(0.05)
        assert c.models.queue_seconds >= 0.05
        engine.model.gate.set()
        c.models.release(c.first)

    case(scenario)


def test_registry_without_a_file_keeps_its_model(run_async, fake):
    async def scenario():
        models = ModelRegistry(ServedModel.of(new_engine(fake)))
        before = models.current
        await models.reload()
        assert models.current is before
        await models.stop()
        assert not before.engine.alive

    run_async(scenario())


# --- files ---


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_file_is_identified_by_its_content(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(CPU_MODEL.read_bytes())
    file = ModelFile(path, "cpu", 1, new_engine)
    served = file.load()
    assert file.digest() == served.digest == served.engine.model.digest == sha256(CPU_MODEL)
    assert (served.providers, served.device) == (["CPUExecutionProvider"], "CPU")
    path.write_bytes(DEFAULT_MODEL.read_bytes())
    assert file.digest() == sha256(DEFAULT_MODEL) != served.digest
    path.unlink()
    with pytest.raises(ModelFileError, match="not found"):
        file.digest()
    served.close()
    assert not served.engine.alive
    assert served.engine.model._session is None, "its memory is freed"


def test_file_needs_memory_for_the_largest_batch(monkeypatch):
    def no_memory(_, max_size):
        raise MemoryError(f"no room for {max_size}")

    monkeypatch.setattr(OnnxModel, "warm_up", no_memory)
    with pytest.raises(ModelFileError, match="its first steps: no room for 32"):
        ModelFile(None, "cpu", 1, new_engine).load()


def test_default_file_suits_the_provider():
    assert ModelFile(None, "cpu", 1, new_engine).digest() == sha256(CPU_MODEL)
