"""The live view and the figures of all studies as a page in the browser.

The page serves this machine's user alone: it listens on 127.0.0.1, wants a token, refuses other
Host headers (DNS rebinding) and foreign origins, and loads nothing from elsewhere.
"""

from __future__ import annotations

import hmac
import io
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import datetime
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, QueryParams
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.figure_kinds import KINDS, ON_PAGES, kinds_of
from search.purpose import purpose_of
from search.results import loss_name, searched_settings, to_plain
from search.snapshot import StudyFollower
from search.source import from_store
from search.steering import resume
from trials.errors import StudyNotFoundError, TrialsError
from trials.store import TrialStore
from trials.study import StudyState

HOSTS = ("127.0.0.1", "localhost")
FIGURES = sorted(ON_PAGES, key=lambda kind: KINDS[kind].is_costly)
"""Drawn on the page, the costly ones last."""
ACTIONS = {
    "pause": StudyState.PAUSED,
    "resume": StudyState.ACTIVE,
    "stop": StudyState.STOPPING,
    "cancel": StudyState.CANCELLED,
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """Lets in who knows the token, by link, cookie or ``Authorization: Bearer``.

    Args:
        app: What it guards.
        token: The secret.
        port: Part of the cookie's name: cookies of one host are shared by all of its ports.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._cookie = f"larnn_search_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 403, turn the link's token into a cookie, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                sealing = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message["headers"], *sealing]
            await send(message)

        answer = self._refusal(scope)
        await (answer or self._app)(scope, receive, sealed)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{headers.get('host')}":
            return PlainTextResponse("requests from other pages are refused", 403)
        if self._is_token(QueryParams(scope["query_string"]).get("token", "")):
            # Out of the address bar, so that it is in no history and no screenshot.
            redirect = RedirectResponse(scope["path"], 303)
            redirect.set_cookie(
                self._cookie, self._token.decode(), httponly=True, samesite="strict"
            )
            return redirect
        # Read as browsers write them: those of other ports are here too, well-formed or not.
        cookie = HTTPConnection(scope).cookies.get(self._cookie, "")
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(cookie) or self._is_token(bearer):
            return None
        return PlainTextResponse(
            "this page needs its token: open the address that `larnn-search dashboard` printed",
            401,
        )

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token)


class Pages:
    """What the page asks for, read from the store.

    Args:
        store: Where the studies are.
        may_control: Whether the page may pause, stop and cancel.
    """

    def __init__(self, store: TrialStore, *, may_control: bool) -> None:
        self._store = store
        self._may_control = may_control
        self._followers: dict[tuple[str, datetime], StudyFollower] = {}
        """By name and creation: a study that was deleted and made anew is another one."""
        self._reading = threading.Lock()
        self._drawing: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
        self._drawn: dict[tuple[str, str], tuple[Any, bytes]] = {}

    def asset(self, request: Request) -> Response:
        """The page itself, its script and its style."""
        name = request.url.path.strip("/") or "dashboard.html"
        kind = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
        text = files("search").joinpath("pages", name).read_text(encoding="utf-8")
        return Response(text, media_type=kind[name.rpartition(".")[2]])

    def studies(self, _request: Request) -> Response:
        """Names and states, the latest first."""
        studies = reversed(self._store.list_studies())
        return JSONResponse(
            {
                "studies": [{"name": s.name, "state": str(s.state)} for s in studies],
                "may_control": self._may_control,
            }
        )

    def study(self, request: Request) -> Response:
        """A study as it is now: `Snapshot.to_json`, its best settings, which figures it has."""
        name = request.path_params["name"]
        with self._reading:
            key = name, self._store.get_study(name).created_at
            follower = self._followers.setdefault(key, StudyFollower(self._store, name))
            snapshot = follower.snapshot()
        best = snapshot.best
        settings = searched_settings(snapshot.study, best) if best else {}
        own = kinds_of(purpose_of(snapshot.study))
        told = {
            **snapshot.to_json(),
            "best_settings": settings,
            "loss_name": loss_name(snapshot.study),
            "figures": [
                {"kind": kind, "is_costly": KINDS[kind].is_costly}
                for kind in FIGURES
                if kind in own
            ],
        }
        return JSONResponse(to_plain(told))

    def figure(self, request: Request) -> Response:
        """A figure as png, drawn anew only after a trial has ended; no figure waits for another."""
        from search import plots

        name, kind = request.path_params["name"], request.path_params["kind"]
        if kind not in FIGURES:
            return PlainTextResponse(f"a figure is one of {', '.join(FIGURES)}", 404)
        counts = self._store.counts(name)
        ended = (counts[state] for state in counts if state.is_finished)
        version = self._store.get_study(name).created_at, *ended
        with self._drawing[name, kind]:
            known, picture = self._drawn.get((name, kind), (None, b""))
            if known != version:
                figure = plots.draw(kind, from_store(self._store, name))
                target = io.BytesIO()
                plots.write_figure(figure, target, "png")
                picture = target.getvalue()
                self._drawn[name, kind] = (version, picture)
        return Response(picture, media_type="image/png")

    def act(self, request: Request) -> Response:
        """Pause, resume, stop or cancel a study, where that was allowed at the start."""
        name, action = request.path_params["name"], request.path_params["action"]
        if not self._may_control:
            return PlainTextResponse("read-only: start with `dashboard --allow-control`", 403)
        if action not in ACTIONS:
            return PlainTextResponse(f"an action is one of {', '.join(ACTIONS)}", 404)
        message = f"dashboard: {action}"
        if action == "resume":
            study = resume(self._store, name, message)
        else:
            study = self._store.set_study_state(name, ACTIONS[action], message)
        return JSONResponse({"state": str(study.state)})


def make_app(store: TrialStore, *, token: str, port: int, may_control: bool = False) -> Starlette:
    """The dashboard as an ASGI application.

    Args:
        store: Where the studies are.
        token: The secret that a request needs.
        port: Where it will listen.
        may_control: Whether the page may pause, stop and cancel studies.
    """
    pages = Pages(store, may_control=may_control)
    routes = [
        *(Route(path, pages.asset) for path in ("/", "/dashboard.js", "/style.css")),
        Route("/studies.json", pages.studies),
        Route("/study/{name}.json", pages.study),
        Route("/study/{name}/{kind}.png", pages.figure),
        Route("/study/{name}/{action}", pages.act, methods=["POST"]),
    ]
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False),
        Middleware(Guard, token=token, port=port),
    ]
    handlers: dict[Any, Callable[[Request, Exception], Response | Awaitable[Response]]] = {
        TrialsError: _told
    }
    return Starlette(routes=routes, middleware=guards, exception_handlers=handlers)


def _told(_request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 404 if isinstance(error, StudyNotFoundError) else 409)
