"""From the options to a listening server, and to its end."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from fcos_train.deploy.artefact import load_model
from fcos_train.infer.base import BaseDetector
from fcos_train.infer.options import DemoOptions
from fcos_train.serve.gate import App, Gate
from fcos_train.serve.limits import Limits
from fcos_train.serve.options import FIRST_PORT, ServeOptions, is_local
from fcos_train.serve.service import Service
from mmcv_overrides.errors import UserError

PORTS = 100  # that are tried where the user gives none
GRACE = 2  # seconds that open requests get at the end
PAGE = "/page"


def quiet_libraries() -> None:
    """Before gradio is imported: it reports to nobody, and asks nobody for a newer version."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def open_model(options: ServeOptions) -> BaseDetector:
    """The model of a checkpoint or of any exported file.

    Raises:
        UserError: it cannot be read, or an option does not apply to it.
    """
    same = {name: getattr(options, name) for name in ("config", "device", "trust_checkpoint", "safe_config")}
    return load_model(DemoOptions(options.checkpoint, **same))


def listen(host: str, port: int | None) -> socket.socket:
    """A socket on which connections wait until the server takes them.

    Args:
        port: None: 7860, or the next free one.

    Raises:
        UserError: the port is taken, or the address is none of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(f"--host {host}: {error.strerror}") from None
    for number in range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else (port,):
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended hold no port
        try:
            bound.bind((address[0], number, *address[2:]))
            bound.listen()
        except OSError as error:
            bound.close()
            if port is not None:
                raise UserError(f"cannot listen on {host} port {port}: {error.strerror}") from None
            fault = error
        else:
            return bound
    last = FIRST_PORT + PORTS - 1
    raise UserError(f"cannot listen on {host}, ports {FIRST_PORT} to {last}: {fault.strerror}; give another: --port N")


def make_app(service: Service, token: str | None, score_thr: float) -> App:
    """The page and the HTTP interface of a model, behind the gate.

    Args:
        token: that requests must bring; None: none. score_thr: at the start.

    Raises:
        UserError: a package is not installed.
    """
    quiet_libraries()
    try:
        import gradio
        from fastapi_offline import FastAPIOffline
    except ImportError as error:
        raise UserError(f"{error}; the web demo needs more packages: pip install 'fcos-train[web]'") from None
    from starlette.responses import RedirectResponse

    from fcos_train.serve.api import add_interface
    from fcos_train.serve.page import build_page

    app = FastAPIOffline(redoc_url=None, title=f"FCOS-Train: {service.name}", description="Detect objects in images.")
    add_interface(app, service, score_thr)

    @app.get("/", include_in_schema=False)
    async def start() -> RedirectResponse:
        return RedirectResponse(f"{PAGE}/")

    page, look = build_page(service, score_thr)
    gradio.mount_gradio_app(
        app, page, PAGE, max_file_size=service.limits.upload, show_error=False, footer_links=[], run_history=False,
        ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False, **look,
    )  # fmt: skip
    return Gate(app, token, service.limits)


def serve(options: ServeOptions, say: Callable[[str], None] = print) -> None:
    """Load a model and serve it until the process is interrupted.

    Args:
        say: prints a line.

    Raises:
        UserError: the model cannot be read, the address cannot be used, or a package is not installed.
        KeyboardInterrupt: Ctrl-C, after open requests have ended. SystemExit: SIGTERM, likewise.
    """
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(0)
    )  # as `docker stop` sends it; the default would clean up nothing
    with tempfile.TemporaryDirectory(prefix="fcos-train-serve-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads leave nothing behind
        with listen(options.host, options.port) as bound:
            token = options.token or (None if is_local(options.host) else secrets.token_urlsafe(18))
            name = Path(options.checkpoint).name
            service = Service(name, lambda: open_model(options), Limits.of(options))
            try:
                app = make_app(service, token, options.score_thr)
                for line in (*service.notices, service.device, *_greeting(options, bound, token, service)):
                    say(line)
                _run(app, bound)
            finally:
                service.close()


def _greeting(options: ServeOptions, bound: socket.socket, token: str | None, service: Service) -> list[str]:
    """Where the page is, and what may be sent."""
    host = f"[{options.host.strip('[]')}]" if ":" in options.host else options.host
    base = f"http://{host}:{bound.getsockname()[1]}"
    limits = service.limits
    return [
        f"{service.name} is served at {base}/" + (f"?token={token}" if token else ""),
        f"HTTP: POST {base}/predict" + (f" with Authorization: Bearer {token}" if token else "") + f"; {base}/docs",
        f"limits: {limits.megabytes} MB, {limits.megapixels} million pixels, videos of {limits.seconds} s. "
        "Ctrl-C ends it",
    ]


def _run(app: App, bound: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE, lifespan="on", ws="none",
        server_header=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    # What an open page waits for is cancelled at the end; uvicorn reports each as an error with its traceback.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)
    server.run(sockets=[bound])
