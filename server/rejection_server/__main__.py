"""Entry point of `python -m rejection_server`."""

import sys

# Before anything else is imported: the rest of the package is written for these versions.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        f"rejection_server: needs Python 3.11, 3.12 or 3.13, this is {sys.version_info[0]}.{sys.version_info[1]}: "
        "set PYTHON to the path of a fitting interpreter"
    )

from rejection_server.cli import main

sys.exit(main())
