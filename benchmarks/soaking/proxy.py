"""A TCP proxy that can fail as networks do: cut a connection without goodbye, or swallow it."""

from __future__ import annotations

import asyncio
import contextlib

PIECE = 65536


class Proxy:
    """One loopback port before a server. An async context manager.

    Args:
        target: HOST:PORT of the server.
    """

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._left = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._listener: asyncio.Server | None = None
        self.target = ""

    async def __aenter__(self) -> Proxy:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        if self._listener is not None:
            self._listener.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, ahead]
        for pumping in (self._to_server(reader, ahead), self._to_client(behind, writer)):
            pump = asyncio.create_task(pumping)
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _to_server(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
            await self._flowing.wait()
            sink.close()

    async def _to_client(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE):
                if self._flowing.is_set():
                    sink.write(data)
                    await sink.drain()
        self._left.set()
        if self._flowing.is_set():
            sink.close()

    def cut(self) -> None:
        """Reset both sides of every connection: the gateway's host lost power."""
        for writer in self._writers:
            writer.transport.abort()

    def swallow(self) -> None:
        """Pass nothing on from now on, in either direction: the network is gone."""
        self._flowing.clear()

    async def closed_by_server(self, seconds: float) -> bool:
        """Whether the server gives up a connection within ``seconds``."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._left.wait(), seconds)
        return self._left.is_set()
