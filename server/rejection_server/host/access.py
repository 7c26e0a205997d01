"""Who may call a server: the files and options that say so, checked before anything is started."""

from __future__ import annotations

import logging
import secrets
import stat
import time

from rejection_server.guard import tls
from rejection_server.guard.keys import SecretError, read_secrets
from rejection_server.host.errors import OptionError
from rejection_server.host.options import ServeOptions

__all__ = ["check_access"]

SOON_S = 14 * 86400
"""A certificate that ends within this time is told of."""

_log = logging.getLogger(__name__)


def check_access(options: ServeOptions) -> str:
    """Check what the options say of TLS, tokens and the key of administration; raises OptionError.

    Returns the key that opens Triton's own administration. With a guard, or where no key was chosen, it is one that
    nobody else knows: the guard opens administration to those who send the chosen one.
    """
    if not options.guard:
        for option, value in (("--tls-cert", options.tls_cert), ("--token-file", options.token_file)):
            if value is not None:
                raise OptionError(f"{option} is heeded by the guard: leave out --no-guard, or {option}")
    if options.http_port is not None:
        for option, value in (("--token-file", options.token_file), ("--tls-client-ca", options.tls_client_ca)):
            if value is not None:
                raise OptionError(
                    f"HTTP is Triton's own and lets in callers whom {option} keeps out: leave out --http-port, or "
                    f"{option}"
                )
    _check_tls(options)
    try:
        if options.token_file is not None:
            read_secrets(options.token_file)
        chosen = read_secrets(options.admin_key_file, only_one=True) if options.admin_key_file is not None else ()
    except SecretError as exc:
        raise OptionError(str(exc)) from exc
    return chosen[0].decode() if chosen and not options.guard else secrets.token_urlsafe(32)


def _check_tls(options: ServeOptions) -> None:
    certificate, key, authorities = options.tls_cert, options.tls_key, options.tls_client_ca
    if certificate is None and key is None and authorities is None:
        return
    if certificate is None or key is None:
        raise OptionError("TLS takes a certificate and its key: give --tls-cert and --tls-key")
    try:
        expires = tls.load(certificate, key, authorities).expires
    except tls.TlsError as exc:
        raise OptionError(str(exc)) from exc
    if key.stat().st_mode & stat.S_IROTH:
        _log.warning("the key %s can be read by every user of this machine: chmod o-r %s", key, key)
    left_s = expires - time.time()
    if left_s < SOON_S:
        _log.warning(
            "the certificate %s ends in %.1f days: put a new one in its place, the server takes it as it runs",
            *(certificate, left_s / 86400),
        )
