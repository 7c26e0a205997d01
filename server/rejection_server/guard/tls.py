"""TLS for callers: the files are read and checked, and what is wrong with them is said in a sentence."""

from __future__ import annotations

import contextlib
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Credentials", "TlsError", "load"]

_EXPIRED, _NOT_YET_VALID = 10, 9
"""X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID of OpenSSL."""
_MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL says of a key that is not the certificate's."""


class TlsError(Exception):
    """The files for TLS cannot be used; the message is one sentence that says why, and what to do."""


@dataclass(frozen=True)
class Credentials:
    """What a server speaks TLS with."""

    context: ssl.SSLContext
    """For the sockets of callers; speaks HTTP/2 only."""
    expires: float
    """When the server's certificate ends, in seconds of the epoch."""


def load(certificate: Path, key: Path, authorities: Path | None = None) -> Credentials:
    """Read the files and see that they work together now; raises TlsError.

    Args:
        certificate: PEM, the server's and its chain.
        key: PEM, the certificate's, not encrypted.
        authorities: PEM, whose certificates callers have to show; None asks for none.
    """
    for path, what in ((certificate, "certificate"), (key, "key"), (authorities, "file of authorities")):
        if path is not None:
            _check_readable(path, what)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    _load_pair(context, certificate, key)
    expires = _check_time(context, certificate)
    if authorities is not None:
        with contextlib.suppress(ssl.SSLError):  # what was loaded tells more
            context.load_verify_locations(authorities)
        if not (found := context.get_ca_certs()):
            raise TlsError(f"{authorities} has no certificate of an authority: name a PEM file with your callers'")
        if all(ssl.cert_time_to_seconds(str(one["notAfter"])) < time.time() for one in found):
            raise TlsError(f"every authority in {authorities} has expired: name a file with one that is valid")
        context.verify_mode = ssl.CERT_REQUIRED
    return Credentials(context, expires)


def _check_readable(path: Path, what: str) -> None:
    try:
        path.open("rb").close()
    except OSError as exc:
        raise TlsError(
            f"the {what} {path} cannot be read ({exc.strerror}): name a PEM file that this user may read"
        ) from exc


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    asked = False

    def no_password() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except ssl.SSLError as exc:
        if asked:
            raise TlsError(
                f"the key {key} is encrypted: give one that is not, such as of openssl pkey -in {key} -out FILE"
            ) from exc
        if exc.reason in _MISMATCH:
            raise TlsError(
                f"the key {key} is not that of the first certificate in {certificate}: give the two that belong "
                "together, the server's own certificate before those of its authorities"
            ) from exc
        for path, kind in ((certificate, "CERTIFICATE"), (key, "PRIVATE KEY")):
            if f"{kind}-----".encode() not in path.read_bytes():
                raise TlsError(f"{path} is no PEM file with a {kind.lower()}: it has no line BEGIN {kind}") from exc
        raise TlsError(f"the certificate {certificate} and the key {key} cannot be used: {_words(exc)}") from exc


def _check_time(context: ssl.SSLContext, certificate: Path) -> float:
    """When the certificate ends; raises TlsError unless it is valid now.

    Python tells the contents of a certificate only to a peer that has verified it: so a client within this process
    shakes hands, for which this very certificate is the authority.
    """
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    asking.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    asking.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asking.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(4):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError as exc:
        if exc.verify_code == _EXPIRED:
            raise TlsError(f"the certificate {certificate} has expired: give one that is valid") from exc
        if exc.verify_code == _NOT_YET_VALID:
            raise TlsError(
                f"the certificate {certificate} is not valid yet: give one that is, or set this machine's clock"
            ) from exc
        raise TlsError(
            f"callers would not accept the certificate {certificate}: {exc.verify_message}; give one for a TLS server"
        ) from exc
    except ssl.SSLError as exc:
        raise TlsError(f"no TLS connection comes about with the certificate {certificate}: {_words(exc)}") from exc
    found = client.getpeercert()
    assert found, "a client that verifies has a certificate after its handshake"
    return ssl.cert_time_to_seconds(str(found["notAfter"]))


def _words(exc: ssl.SSLError) -> str:
    """OpenSSL's reason as words."""
    return (exc.reason or str(exc)).replace("_", " ").lower()
