"""Certificates for tests, made by the command openssl: of an authority, with any beginning, end and use."""

import shutil
import subprocess
from pathlib import Path

import pytest

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_SETTINGS = """\
[ca]
default_ca = it
[it]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = names
unique_subject = no
[names]
commonName = supplied
"""


class Authority:
    """An authority of its own; its certificate is `ca.pem` in the folder.

    Args:
        folder: is made; one for each authority.
    """

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("makes its certificates with the command openssl, which is not installed")
        self.folder = folder
        folder.mkdir()
        for name, content in (("settings", _SETTINGS), ("index.txt", ""), ("serial", "01")):
            (folder / name).write_text(content)
        self._openssl(
            "req", "-x509", *_CURVE, "-days", "9", "-subj", "/CN=authority", *("-keyout", "ca.key", "-out", "ca.pem")
        )
        self.certificate = folder / "ca.pem"

    def issue(
        self, name: str, subject: str = "triton.test", days: tuple[str, str] = ("2020", "2098"), use: str = "serverAuth"
    ) -> tuple[Path, Path]:
        """Certificate and key under `name`, valid from the first of January to that of another year."""
        begin, end = (f"{year}0101000000Z" for year in days)
        (self.folder / "ext").write_text(f"subjectAltName=DNS:{subject}\nextendedKeyUsage={use}\n")
        self._openssl("req", *_CURVE, "-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", "csr")
        self._openssl(
            *("ca", "-batch", "-notext", "-config", "settings", "-cert", "ca.pem", "-keyfile", "ca.key", "-in", "csr"),
            *("-startdate", begin, "-enddate", end, "-extfile", "ext", "-out", f"{name}.pem"),
        )
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def encrypt(self, key: Path) -> Path:
        """The key with a password."""
        self._openssl("pkey", "-in", str(key), "-aes128", "-passout", "pass:open", "-out", "encrypted.key")
        return self.folder / "encrypted.key"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)
