"""Read Triton's log: which lines say nothing, and why a start failed.

Pure functions over lines; Triton offers no other way to learn why it would not start.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from rejection_server.host.errors import (
    HostError,
    ModelLoadError,
    OptionError,
    OutOfMemoryError,
    PortTakenError,
    RepositoryError,
)

__all__ = ["STUB_FAILED", "explain_failure", "is_harmless", "read_line"]

STUB_FAILED = "Failed to preinitialize Python stub"
"""Stands in the log when the process of a Python model cannot begin."""

# Severity and time, process, source file; the message in quotes.
_LINE = re.compile(r'^(?P<level>[IWEF])\d{4} [\d:.]+ +\d+ (?P<source>[\w./]+:\d+)\] +"?(?P<message>.*?)"?$')
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "critical"}

_NO_DRIVER = "CUDA driver version is insufficient for CUDA runtime version"
_HARMLESS_WITHOUT_GPU = re.compile(
    "|".join(
        (
            f"Unable to allocate pinned system memory, pinned memory pool will not be available: {_NO_DRIVER}",
            "failed to allocate pinned system memory: no pinned memory pool, falling back to non-pinned system memory",
            r"CudaDriverHelper has not been initialized\.",
            rf"unable to create stream for \S+: {_NO_DRIVER}",
            "DCGM unable to start: DCGM initialization error",
            "Error: Failed to initialize NVML",
        )
    )
)
# Of equal requests that are under way together the first puts the answer there.
_HARMLESS = re.compile(r"Failed to insert key \[\d+\] into response cache: key '\d+' already exists")

_LOAD_FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)")
_POLL_FAILED = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*)")
_MODEL_FAILED = re.compile(r"failed to load model '(?P<model>[^']+)': (?P<reason>.*)")
_ENSEMBLE_FAILED = re.compile(r"(?P<reason>.*ensemble '(?P<model>[^']+)'.*)")
_STUB_FAILED = re.compile(STUB_FAILED + r": (?P<reason>.*)")
_SOCKET_TAKEN = re.compile(r"failed to start \S+ service: .*Socket '(?P<address>[^']+)' already in use")
_CONFIG_SYNTAX = re.compile(r"Error parsing text-format inference\.ModelConfig: (?P<where>\d+:\d+): (?P<what>.*)")
_OPTION_UNKNOWN = re.compile(r"(?P<what>(unrecognized|ambiguous) option '[^']*'|option '[^']*' requires an argument)")
_OPTION_VALUE = re.compile(r'Bad option: "(?P<option>[^"]+)"')
_STATUS_CODE = re.compile(r"^(Internal|Invalid argument|Not found|Unavailable|Unsupported|Unknown): ")
_NO_MEMORY = re.compile(
    r"std::bad_alloc|bad allocation|MemoryError|Cannot allocate memory|Failed to allocate memory|"
    r"failed to map segment from shared object|"
    r"pthread_create failed|can't start new thread|terminate called after throwing an instance of 'std::system_error'"
)
_LAST_WORDS = re.compile(r"^(error: |cannot start )(?P<what>.*)")


def is_harmless(line: str, *, has_gpu: bool) -> bool:
    """Whether the line tells of nothing wrong: two equal answers for the cache, or in a known way no NVIDIA driver."""
    message = _message(line)
    return bool(_HARMLESS.fullmatch(message) or (not has_gpu and _HARMLESS_WITHOUT_GPU.fullmatch(message)))


def read_line(line: str) -> tuple[str, str, str] | None:
    """Level, place in Triton's source and message of a line of its log; None for a line of another kind."""
    match = _LINE.match(line)
    if match is None:
        return None
    try:
        message = str(json.loads(f'"{match["message"]}"', strict=False))
    except ValueError:
        message = match["message"]
    return _LEVELS[match["level"]], match["source"], message


def explain_failure(lines: Iterable[str]) -> HostError | None:
    """The first cause of a failed start that the lines of Triton's log hold, None if they hold none.

    An ensemble fails because a member failed: the member is named. A model whose process cannot even begin leaves
    Triton waiting instead of exiting, so this is worth asking before Triton has ended, too.
    """
    messages = [_message(line) for line in lines]
    for message in messages:
        if match := _NO_MEMORY.search(message):
            return OutOfMemoryError(match[0])
    return _load_failure(messages) or _start_failure(messages) or _last_words(messages)


def _load_failure(messages: list[str]) -> HostError | None:
    syntax = next((match for message in messages if (match := _CONFIG_SYNTAX.search(message))), None)
    for pattern in (_LOAD_FAILED, _POLL_FAILED, _MODEL_FAILED, _ENSEMBLE_FAILED):
        for message in messages:
            if match := pattern.match(message):
                reason = _one_line(match["reason"])
                if pattern is _POLL_FAILED and syntax is not None:
                    reason += f" (line {syntax['where'].replace(':', ', column ')}: {syntax['what']})"
                return ModelLoadError(match["model"], reason)
    return None


def _start_failure(messages: list[str]) -> HostError | None:
    for message in messages:
        if match := _STUB_FAILED.search(message):
            return RepositoryError(f"a model could not be started: {_one_line(match['reason'])}")
        if match := _SOCKET_TAKEN.search(message):
            return PortTakenError(f"the address {match['address']} is already in use: choose another port")
        if match := _OPTION_UNKNOWN.search(message):
            return OptionError(f"tritonserver does not accept what follows `--`: {match['what']}")
        if match := _OPTION_VALUE.search(message):
            return OptionError(f"tritonserver does not accept the value given to {match['option']}")
    return None


def _last_words(messages: list[str]) -> HostError | None:
    for message in reversed(messages):
        if match := _LAST_WORDS.match(message):
            return HostError(f"Triton could not start: {_one_line(match['what'])}")
    return None


def _message(line: str) -> str:
    match = _LINE.match(line.rstrip("\n"))
    return match["message"] if match else line.strip()


def _one_line(reason: str) -> str:
    """Triton's words without its error code, the Python traceback and line breaks (written out as backslash, n)."""
    reason = reason.split("\\n\\nAt:")[0].replace('\\"', '"')
    return _STATUS_CODE.sub("", " ".join(reason.replace("\\n", " ").split()).rstrip(";"))
