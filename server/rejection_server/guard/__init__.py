"""The guard: a process between strangers and the embedded Triton, which passes on only what cannot hurt anybody.

    callers ──HTTP/2──> guard ──HTTP/2, loopback──> Triton

settings   what a guard can be told
nghttp2    the HTTP/2 library of the Triton wheel, bound with ctypes
callbacks  what that library calls
session    one HTTP/2 connection of either side
turns      the event loop: one write a connection and turn
call       a call of a caller
down       a caller's connection
peers      whose connection it is
stream     the calls that carry several messages: ModelStreamInfer, health Watch
up         the connections to Triton
access     who may call what, by files that may change meanwhile
keys       tokens and keys in files
tls        certificates in files
methods    which methods there are, and who may call them
inference  an inference request, from its arrival to Triton
contract   what an inference request must be, byte by byte
wire       a look at a large request before it is parsed
framing    gRPC's messages within HTTP/2 data
refusal    a status and its sentence, and how they travel
admission  how much may be under way
counters   what has happened so far
metrics    the counts for Prometheus, with Triton's own
health     whether Triton answers and is ready
context    what all connections share
server     Guard: listen, drain, stop
"""

from rejection_server.guard.counters import Snapshot
from rejection_server.guard.server import Guard
from rejection_server.guard.settings import GuardSettings

__all__ = ["Guard", "GuardSettings", "Snapshot"]
