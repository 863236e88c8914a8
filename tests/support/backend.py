"""
Stand-ins for children: small HTTP servers that say who they are, as the game does.

    python -m tests.support.backend NAME=ADDRESS:PORT ...

`GET /` answers {"child": NAME}; `GET /slow` does so after two seconds.
"""

import asyncio
import json
import sys
from functools import partial

SLOW_SECONDS = 2.0


async def answer(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request and close."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /slow"):
            await asyncio.sleep(SLOW_SECONDS)
        body = json.dumps({"child": name}).encode()
        start = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(start.encode() + b"Connection: close\r\n\r\n" + body)
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # who asked went away
    finally:
        writer.close()


async def serve(children: list[str]) -> None:
    """Serve until killed."""
    for child in children:
        name, _, place = child.partition("=")
        address, _, port = place.partition(":")
        await asyncio.start_server(partial(answer, name), address, int(port), backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
