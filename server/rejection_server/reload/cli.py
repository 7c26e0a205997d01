"""The commands `reload`, `rollback` and `versions`: which version of a model answers, in a server that is running."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "reload": "have another version of a model answer in a server that is running",
    "rollback": "have the version before answer again",
    "versions": "show which version of each model answers",
}
DESCRIPTIONS = {
    "reload": """\
Have another version of a model answer, in a server of this user that runs on this machine, while callers go on.

The version is loaded and warmed up beside the one that answers, asked the texts whose answers by the original were
recorded, and takes over. No call fails, each is answered by one version alone, and none finds an old answer in the
cache. If anything is wrong with the new version, the one before goes on answering.
""",
    "rollback": "Have the version answer again that did before the last reload, loaded and compared as in reload.",
    "versions": "Show the versions of each model of a running server, and which one answers.",
}
EPILOG = """\
examples:
  rejection-server prepare ./my-newer-classifier --output build/mine --version 2
  rejection-server reload
      the newest version of the server's only model
  rejection-server reload --model toxicity --version 3 --admin-key-file admin-key
      that one, in a server that was started with this key
  rejection-server rollback

A server that is started again begins with the newest version in its repository: remove its folder to prevent that.

exit status:
  {statuses}; 2 for a wrong option
"""
STATUSES = "0 if the version answers; 1 if the one before goes on answering"


def main(arguments: Sequence[str]) -> int:
    """Run the command line, whose first word is the command; returns the exit status."""
    command, *rest = arguments
    options = _parser(command).parse_args(rest)
    try:
        return _run(command, options)
    except KeyboardInterrupt:
        print(
            f"\nrejection-server {command}: interrupted; what the server has begun it brings to an end, and "
            "rejection-server versions tells how",
            file=sys.stderr,
        )
        return 128 + signal.SIGINT


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"rejection-server {command}",
        description=DESCRIPTIONS[command],
        epilog=EPILOG.format(statuses="0; 1 if no server tells" if command == "versions" else STATUSES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if command != "versions":
        parser.add_argument("--model", metavar="NAME", help="public name of the model (default: the only one)")
    if command == "reload":
        parser.add_argument("--version", type=_version, metavar="N", help="the version (default: the newest one)")
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="where the server's gRPC service listens (default: the only server of this user on this machine)",
    )
    parser.add_argument(
        "--admin-key-file",
        type=Path,
        default=os.environ.get("REJECTION_ADMIN_KEY_FILE") or None,
        metavar="FILE",
        help="the key of administration, if the server was started with one (default: REJECTION_ADMIN_KEY_FILE)",
    )
    return parser


def _version(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no version: give a number from 1 up")
    return int(text)


def _run(command: str, options: argparse.Namespace) -> int:
    # Only now: help and wrong options are answered before anything is installed.
    from rejection_server.guard.keys import SecretError, read_secrets
    from rejection_server.reload import control

    try:
        path = _find(options.address)
        key_file = _key_file(options.admin_key_file, path.with_name(control.KEY))
        message = {
            "command": command,
            "model": getattr(options, "model", None),
            "version": getattr(options, "version", None),
            "key": read_secrets(key_file, only_one=True)[0].decode(),
        }
        done = _followed(control.ask(path, message))
    except (_NotDoneError, SecretError) as exc:
        print(f"rejection-server {command}: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"rejection-server {command}: the server cannot be asked ({exc.strerror})", file=sys.stderr)
        return 1
    print(_table(done) if command == "versions" else done, flush=True)
    return 0


class _NotDoneError(Exception):
    """No server, or one that does not do it; the message is one sentence."""


def _key_file(given: Path | None, own: Path) -> Path:
    """The file with the key: the one that was named, or the server's own."""
    if given is None and not own.is_file():
        raise _NotDoneError("the server takes the key of administration: name its file with --admin-key-file")
    return given or own


def _followed(messages: Iterable[Mapping[str, Any]]) -> Any:
    """Show what the server says until it is done; returns what came of it."""
    begin = time.monotonic()
    for message in messages:
        if "failed" in message:
            raise _NotDoneError(message["failed"])
        if "done" in message:
            return message["done"]
        print(f"[{time.monotonic() - begin:5.1f} s] {message.get('said', '...')}", file=sys.stderr, flush=True)
    raise _NotDoneError("the server ended meanwhile")


def _find(address: str | None) -> Path:
    """The socket of the only server of this user, or of the one at this address."""
    from rejection_server.host.layout import PREFIX, candidate_folders
    from rejection_server.reload import control

    found: dict[Path, Any] = {}
    for folder in candidate_folders():
        for path in Path(folder).glob(f"{PREFIX}*/{control.SOCKET}"):
            # Nobody else is to be told the key; and a server may end meanwhile.
            with contextlib.suppress(OSError):
                is_mine = path.parent.lstat().st_uid == os.getuid()
                if is_mine and (told := control.greeting(path)) is not None:
                    found[path.resolve()] = told.get("address")
    there = ", ".join(sorted(map(str, found.values())))
    chosen = [path for path, its in found.items() if address in (None, its)]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise _NotDoneError(f"several servers run here, at {there}: say which one with --address")
    if found:
        raise _NotDoneError(f"no server of this user is at {address}, but at {there}")
    raise _NotDoneError(
        "no server of this user whose versions can be exchanged runs on this machine: run this where it does, as the "
        "same user"
    )


def _table(versions: Sequence[dict[str, Any]]) -> str:
    rows = [("MODEL", "VERSION", "ANSWERS", "PRECISION", "SHA-256", "NAME")]
    rows += [
        (
            str(entry["model"]),
            str(entry["version"]),
            "yes" if entry["answers"] else "-",
            str(entry.get("precision") or "-"),
            str(entry.get("sha256") or "-")[:12],
            str(entry.get("name") or "-"),
        )
        for entry in versions
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
