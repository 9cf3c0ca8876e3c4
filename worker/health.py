"""The worker's HTTP server: `/metrics` for Prometheus, `/livez` and `/readyz` for whoever runs the process."""

import errno
import logging
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from gpner.errors import ServiceError

logger = logging.getLogger(__name__)

# How long `close` may have to wait.
POLL_SECONDS = 0.1
# How long a client may be silent before its thread and its connection are given up.
CLIENT_SECONDS = 10.0
# None if all is well, otherwise what is not, in a few words.
Check = Callable[[], str | None]


class HealthServer:
    """Serves three pages from a thread of its own until `close`.

    Args:
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one, which `port` then holds.
        registry: What `/metrics` shows.
        alive: Whether the process works; `/livez` answers 503 with what is wrong otherwise, and should be restarted.
        ready: Whether it takes documents; `/readyz` answers 503 with the reason otherwise.
        client_seconds: How long a client may be silent before it is given up.

    Raises:
        ServiceError: If the port is taken or the address is not this machine's.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        registry: CollectorRegistry,
        alive: Check,
        ready: Check,
        client_seconds: float = CLIENT_SECONDS,
    ) -> None:
        checks = {"/livez": alive, "/readyz": ready}
        attributes = {"registry": registry, "checks": checks, "timeout": client_seconds}
        self._server = _listen(host, port, type("Handler", (_Handler,), attributes))
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=[POLL_SECONDS], name="health", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def check_port(host: str, port: int) -> None:
    """Find out before anything is loaded whether a server could listen there.

    Raises:
        ServiceError: If the port is taken or the address is not this machine's.
    """
    _listen(host, port, BaseHTTPRequestHandler).server_close()


def _listen(host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    try:
        return _Server((host, port), handler)
    except PermissionError as error:
        raise ServiceError(f"port {port} is reserved for the superuser; set GPNER_METRICS_PORT above 1023") from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ServiceError(f"cannot listen on {host}: {error.strerror}; set GPNER_METRICS_HOST") from error
        raise ServiceError(
            f"port {port} is taken: another worker of this machine probably serves its metrics there; "
            "set GPNER_METRICS_PORT to a free port, or to 0 for any"
        ) from error


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet of probes that gave up before the answer; the base class would print a traceback past the log."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            logger.exception("a request for health or metrics failed")


class _Handler(BaseHTTPRequestHandler):
    registry: CollectorRegistry
    checks: dict[str, Check]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, encode(self.registry), content_type)
        elif check := self.checks.get(path):
            problem = check()
            self._answer(503 if problem else 200, f"{problem or 'ok'}\n".encode())
        else:
            self._answer(404, b"there are /metrics, /livez and /readyz\n")

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the base class calls
        """Log nothing: probes come every few seconds."""
