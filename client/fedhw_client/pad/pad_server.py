"""The pad's web server: one page, a few JSON endpoints, and a guard in front of them."""

import asyncio
import json
import math
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedhw.data.encoders import find_encoder
from fedhw.data.observation_picture import png_url
from fedhw.errors import InputError
from fedhw.observation import Labels, Observations
from fedhw.personalization.recogniser import Recognition
from fedhw.system.clock import Clock, SystemClock
from fedhw_client.agent.agent import Agent, Status
from fedhw_client.agent.async_encode import encode
from fedhw_client.agent.correction import Correction
from fedhw_client.agent.status_stream import watch
from fedhw_client.store.corrections import Selection

MAX_BODY_BYTES = 256 * 1024
"""Most bytes of a request's body; the strokes of a character take far less."""

CANDIDATES = 5
"""Candidates for each observation, the likeliest first."""

RECENT = 24
"""Most corrections that the page shows."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Headers of every answer, errors included."""

_FILES = {"": "text/html", "pad.css": "text/css", "pad.js": "text/javascript"}


def pad_url(token: str, port: int) -> str:
    """Return the address of the page."""
    return f"http://127.0.0.1:{port}/{token}/"


def pad_app(
    agent: Agent,
    observe: Callable[[float], object],
    token: str,
    port: int,
    coordinator: str | None = None,
    clock: Clock = SystemClock(),
) -> Starlette:
    """Return the pad of this agent, for a server that listens on loopback at `port`.

    `observe` is called with the seconds that each recognition took. The page says what leaves the
    device: nothing, or reports to a `coordinator`. The server must not keep an access log, since
    the path has the token. Raises InputError where the release's observations cannot be made from
    strokes.
    """

    takes = agent.release.observation  # the same for every later release
    find_encoder("strokes", takes)

    async def observation_in(asked: dict[str, Any]) -> Observations:
        return await encode(_strokes(asked), takes)

    async def labels(_: Request) -> Response:
        return JSONResponse(list(agent.release.labels))

    async def recognize(request: Request) -> Response:
        asked = await _json_object(request)
        began = clock.monotonic()
        recognition = agent.recognize(await observation_in(asked))
        response = JSONResponse(_recognition(recognition, agent.release.labels))
        observe(clock.monotonic() - began)
        return response

    async def learn(request: Request) -> Response:
        asked = await _json_object(request)
        correction = Correction(await observation_in(asked), _text(asked, "label"))
        [kept] = await asyncio.to_thread(agent.learn, [correction])
        return JSONResponse({"id": kept})

    async def undo(_: Request) -> Response:
        undone = await asyncio.to_thread(agent.undo)
        return JSONResponse({"label": undone and undone.label})

    async def forget(request: Request) -> Response:
        selection = _selection(await _json_object(request))
        return JSONResponse({"forgotten": await asyncio.to_thread(agent.forget, selection)})

    async def events(_: Request) -> Response:
        return StreamingResponse(_events(agent, coordinator), media_type="text/event-stream")

    return Starlette(
        routes=[
            Mount(
                f"/{token}",
                routes=[
                    *(_file(name, media_type) for name, media_type in _FILES.items()),
                    Route("/events", events),
                    Route("/labels", labels),
                    Route("/recognize", recognize, methods=["POST"]),
                    Route("/learn", learn, methods=["POST"]),
                    Route("/undo", undo, methods=["POST"]),
                    Route("/forget", forget, methods=["POST"]),
                ],
            )
        ],
        middleware=[Middleware(Guard, token=token, port=port)],
        exception_handlers={InputError: _bad_input, HTTPException: _refused},
    )


