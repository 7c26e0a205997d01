"""The guard: a process between strangers and the embedded Triton, which passes on only what cannot hurt anybody.

    callers ──HTTP/2──> guard ──HTTP/2, loopback──> Triton

settings   what a guard can be told
nghttp2    the HTTP/2 library of the Triton wheel, bound with ctypes
session    one HTTP/2 connection of either side
down       a caller's connection and its calls
stream     the calls that carry several messages: ModelStreamInfer, health Watch
up         the connections to Triton
methods    which methods there are, and who may call them
contract   what an inference request must be, byte by byte
framing    gRPC's messages within HTTP/2 data
refusal    a status and its sentence, and how they travel
admission  how much may be under way
counters   what has happened so far
server     Guard: listen, drain, stop
"""

from rejection_server.guard.counters import Snapshot
from rejection_server.guard.server import Guard
from rejection_server.guard.settings import GuardSettings

__all__ = ["Guard", "GuardSettings", "Snapshot"]
