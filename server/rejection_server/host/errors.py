"""What can go wrong with the embedded host, each with a message of one sentence.

HostError
├── UnsupportedMachineError   processor, C library, Python or a system library does not fit the wheel
├── TritonNotInstalledError   the wheel is missing or incomplete
├── OptionError               an option is wrong, found before Triton starts or by Triton itself
├── PortTakenError            another program listens on the port
├── RepositoryError           the model repository is missing or holds no model
├── ModelLoadError            Triton refused a model
├── ModelProcessError         the process of a Python model died while serving
├── GuardError                the guard could not begin, or ended
├── SilenceError              Triton, the guard or a model's process gave no sign of life
├── ExchangeError             another version of a model cannot take over; the one before goes on answering
├── OutOfMemoryError          a limit of memory was reached, or the machine's is used up
├── StartupTimeoutError       Triton runs but did not become ready in time
└── TritonExitedError         Triton ended by itself
"""

from __future__ import annotations

import signal

from rejection_server.limits import address_space_limit, memory_limits, oom_kills

__all__ = [
    "ExchangeError",
    "GuardError",
    "HostError",
    "ModelLoadError",
    "ModelProcessError",
    "OptionError",
    "OutOfMemoryError",
    "PortTakenError",
    "RepositoryError",
    "SilenceError",
    "StartupTimeoutError",
    "TritonExitedError",
    "TritonNotInstalledError",
    "UnsupportedMachineError",
]


class HostError(Exception):
    """Base of every error of the embedded host; `str()` is one sentence for a person."""


class UnsupportedMachineError(HostError):
    """This machine or interpreter cannot run the Triton of the wheel."""


class TritonNotInstalledError(HostError):
    """The package that holds Triton is not installed, or files of it are missing."""


class ExchangeError(HostError):
    """Another version of a model cannot take over."""


class OptionError(HostError):
    """An option has a value that cannot work."""


class PortTakenError(HostError):
    """A port that Triton should listen on is in use."""


class RepositoryError(HostError):
    """The model repository does not exist or is not a model repository."""


class ModelLoadError(HostError):
    """Triton could not load a model.

    Attributes:
        model: name of the model.
        reason: Triton's words, on one line.
    """

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"model '{model}' could not be loaded: {reason}")
        self.model = model
        self.reason = reason


class ModelProcessError(HostError):
    """The process of a model instance died while serving.

    Triton neither starts it again nor counts itself as not ready, so the host stops the server.

    Attributes:
        instance: name of the model instance.
        returncode: exit status of its process, negative for a signal.
    """

    def __init__(self, instance: str, returncode: int) -> None:
        ending = describe_exit(returncode, f"the process of model instance {instance}")
        why = _memory_used_up(returncode)
        super().__init__(
            f"{ending}{f', {why}' if why else ''}: Triton does not start it again, so the server was stopped"
        )
        self.instance = instance
        self.returncode = returncode


class GuardError(HostError):
    """The guard could not begin to listen, or ended unasked, so that nobody could reach Triton any more."""


class SilenceError(HostError):
    """A process runs and does nothing: only a new start can help."""


class OutOfMemoryError(HostError):
    """Memory could not be had while the models were loaded.

    Attributes:
        reason: the words of the library that asked for it, on one line.
    """

    def __init__(self, reason: str) -> None:
        # Threads are refused for want of memory for their stacks, and by a limit on their number.
        other = ", or a limit of processes is reached (ulimit -u, a container's)" if "thread" in reason else ""
        super().__init__(
            f"the memory does not suffice for this model on so many cores, there is {memory_limits()}{other}: allow "
            f"more, or give fewer --cores ({reason})"
        )
        self.reason = reason


class StartupTimeoutError(HostError):
    """Triton did not become ready within `startup_timeout_s`."""


class TritonExitedError(HostError):
    """Triton ended without being asked to.

    Attributes:
        returncode: Triton's exit status, negative for a signal.
    """

    def __init__(self, returncode: int, detail: str = "") -> None:
        detail = detail or _memory_used_up(returncode)
        super().__init__(describe_exit(returncode) + (f": {detail}" if detail else ""))
        self.returncode = returncode


def _memory_used_up(returncode: int) -> str:
    """Why a process ended, if it was for memory, or if it is like one that got none; else nothing."""
    if returncode == -signal.SIGKILL and oom_kills():
        why = "as the memory was used up"
    elif returncode in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS) and address_space_limit() is not None:
        why = "most likely as its memory was used up"  # Triton does not always look whether it got what it asked for
    else:
        return ""
    return f"{why} ({memory_limits()}); allow more, or give fewer --cores"


def describe_exit(returncode: int, subject: str = "Triton") -> str:
    """Say how a process ended; `returncode` is negative for a signal."""
    if returncode >= 0:
        return f"{subject} exited with status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = "unknown"
    return f"{subject} was killed by signal {-returncode} ({name})"
