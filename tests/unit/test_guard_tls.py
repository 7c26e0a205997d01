"""Files for TLS: what is wrong with them is said in a sentence before anybody connects."""

import ssl
import time
from pathlib import Path

import pytest

from rejection_server.guard.tls import TlsError, load
from support.certificates import Authority


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    authority = Authority(tmp_path_factory.mktemp("certificates") / "authority")
    certificate, key = authority.issue("server")
    authority.issue("other")
    authority.issue("past", days=("2020", "2021"))
    authority.issue("future", days=("2097", "2098"))
    authority.issue("client", use="clientAuth")
    authority.encrypt(key)
    folder = authority.folder
    (folder / "chain.pem").write_text(certificate.read_text() + authority.certificate.read_text())
    (folder / "turned.pem").write_text(authority.certificate.read_text() + certificate.read_text())
    (folder / "text").write_text("not a certificate\n")
    return folder


@pytest.mark.parametrize("certificate", ["server.pem", "chain.pem"])
@pytest.mark.parametrize("authorities", [None, "ca.pem"])
def test_files_that_fit(files: Path, certificate: str, authorities: str | None) -> None:
    found = load(files / certificate, files / "server.key", files / authorities if authorities else None)
    assert found.expires == ssl.cert_time_to_seconds("Jan  1 00:00:00 2098 GMT")
    assert found.context.verify_mode is (ssl.CERT_REQUIRED if authorities else ssl.CERT_NONE)


@pytest.mark.parametrize(
    ("certificate", "key", "authorities", "words"),
    [
        ("none.pem", "server.key", None, r"the certificate .*/none.pem cannot be read \(No such file or directory\)"),
        ("server.pem", "none.key", None, r"the key .*/none.key cannot be read \(No such file or directory\)"),
        ("server.pem", "server.key", "none.pem", r"the file of authorities .*/none.pem cannot be read"),
        (".", "server.key", None, r"cannot be read \(Is a directory\)"),
        ("server.pem", "other.key", None, "the key .*/other.key is not that of the first certificate in .*/server.pem"),
        ("turned.pem", "server.key", None, "is not that of the first certificate in .*: give the two that belong"),
        ("server.pem", "encrypted.key", None, "the key .* is encrypted: give one that is not"),
        ("text", "server.key", None, "/text is no PEM file with a certificate: it has no line BEGIN CERTIFICATE"),
        ("server.pem", "text", None, "/text is no PEM file with a private key: it has no line BEGIN PRIVATE KEY"),
        ("past.pem", "past.key", None, "the certificate .*/past.pem has expired: give one that is valid"),
        ("future.pem", "future.key", None, "the certificate .*/future.pem is not valid yet"),
        ("client.pem", "client.key", None, "callers would not accept the certificate .*/client.pem: .* purpose"),
        ("server.pem", "server.key", "text", "/text has no certificate of an authority: name a PEM file"),
        ("server.pem", "server.key", "server.key", "/server.key has no certificate of an authority"),
        ("server.pem", "server.key", "server.pem", "/server.pem has no certificate of an authority"),
    ],
)
def test_files_that_do_not(files: Path, certificate: str, key: str, authorities: str | None, words: str) -> None:
    with pytest.raises(TlsError, match=words) as caught:
        load(files / certificate, files / key, files / authorities if authorities else None)
    assert "\n" not in str(caught.value)


@pytest.fixture
def in_fifty_years(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time() + 50 * 365 * 86400
    monkeypatch.setattr(time, "time", lambda: now)


@pytest.mark.usefixtures("in_fifty_years")
def test_authorities_that_have_all_expired(files: Path) -> None:
    with pytest.raises(TlsError, match=r"every authority in .*/ca\.pem has expired"):
        load(files / "server.pem", files / "server.key", files / "ca.pem")
