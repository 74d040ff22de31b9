"""What every request passes first: the token, the address it was sent to, the size of its body."""

from __future__ import annotations

import html
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from fcos_train.serve.limits import Limits
from fcos_train.serve.options import is_local

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_FORM_BYTES = 1 << 16  # around the file in a form
_DRAINED = 4  # times the limit; a client that sends more is cut off
_ASK = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>FCOS-Train</title><style>:root{{color-scheme:light dark;font-family:system-ui,sans-serif}}
body{{max-width:26rem;margin:20vh auto;padding:1rem}}input,button{{font:inherit;padding:.5rem}}</style>
<h1>FCOS-Train</h1><p>{text}</p><form method="get"><input name="token" type="password" aria-label="Token" autofocus>
<button>Open</button></form></html>"""


class Gate:
    """ASGI middleware around the page and the interface.

    Args:
        app: behind it. token: that a request must bring, as ``Authorization: Bearer``, as ``?token=`` or in the cookie
            that a page opened with ``?token=`` sets; None: none, and only requests to an address of this machine pass,
            which pages of other sites cannot send.
        limits: of the body.
    """

    def __init__(self, app: App, token: str | None, limits: Limits) -> None:
        self.app, self.token, self.limits = app, token, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that may not pass; hand on the others, with a body that ends at the limit."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # the page has no web socket
            return await send({"type": "websocket.close", "code": 1008})
        headers = Headers(scope=scope)
        refusal = self._stranger(scope, headers) if self.token is None else self._without_token(scope, headers)
        if refusal is not None:
            await self._drain(receive)
            return await refusal(scope, receive, send)
        if _length(headers) > self._most:
            await self._drain(receive)
            return await _refusal(413, str(self.limits.too_long()))(scope, receive, send)
        await self.app(scope, self._bounded(receive), send)

    @property
    def _most(self) -> int:
        return self.limits.upload + _FORM_BYTES

    def _stranger(self, scope: Scope, headers: Headers) -> Response | None:
        """Refuse what a page of another site may have sent through the user's browser."""
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if not is_local(name):
            return _refusal(403, "Without a token, this server answers to 127.0.0.1 and localhost only (--token).")
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in ("GET", "HEAD") and urlsplit(origin).netloc != host:
            return _refusal(403, "Without a token, this server takes no request from pages of other sites (--token).")
        return None

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        given = query.pop("token", None)
        cookie = f"fcos_train_{(scope.get('server') or ('', 0))[1]}"  # cookies are shared by all ports of a host
        if given is not None and self._right(given):
            if scope["method"] != "GET":
                return None
            # Away with the token from the address that the browser shows and keeps.
            clean = RedirectResponse(scope["path"] + (f"?{urlencode(query)}" if query else ""), 303)
            clean.set_cookie(cookie, given, httponly=True, samesite="strict")
            return clean
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._right(bearer.strip()):
            return None
        if self._right(_cookies(headers).get(cookie, "")):
            return None
        text = "The token is wrong." if given or bearer else "This server requires its token."
        if "text/html" in headers.get("accept", ""):
            return HTMLResponse(_ASK.format(text=html.escape(text)), 401)
        refusal = _refusal(401, f"{text} Send it as Authorization: Bearer TOKEN.")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal

    def _right(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), str(self.token).encode())

    async def _drain(self, receive: Receive) -> None:
        """Read what the client still sends: a connection that is closed on it loses the answer."""
        rest = _DRAINED * self._most
        while rest > 0:
            message = await receive()
            rest -= len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body"):
                return

    def _bounded(self, receive: Receive) -> Receive:
        rest = self._most

        async def receive_some() -> MutableMapping[str, Any]:
            nonlocal rest
            message = await receive()
            rest -= len(message.get("body", b""))
            if rest < 0:
                await self._drain(receive)
                raise HTTPException(413, str(self.limits.too_long()))
            return message

        return receive_some


def _length(headers: Headers) -> int:
    """The stated length of a body; 0 if it is not stated."""
    text = headers.get("content-length", "")
    return int(text) if text.isdecimal() else 0


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"detail": message}, status)
