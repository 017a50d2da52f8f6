"""A TCP proxy on loopback, in a thread of the test: replies that are lost, directions that stall, connections cut.

It stands before a coordinator, or between a coordinator and its store.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading

TO_SERVER, TO_CLIENT = "to server", "to client"
#: Reads of a direction that may be on their way at once; then nothing more is read from its sender.
_ON_THE_WAY = 16
#: How often a direction that drips gets its next bytes, in seconds.
_DRIP_EVERY_S = 0.01


class Proxy:
    """Passes bytes on to `target` (HOST:PORT) and does to them what the test says; `address` is where it listens."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._dropping: set[str] = set()
        self._flowing = {TO_SERVER: asyncio.Event(), TO_CLIENT: asyncio.Event()}
        for event in self._flowing.values():
            event.set()
        self._links: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refuses = False
        self._delay_s = {TO_SERVER: 0.0, TO_CLIENT: 0.0}
        self._drip: dict[str, int] = {}
        self._replies_to_cut_at = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        self._links.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, int(self._port))
        except OSError:
            self._links.discard(writer)
            writer.transport.abort()
            return
        if writer not in self._links:  # cut meanwhile
            far_writer.transport.abort()
            return
        self._links.add(far_writer)
        for one, other, way in ((reader, far_writer, TO_SERVER), (far_reader, writer, TO_CLIENT)):
            held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_ON_THE_WAY)
            for part in (self._read(one, held, way), self._pump(held, other, way)):
                task = asyncio.create_task(part)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _read(self, reader: asyncio.StreamReader, held: asyncio.Queue[tuple[float, bytes]], way: str) -> None:
        """Note for all that comes when it may go on: what is delayed does not delay what comes behind it once more."""
        data = b"-"
        while data:
            try:
                data = await reader.read(1 << 16)
            except OSError:
                data = b""
            await held.put((self._loop.time() + self._delay_s[way], data))

    async def _pump(self, held: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, way: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await held.get()
                if not data:
                    break
                await asyncio.sleep(due - self._loop.time())
                await self._flowing[way].wait()
                if way == TO_CLIENT and self._replies_to_cut_at:
                    self._replies_to_cut_at -= 1
                    writer.transport.abort()  # the other direction ends at its next read or write
                    break
                if way not in self._dropping:
                    await self._write(writer, data, way)
        await self._flowing[way].wait()  # an end is held and lost as bytes are
        if way in self._dropping:
            return
        writer.close()
        self._links.discard(writer)

    async def _write(self, writer: asyncio.StreamWriter, data: bytes, way: str) -> None:
        piece = self._drip.get(way, len(data))
        for start in range(0, len(data), piece):
            writer.write(data[start : start + piece])
            await writer.drain()
            if piece < len(data):
                await asyncio.sleep(_DRIP_EVERY_S)

    def _do(self, action: object, *args: object) -> None:
        """Do something in the proxy's thread, and return once it is done."""
        done = threading.Event()

        def do() -> None:
            action(*args)
            done.set()

        self._loop.call_soon_threadsafe(do)
        assert done.wait(10)

    def drop(self, way: str) -> None:
        """Lose all bytes that go this way, until the next `cut`."""
        self._do(self._dropping.add, way)

    def stall(self, way: str) -> None:
        """Hold all bytes that go this way, until `flow` or `cut`."""
        self._do(self._flowing[way].clear)

    def delay(self, way: str, seconds: float) -> None:
        """Hold all bytes that go this way for a while, until the next `cut`."""
        self._do(self._delay_s.__setitem__, way, seconds)

    def drip(self, way: str, bytes_per_s: int) -> None:
        """Let bytes that go this way through slowly, a few at a time, until the next `cut`."""
        self._do(self._drip.__setitem__, way, max(1, int(bytes_per_s * _DRIP_EVERY_S)))

    def cut_at_reply(self, replies: int = 1) -> None:
        """Reset a connection when the server answers: what was asked has been done, and nobody is told."""
        self._do(setattr, self, "_replies_to_cut_at", replies)

    def flow(self, way: str) -> None:
        """Let held bytes go on."""
        self._do(self._flowing[way].set)

    def cut(self, *, for_good: bool = False) -> None:
        """Reset every connection; new ones pass everything, or are refused."""
        self._do(self._cut, for_good)

    def _cut(self, for_good: bool) -> None:
        self._refuses = for_good
        self._dropping.clear()
        self._drip.clear()
        self._replies_to_cut_at = 0
        self._delay_s = dict.fromkeys(self._delay_s, 0.0)
        for task in self._tasks:
            task.cancel()
        for link in self._links:
            link.transport.abort()
        self._links.clear()
        for event in self._flowing.values():
            event.set()

    def close(self) -> None:
        self.cut(for_good=True)
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        # Also those connections that are just being accepted, each of which is refused: asyncio leaks them otherwise.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.gather(*others, return_exceptions=True)
        self._server.close()
        await self._server.wait_closed()
