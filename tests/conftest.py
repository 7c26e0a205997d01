"""For all tests: nothing tells of its use (rejection_server.telemetry), not even what a test imports by itself."""

import rejection_server  # noqa: F401 - before any library that it tells to keep quiet
