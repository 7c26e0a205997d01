"""Run the embedded server until standard input ends: `python -m load.embedded REPOSITORY`.

Its addresses and process number go to standard output as one line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from rejection_server.host import HostError, ServeOptions, Server
from rejection_server.host.sizing import usable_cores


def main(repository: str) -> int:
    """Returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # With an instance for each core, and the response cache, as scripts/serve serves.
    options = ServeOptions(repository=Path(repository), grpc_port=0, metrics_port=0, cores=usable_cores())
    stopping = threading.Event()

    def show(line: str) -> None:
        if not stopping.is_set():  # then Triton tells of its stopping
            sys.stderr.write(f"{line}\n")

    server = Server(options, on_log=show)
    try:
        server.start()
    except HostError as error:
        sys.stderr.write(f"scripts/loadtest: {error}\n")
        return 1
    told = {"grpc": server.grpc_address, "metrics": server.metrics_address, "pid": server.pid}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    while os.read(0, 4096):
        pass
    stopping.set()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
