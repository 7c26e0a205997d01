"""Tokens and keys in files: read, checked, and compared with what callers show.

A file of tokens has one a line, so that a new one can be added before an old one goes.
"""

from __future__ import annotations

import hmac
import re
import stat
from pathlib import Path

__all__ = ["SHORTEST", "SecretError", "is_one_of", "read_secrets"]

SHORTEST = 16
"""Characters that a token or key has at least: whoever tries a million a second would need ages."""
_LONGEST = 512
_FITTING = re.compile(r"[A-Za-z0-9._~+/=-]+")
"""What passes in a header and in an option of Triton alike: all that base64 and its kin use."""


class SecretError(Exception):
    """A file of tokens or keys cannot be used; the message is one sentence that says why, and what to do."""


def read_secrets(path: Path, *, only_one: bool = False) -> tuple[bytes, ...]:
    """The secrets in a file, one a line; raises SecretError.

    Args:
        path: of the file, which may not be open to all users.
        only_one: whether more than one is wrong.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            # A pipe gives its secrets once only, and the file is read again and again.
            raise SecretError(f"{path} is no ordinary file: write the secrets into one, and name that")
        if mode & stat.S_IROTH:
            raise SecretError(f"{path} can be read by every user of this machine: chmod o-r {path}")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as exc:
        raise SecretError(f"{path} cannot be read ({exc.strerror}): name a file that this user may read") from exc
    except UnicodeDecodeError as exc:
        raise SecretError(f"{path} is no text: have one secret a line in it, {SHORTEST} characters or more") from exc
    if not lines:
        raise SecretError(f"{path} is empty: write a secret of {SHORTEST} characters or more into it")
    if only_one and len(lines) > 1:
        raise SecretError(f"{path} has {len(lines)} lines: have one key in it, on one line")
    for number, line in enumerate(lines, 1):
        if len(line) < SHORTEST:
            raise SecretError(
                f"{path} has a secret of {len(line)} characters, its number {number}: take {SHORTEST} or more, such as "
                "of openssl rand -hex 24"
            )
        if len(line) > _LONGEST or _FITTING.fullmatch(line) is None:
            raise SecretError(
                f"{path} has a secret, its number {number}, that is longer than {_LONGEST} characters or has others "
                "than letters, digits and . _ ~ + / = -: take one such as of openssl rand -hex 24"
            )
    return tuple(line.encode() for line in lines)


def is_one_of(shown: bytes, secrets: tuple[bytes, ...]) -> bool:
    """Whether what a caller shows is one of the secrets; how long that takes tells nothing of how near it was."""
    matches = [hmac.compare_digest(shown, secret) for secret in secrets]
    return any(matches)
