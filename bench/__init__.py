"""The benchmark: this server beside the raw runtime and what else one could install. `scripts/bench --help` says more.

Imported as `bench` (the folder `tests` is on the path), by the tests and by `scripts/bench` alike.
"""

import rejection_server  # noqa: F401 - before any library that it tells to keep quiet (rejection_server.telemetry)
