"""Files that say who is let in, looked at again and again."""

import logging
import os
import resource
from pathlib import Path

import pytest

from rejection_server.guard.access import Access
from rejection_server.guard.methods import MODEL_INFER_PATH, method_of
from rejection_server.guard.refusal import Refusal
from rejection_server.guard.settings import GuardSettings

OLD, NEW = b"old-token-of-twenty.", b"new-token-of-twenty."
INFER = method_of(MODEL_INFER_PATH)


def test_a_file_that_could_not_be_read_is_tried_again_although_it_did_not_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_bytes(OLD)
    access = Access(GuardSettings(upstream="unix:/nowhere", public_models=(), token_file=tokens))
    replacement = tmp_path / "replacement"
    replacement.touch(mode=0o600)
    replacement.write_bytes(NEW)
    replacement.replace(tokens)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with caplog.at_level(logging.WARNING):
        held = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, limits[1]), limits[1]))
        try:  # until no descriptor is left, as when a multitude of callers is connected
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            access.refresh()
            access.refresh()
        finally:
            for descriptor in held:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    access.check(INFER, OLD, b"")
    assert len(caplog.records) == 1, "what does not change is told once"
    access.refresh()
    access.check(INFER, NEW, b"")
    with pytest.raises(Refusal, match="none of this server's"):
        access.check(INFER, OLD, b"")
