"""Who may call what: tokens of callers, the key of administration, and TLS, each as its files say at the moment."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from rejection_server.guard import tls
from rejection_server.guard.keys import SecretError, is_one_of, read_secrets
from rejection_server.guard.methods import Kind, Method
from rejection_server.guard.refusal import Code, Refusal
from rejection_server.guard.settings import GuardSettings

__all__ = ["Access"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Access:
    """What is let in, by files that are read at once and again whenever `refresh` finds that they changed.

    Args:
        settings: name the files.

    Raises SecretError and TlsError for files that cannot be used.
    """

    def __init__(self, settings: GuardSettings) -> None:
        tokens, admin_key = settings.token_file, settings.admin_key_file
        self._needs_token = tokens is not None
        self._tokens = _Kept((tokens,), lambda: read_secrets(tokens) if tokens else ())
        self._admin = _Kept((admin_key,), lambda: read_secrets(admin_key, only_one=True) if admin_key else ())
        certificate, key, authorities = settings.tls_cert, settings.tls_key, settings.tls_client_ca
        self._tls = _Kept(
            (certificate, key, authorities),
            lambda: tls.load(certificate, key, authorities) if certificate and key else None,
        )

    @property
    def tls(self) -> tls.Credentials | None:
        """What callers speak TLS with, None for plain HTTP/2."""
        return self._tls.value

    def check(self, method: Method, token: bytes, admin_key: bytes) -> None:
        """Raise Refusal unless whoever shows this token and this key (empty is none) may call the method."""
        if method.kind is Kind.ADMIN or (method.kind is Kind.INDEX and admin_key):
            if not is_one_of(admin_key, self._admin.value):
                raise method.refusal()
        elif self._needs_token and method.needs_token and not is_one_of(token, self._tokens.value):
            what = "the token sent is none of this server's" if token else "this server takes calls with a token only"
            raise Refusal(
                Code.UNAUTHENTICATED, f"{what}: send one of its tokens as metadata, authorization: Bearer TOKEN"
            )

    def refresh(self) -> bool:
        """Read again what changed; returns whether `tls` is another now."""
        self._tokens.refresh()
        self._admin.refresh()
        return self._tls.refresh()


class _Kept(Generic[T]):
    """What a function reads from files, read again when they change, unless it cannot be read then.

    Args:
        files: those, None for one that is not given.
        read: gives the value, or raises SecretError or TlsError.
    """

    def __init__(self, files: tuple[Path | None, ...], read: Callable[[], T]) -> None:
        self._files = [path for path in files if path is not None]
        self._read = read
        self._stamps = self._look()
        self._complaint = ""
        self.value = read()

    def refresh(self) -> bool:
        """Read again if a file changed; returns whether there is a new value.

        What cannot be read is tried again each time: another owner or a free descriptor changes no file.
        """
        stamps = self._look()
        if stamps == self._stamps:
            return False
        try:
            self.value = self._read()
        except (SecretError, tls.TlsError) as exc:
            if str(exc) != self._complaint:
                _log.warning("what was read before goes on to count: %s", exc)
            self._complaint = str(exc)
            return False
        self._stamps, self._complaint = stamps, ""
        _log.warning("%s changed and count as they are now", " and ".join(map(str, self._files)))
        return True

    def _look(self) -> list[tuple[int, ...]]:
        stamps: list[tuple[int, ...]] = []
        for path in self._files:
            try:
                found = path.stat()
                stamps.append((found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode))
            except OSError:
                stamps.append(())
        return stamps
