"""A way to STS that can be barred: a TCP proxy on loopback."""

import asyncio
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import urlsplit

#: What becomes of a connection: it is handed on, it is reset, or nobody ever answers on it.
Mode = Literal["open", "refusing", "silent"]

_CHUNK: Final = 65_536  # bytes


class Gate:
    """
    Hands connections on to *url*, counts the sessions asked for, and can be shut.

    A connection that was open, or is made, while the gate is shut gets no answer for the
    rest of its life. Those that come later are served.
    """

    def __init__(self, url: str) -> None:
        self._upstream = urlsplit(url)
        self._mode: Mode = "open"
        self._open: set[asyncio.StreamWriter] = set()  # to clients that are served
        self._server: asyncio.Server | None = None
        self.asked = 0  # times AssumeRole got through
        self.in_vain = 0  # times somebody asked while it was shut

    @property
    def url(self) -> str:
        """Return where the proxy is."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def set(self, mode: Mode) -> None:
        """Open or shut the gate; whoever is connected is treated as those who come."""
        self._mode = mode
        if mode == "open":
            return
        for client in self._open:
            if mode == "refusing":
                client.transport.abort()
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "refusing":
            self.in_vain += 1
            writer.transport.abort()
            return
        if self._mode == "open":
            self._open.add(writer)
        up_reader, up_writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        answers = asyncio.create_task(self._hand_on(up_reader, writer, writer))
        try:
            await self._hand_on(reader, up_writer, writer)
        finally:
            answers.cancel()
            self._open.discard(writer)
            up_writer.close()
            writer.close()

    async def _hand_on(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                asks = data.count(b"Action=AssumeRole")
                if client not in self._open:
                    self.in_vain += asks
                    continue
                self.asked += asks
                to.write(data)
                await to.drain()
        except ConnectionError:
            pass
        if to is client and client in self._open:
            client.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
