"""Responses of all lines are sent together, and not faster than they are read."""

import asyncio

import pytest

from streamer.errors import ReadTimeout
from streamer.rpc import envelope_pb2 as envelope
from streamer.transport.trunk_writer import TrunkWriter


def at_once():
    return 0.0


class Slow:
    """A stream whose reader takes one message when allowed."""

    def __init__(self):
        self.taken = []
        self.may = asyncio.Semaphore(0)

    async def write(self, message):
        await self.may.acquire()
        self.taken.append(message)


def response(size, line=1):
    return envelope.LineResponse(line=line, response=bytes(size))


def test_waiting_responses_share_messages(run_async):
    sizes = [10, 300_000, 800_000, 5, 2_000_000, 7, 7]

    async def main():
        writer, slow = TrunkWriter(at_once), Slow()
        sending = asyncio.create_task(writer.send_all(slow))
        assert writer.writable
        first = writer.send(response(1))
        await asyncio.sleep(0.01)
        assert not writer.writable
        rest = [writer.send(response(size)) for size in sizes]
        slow.may.release()
        await first.wait()
        assert not any(sent.is_set() for sent in rest)
        for _ in range(10):
            slow.may.release()
        await asyncio.gather(*(sent.wait() for sent in rest))
        assert writer.writable
        writer.close()
        await sending
        return slow.taken

    taken = [[len(line.response) for line in message.lines] for message in run_async(main())]
    assert taken == [[1], [10, 300_000, 800_000], [5, 2_000_000], [7, 7]]


async def test_reading_stops_while_the_gateway_does_not_read():
    writer, slow = TrunkWriter(at_once), Slow()
    sending = asyncio.create_task(writer.send_all(slow))
    for _ in range(11):
        writer.send(response(1))
    waiting = asyncio.create_task(writer.wait_for_room(10, 20.0))
    await asyncio.sleep(0.01)  # all 11 are on their way, none waits behind them
    assert waiting.done()
    for _ in range(11):
        writer.send(response(1))
    waiting = asyncio.create_task(writer.wait_for_room(10, 20.0))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    slow.may.release()
    await waiting
    for _ in range(11):
        writer.send(response(1))
    with pytest.raises(ReadTimeout, match=r"not read for 0\.01 s"):
        await writer.wait_for_room(10, 0.01)
    sending.cancel()


def test_message_waits_for_more_on_a_busy_server(run_async):
    async def main():
        writer, slow = TrunkWriter(lambda: 0.1), Slow()
        slow.may.release()
        sending = asyncio.create_task(writer.send_all(slow))
        for size in (1, 2, 3):
            writer.send(response(size))
            await asyncio.sleep(0.01)
            assert writer.writable
        writer.close()
        await sending
        return [[len(line.response) for line in message.lines] for message in slow.taken]

    assert run_async(main()) == [[1, 2, 3]]
