import asyncio
import signal
import urllib.error
import urllib.request

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from fedhw.system.http_server import HttpServer
from fedhw.system.ports import listen


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return bytes(answer.read())


def test_it_serves_until_it_is_stopped_and_leaves_signals_alone():
    page = Starlette(routes=[Route("/", lambda request: PlainTextResponse("here"))])
    listener = listen("port", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

    def handlers() -> list[object]:
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async def story() -> None:
        before = handlers()
        server = HttpServer(page, listener)
        serving = asyncio.create_task(server.serve_until_stopped())
        assert await asyncio.to_thread(fetched, url) == b"here"
        assert handlers() == before
        server.should_exit = True
        await asyncio.wait_for(serving, 60)

    asyncio.run(story())
    with pytest.raises(urllib.error.URLError):
        fetched(url)
