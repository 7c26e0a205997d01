"""`python -m rejection_client` is the command `rejection`."""

import sys

from rejection_client.cli import main

sys.exit(main())
