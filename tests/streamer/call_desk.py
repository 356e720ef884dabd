"""A call on a fake model without gRPC; its stream is made of lists."""

import asyncio

import numpy as np

from streamer.audio.codec import SAMPLE_RATE, Encoding
from streamer.call.call import Call
from streamer.call.overload import Load
from streamer.inference.engine import Engine
from streamer.inference.registry import ServedModel
from streamer.observability.metrics import Metrics
from streamer.session.session import CallConfig
from tests.streamer.doubles import FakeModel
from tests.streamer.wire import sound


class Desk:
    """A call and its stream; responses are written while `may_send` is set."""

    writable = False

    def __init__(self, clock=None, checkpoint_schedule=None, **config):
        self.student = FakeModel()
        self.now = 100.0
        self.metrics = Metrics()
        self.engine = Engine(self.student, asyncio.get_running_loop().call_soon_threadsafe)
        defaults = {"call_id": "c", "encoding": Encoding.LINEAR16, "sample_rate": SAMPLE_RATE}
        self.call = Call(
            CallConfig(**(defaults | config)),
            ServedModel.of(self.engine),
            clock or (lambda: self.now),
            self.metrics,
            Load(),
            checkpoint_schedule=checkpoint_schedule,
        )
        self.incoming, self.reads, self.sent = [], 0, []
        self.may_send = asyncio.Event()
        self.writer = asyncio.create_task(self.call.responses.write_all(self))

    def set_audio_handler(self, receive_audio_now):
        self.receive_audio_now = receive_audio_now

    async def read(self):
        self.reads += 1
        return self.incoming.pop(0) if self.incoming else None

    async def write(self, response):
        await self.may_send.wait()
        self.sent.append(response)

    def sent_of(self, kind):
        return [getattr(r, kind) for r in self.sent if r.HasField(kind)]

    async def finish(self):
        """Finish the call and write all responses."""
        await self.call.finish()
        self.call.close_responses()
        self.may_send.set()
        await self.writer

    async def stop(self):
        self.writer.cancel()
        self.student.gate.set()
        self.call.close()
        await asyncio.to_thread(self.engine.stop)


def noise(seconds, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(-9000, 9000, round(seconds * SAMPLE_RATE)).astype("<i2").tobytes()


def noise_message(sequence, seconds=1.0):
    return sound(sequence, noise(seconds, sequence))
