"""The embedded host: Triton out of the PyPI wheel, started, watched and stopped from Python.

locate    find the wheel's files, check the machine
layout    the folder that Triton runs from
options   what can be chosen, and tritonserver's command line
sizing    instance counts for the cores of the machine
server    Server: start, wait until ready, stop
guardian  the process that leaves nothing behind
"""

from rejection_server.host.errors import HostError
from rejection_server.host.options import ServeOptions
from rejection_server.host.server import Server

__all__ = ["HostError", "ServeOptions", "Server"]
