"""The socket by which a command asks a running server to exchange a version.

It lies in the server's runtime folder, which is its user's alone. One line of JSON each way: the server says who it is
(`address`, `needs_key`), the command what it wants (`command`, `model`, `version`, `key`); then the server says what it
does (`said`) and at last `done`, or `failed` with one sentence. A command that goes away stops nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import select
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rejection_server.guard.keys import SecretError, is_one_of, read_secrets
from rejection_server.host.errors import ExchangeError
from rejection_server.reload.exchange import Exchange

__all__ = ["KEY", "SOCKET", "Control", "ask", "greeting"]

SOCKET, KEY = "control", "control-key"
"""Names in the runtime folder: of the socket, and of the file with the key where no other was chosen."""
LONGEST_LINE = 1 << 16
GREETING_S = 5.0
QUIET_S = 5.0
"""After so long without a word whoever waits is told that it goes on."""

_log = logging.getLogger(__name__)


class Control:
    """Listens until it is closed.

    Args:
        folder: the runtime folder.
        exchange: what is asked for.
        address: HOST:PORT that tells the server from others of this user.
        key_file: the administrator's own key; None makes one, in a file beside the socket.
        on_event: told `{"event": "exchanged", "message": ...}` when another version answers.
    """

    def __init__(
        self,
        folder: Path,
        exchange: Exchange,
        *,
        address: str,
        key_file: Path | None,
        on_event: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._exchange = exchange
        self._on_event = on_event
        self._key_file = key_file or folder / KEY
        if key_file is None:
            self._key_file.touch(mode=0o600)
            self._key_file.write_text(secrets.token_urlsafe(32), encoding="utf-8")
        self._greeting = {"address": address, "needs_key": key_file is not None}
        control = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                control._talk(self.rfile.readline, self._say)

            def _say(self, message: Mapping[str, Any]) -> None:
                with contextlib.suppress(OSError):  # whoever asked is gone; what was begun goes on
                    self.wfile.write(f"{json.dumps(message)}\n".encode())

        self._server = _Server(str(folder / SOCKET), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="control", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def _talk(self, read: Callable[[int], bytes], say: Callable[[Mapping[str, Any]], None]) -> None:
        say(self._greeting)
        line = read(LONGEST_LINE)
        if not line:  # somebody only looked who is there
            return
        try:
            say({"done": self._obey(json.loads(line), lambda said: say({"said": said}))})
        except (ExchangeError, SecretError) as exc:
            say({"failed": str(exc)})
        except (ValueError, TypeError, AttributeError):
            say({"failed": "the server did not understand the command: it is of another release"})
        except Exception as exc:
            _log.exception("a command failed")
            say({"failed": f"unexpected {type(exc).__name__}, see the server's log"})

    def _obey(self, asked: Mapping[str, Any], say: Callable[[str], None]) -> Any:
        if not is_one_of(str(asked.get("key", "")).encode(), read_secrets(self._key_file, only_one=True)):
            right = "name the file that serve has as --admin-key-file"
            own = "serve has no --admin-key-file, so leave it out, and REJECTION_ADMIN_KEY_FILE unset"
            raise ExchangeError(f"the key is not the server's: {right if self._greeting['needs_key'] else own}")
        command, model, version = (asked.get(name) for name in ("command", "model", "version"))
        if command == "versions":
            return self._exchange.status()
        if command == "reload":
            done = self._exchange.reload(model, version, say)
        elif command == "rollback":
            done = self._exchange.rollback(model, say)
        else:
            raise ValueError(command)
        self._on_event({"event": "exchanged", "message": done})
        return done


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


def greeting(path: Path) -> dict[str, Any] | None:
    """What the server at this socket says of itself; None if none is there any more."""
    with contextlib.suppress(OSError, ValueError), _connected(path) as connection:
        connection.settimeout(GREETING_S)
        with connection.makefile("rb") as lines:
            answer = json.loads(lines.readline(LONGEST_LINE))
            return answer if isinstance(answer, dict) else None
    return None


def ask(path: Path, message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Send a command; gives what the server says, its greeting left out, and `{}` while it says nothing for long.

    Raises OSError.
    """
    with _connected(path) as connection:
        connection.sendall(f"{json.dumps(message)}\n".encode())
        received, is_greeting = b"", True
        while True:
            if not select.select([connection], [], [], QUIET_S)[0]:
                yield {}
                continue
            part = connection.recv(LONGEST_LINE)
            if not part:
                return
            *lines, received = (received + part).split(b"\n")
            for line in lines[is_greeting:]:
                yield json.loads(line)
            is_greeting = is_greeting and not lines


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        yield connection