class Guard:
    """Passes only the page's own requests, and puts `HEADERS` on every answer.

    Other sites' pages can send requests to loopback, too, so a request must have the token in its
    path and the right Host and Origin.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app = app
        self.token = token.encode()
        self.hosts = (f"127.0.0.1:{port}", f"localhost:{port}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the app answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            answer = self._refusal(Request(scope)) or self.app
            await answer(scope, receive, send_with_headers)
        except Exception:
            if not started:
                failed = _error(500, "the agent failed at this; its log says why")
                await failed(scope, receive, send_with_headers)
            raise

    def _refusal(self, request: Request) -> Response | None:
        """Return the refusal of a request, None for a good one."""
        host = request.headers.get("host", "")
        if host not in self.hosts:
            return _error(421, f"host: {host!r} is not this page; open it at {self.hosts[0]}")
        token = request.scope["path"].removeprefix("/").partition("/")[0]
        if not secrets.compare_digest(token.encode(), self.token):
            return _error(404, "Not Found")
        if request.method in ("GET", "HEAD"):
            return None
        origin = request.headers.getlist("origin")
        site = request.headers.get("sec-fetch-site", "none")
        if origin != [f"http://{host}"] or site not in ("same-origin", "none"):
            return _error(403, "origin: it is not this page; use the page itself")
        return None


def _file(name: str, media_type: str) -> Route:
    content = Path(__file__).with_name(name or "index.html").read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return Route(f"/{name}", answer)


async def _json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object in a request's body."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(
                413, f"body: it is over {MAX_BODY_BYTES} bytes; thin the strokes out"
            )
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise InputError("body: it cannot be read as JSON; send one JSON object") from None
    if not isinstance(asked, dict):
        raise InputError(f"body: a JSON {type(asked).__name__} is no object; send one JSON object")
    return asked


def _strokes(asked: dict[str, Any]) -> list[NDArray[np.number]]:
    """Return the strokes in a request, each [P, 2]."""
    strokes = asked.get("strokes")
    if not isinstance(strokes, list):
        raise InputError("strokes: there is no such list; give a list of strokes of [x, y] points")
    return [_points(number, stroke) for number, stroke in enumerate(strokes)]


def _points(number: int, stroke: object) -> NDArray[np.number]:
    try:
        points = np.array(stroke)
        if points.ndim > 0 and points.dtype.kind in "iuf":
            return points
    except ValueError:  # rows of unequal length
        pass
    raise InputError(f"strokes[{number}]: it is no list of points; give one [x, y] a point")


def _text(asked: dict[str, Any], field: str) -> str:
    text = asked.get(field)
    if not isinstance(text, str) or not text or any(category(c) in ("Cc", "Cs") for c in text):
        raise InputError(f"{field}: {json.dumps(text)[:40]} is no readable text; give some")
    return text


def _selection(asked: dict[str, Any]) -> Selection:
    """Return what to forget; everything has to be asked for explicitly."""
    if list(asked) == ["id"]:
        return Selection(id=_text(asked, "id"))
    if list(asked) == ["label"]:
        return Selection(label=_text(asked, "label"))
    if asked == {"everything": True}:
        return Selection()
    fields = ", ".join(map(repr, asked)) or "nothing"
    raise InputError(
        f'forget: {fields[:80]} is not one of id, label and everything; give one, {{"label": "x"}}'
    )


def _recognition(recognition: Recognition, labels: Labels) -> dict[str, Any]:
    return {
        "label": recognition.label,
        "probability": recognition.probability,
        "candidates": [
            {"label": label, "probability": p}
            for label, p in recognition.likeliest(labels, CANDIDATES)
        ],
        "ge": {"label": recognition.ge_label, "probability": recognition.ge_probability},
        "le": recognition.le_label
        and {"label": recognition.le_label, "probability": recognition.le_probability},
        "opening": recognition.opening,
        "decided_by": recognition.decided_by,
    }


async def _events(agent: Agent, coordinator: str | None) -> AsyncIterator[str]:
    """Yield the whole state as a server-sent event, now and after each change."""
    async for status in watch(agent):
        state = await asyncio.to_thread(_state, agent, status) | {"coordinator": coordinator}
        yield f"data: {json.dumps(state)}\n\n"


def _state(agent: Agent, status: Status) -> dict[str, Any]:
    takes = agent.release.observation
    return {
        "release": status.release,
        "architecture": status.architecture,
        "personal_version": status.personal_version,
        "kept": status.kept,
        "learning": status.learning,
        "ge_accuracy": _number(status.ge_accuracy.recent),
        "accuracy": _number(status.accuracy.recent),
        "store_bytes": status.store_bytes,
        "notices": status.notices,
        "recent": [
            {
                "id": kept.id,
                "at": kept.at,
                "label": kept.label,
                "right": kept.right,
                "glyph": png_url(takes.from_bytes(kept.observation)),
            }
            for kept in agent.recent(RECENT)
        ],
        "progress": [window._asdict() for window in agent.progress()],
    }


def _number(value: float) -> float | None:
    """Return a number, None for NaN, which JSON has not."""
    return None if math.isnan(value) else value


def _error(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)


async def _bad_input(_: Request, error: Exception) -> Response:
    return _error(400, str(error))


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail)
