"""What the lines of a trunk say is sent together, and not faster than it is read."""

import asyncio

import pytest

from streamer.errors import ReadTimeout
from streamer.rpc import envelope_pb2 as envelope
from streamer.transport.trunk_writer import TrunkWriter


def at_once():
    return 0.0


class Slow:
    """A stream whose reader takes one message when told to."""

    def __init__(self):
        self.taken = []
        self.may = asyncio.Semaphore(0)

    async def write(self, message):
        await self.may.acquire()
        self.taken.append(message)


def response(size, line=1):
    return envelope.LineResponse(line=line, response=bytes(size))


def test_what_waits_is_sent_together_in_messages_of_a_megabyte(run_async):
    sizes = [10, 300_000, 800_000, 5, 2_000_000, 7, 7]

    async def main():
        outgoing, slow = TrunkWriter(at_once), Slow()
        sending = asyncio.create_task(outgoing.send_all(slow))
        assert outgoing.writable
        first = outgoing.say(response(1))
        await asyncio.sleep(0.01)
        assert not outgoing.writable
        rest = [outgoing.say(response(size)) for size in sizes]
        slow.may.release()
        await first.wait()
        assert not any(sent.is_set() for sent in rest)
        for _ in range(10):
            slow.may.release()
        await asyncio.gather(*(sent.wait() for sent in rest))
        assert outgoing.writable
        outgoing.complete()
        await sending
        return slow.taken

    taken = [[len(line.response) for line in message.lines] for message in run_async(main())]
    assert taken == [[1], [10, 300_000, 800_000], [5, 2_000_000], [7, 7]]


def test_a_gateway_that_does_not_read_is_not_read_either(run_async):
    async def main():
        outgoing, slow = TrunkWriter(at_once), Slow()
        sending = asyncio.create_task(outgoing.send_all(slow))
        for _ in range(11):
            outgoing.say(response(1))
        waiting = asyncio.create_task(outgoing.at_most(10, 20.0))
        await asyncio.sleep(0.01)  # all 11 are on their way, none waits behind them
        assert waiting.done()
        for _ in range(11):
            outgoing.say(response(1))
        waiting = asyncio.create_task(outgoing.at_most(10, 20.0))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        slow.may.release()
        await waiting
        for _ in range(11):
            outgoing.say(response(1))
        with pytest.raises(ReadTimeout, match=r"not read for 0\.01 s"):
            await outgoing.at_most(10, 0.01)
        sending.cancel()

    run_async(main())


def test_a_busy_server_waits_for_more_to_say(run_async):
    async def main():
        outgoing, slow = TrunkWriter(lambda: 0.1), Slow()
        slow.may.release()
        sending = asyncio.create_task(outgoing.send_all(slow))
        for size in (1, 2, 3):
            outgoing.say(response(size))
            await asyncio.sleep(0.01)
            assert outgoing.writable
        outgoing.complete()
        await sending
        return [[len(line.response) for line in message.lines] for message in slow.taken]

    assert run_async(main()) == [[1, 2, 3]]
