"""Commands that run under a limit of the system."""

import resource
import sys
from collections.abc import Sequence

_PROGRAM = """import os, resource, sys
kind, most, hard = map(int, sys.argv[1:4])
resource.setrlimit(kind, (most, hard))
os.execvp(sys.argv[4], sys.argv[4:])"""


def limited(command: Sequence[object], kind: int, most: int) -> list[str]:
    """`command` with a soft limit: `kind` is of the module `resource`.

    Not by `preexec_fn`: that makes subprocess fork in earnest, and gRPC, where tests have used it in this process,
    begins its threads in the child, which loses their files as it closes all, and aborts before it is the command.
    """
    _, hard = resource.getrlimit(kind)
    return [sys.executable, "-c", _PROGRAM, *map(str, (kind, most, hard)), *map(str, command)]
