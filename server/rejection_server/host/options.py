"""What can be chosen about an embedded Triton, and the command line that follows from it."""

from __future__ import annotations

import errno
import ipaddress
import itertools
import socket
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rejection_server.guard.settings import ADMIN_KEY, UNIX
from rejection_server.host.errors import OptionError, PortTakenError, RepositoryError
from rejection_server.prepared_for import no_repository

__all__ = [
    "Endpoints",
    "LogLevel",
    "Runtime",
    "ServeOptions",
    "check_repository",
    "choose_endpoints",
    "is_loopback",
    "triton_command",
]

LogLevel = Literal["error", "warning", "info", "verbose"]

LOOPBACK = "127.0.0.1"
GRPC_SOCKET = "grpc:1"
"""Triton appends a port to the address that it is given, whatever that is."""
METRICS_SOCKET = "metrics"
SMALLEST_CACHE_BYTES = 2**16
CACHE_BYTES = 64 * 2**20

_LOG_FLAGS: Mapping[str, tuple[str, ...]] = {
    "error": ("--log-info=false", "--log-warning=false"),
    "warning": ("--log-info=false",),
    "info": (),
    "verbose": ("--log-verbose=1",),
}
# Set here from the options; given again by hand they would make the addresses reported wrong.
_OURS = {
    "--model-store": "--repository",
    "--model-repository": "--repository",
    "--grpc-address": "--host",
    "--http-address": "--host",
    "--metrics-address": "--host",
    "--grpc-port": "--grpc-port",
    "--http-port": "--http-port",
    "--metrics-port": "--metrics-port",
    "--backend-directory": None,
    "--allow-grpc": None,
    "--allow-http": "--http-port",
    "--allow-metrics": "--metrics-port",
    "--cache-config": "--cache-size",
    "--grpc-restricted-protocol": "--admin-key-file",
    "--http-restricted-api": "--admin-key-file",
}
# What concerns Triton's own port, and what lets callers change what is served.
_OF_ITS_PORT = ("--grpc-", "--reuse-grpc-port")
_OF_CONTROL = ("--model-control-mode", "--load-model", "--repository-poll-secs")
# Further services for HTTP, each with a port of its own on all addresses, where nothing is locked.
_OF_OTHER_PORTS = ("--allow-sagemaker", "--allow-vertex-ai")
_ADMINISTRATION = "shared-memory,model-repository,trace,logging"
"""Protocols of Triton that let one caller change what all others get."""
_KEY_NAME = ADMIN_KEY.removeprefix("triton-grpc-protocol-")
"""Triton puts that in front of it over gRPC; over HTTP this is the header."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Everything an embedded Triton can be told."""

    repository: Path
    """Model repository: a folder with one folder per model."""
    host: str = "127.0.0.1"
    """Name or address of this machine that every port is bound to; loopback only unless told otherwise."""
    grpc_port: int = 8001
    """Port of the gRPC service; 0 takes a free one."""
    guard: bool = True
    """Whether the guard listens on `grpc_port`, and Triton behind it on a socket that is this user's alone."""
    guards: int = 1
    """Guards that share the port, each a process that one core carries."""
    tls_cert: Path | None = None
    """PEM file with the guard's certificate and its chain; with it, and `tls_key`, callers have to speak TLS."""
    tls_key: Path | None = None
    """PEM file with the certificate's private key, not encrypted."""
    tls_client_ca: Path | None = None
    """PEM file with the authorities whose client certificates are let in; None asks callers for none."""
    token_file: Path | None = None
    """File of tokens, one a line, of which the guard asks callers for one, save for health; None asks for none."""
    admin_key_file: Path | None = None
    """File with the key that opens administration to callers who send it; None opens it to nobody."""
    http_port: int | None = None
    """Port of the HTTP service, Triton's own, which no guard stands before; 0 takes a free one, None leaves it off."""
    metrics_port: int | None = 8002
    """Port of the Prometheus metrics; 0 takes a free one, None keeps them to the models, on loopback."""
    log_level: LogLevel = "warning"
    """Least severe lines of Triton's log."""
    trace_url: str | None = None
    """Where spans go by OTLP over HTTP, such as http://127.0.0.1:4318; without a path they go to `/v1/traces` there."""
    trace_rate: int = 1000
    """Of so many requests without a trace of their caller one begins a trace; 0 is none. Those with one continue it."""
    log_path: Path | None = None
    """File that Triton's whole log is appended to, unfiltered."""
    model_config_name: str | None = None
    """Use `configs/NAME.pbtxt` of every model that has one in place of its `config.pbtxt`."""
    exit_timeout_s: int = 30
    """Seconds that requests in flight may take to finish when the server is stopped."""
    startup_timeout_s: float = 180.0
    """Seconds until every model has to be ready."""
    silence_s: float | None = 3.0
    """Seconds without a sign of life from Triton or the guard after which the server is ended; None waits for ever."""
    cache_bytes: int | None = None
    """Memory of Triton's response cache, in which repeated texts find their scores; 0 is no cache.

    None is 64 MiB, or no cache where `triton_arguments` set `--model-control-mode`: Triton keeps what an earlier
    version of a model said when a new one takes over.
    """
    device: Literal["cpu", "gpu"] = "cpu"
    """What the classifier runs on; a repository that was prepared for the other one is refused."""
    engine_cache: Path | None = None
    """Folder in which TensorRT's engines are kept, which a first start builds; None is this user's cache."""
    cores: int | None = None
    """Cores to give instances to, for models that grow with the machine; None leaves the counts as configured."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """By which several classifiers share the cores, by public name; 1 for those that are not named."""
    triton_arguments: tuple[str, ...] = ()
    """Further arguments of tritonserver, appended last so that they win."""

    @property
    def changes_models(self) -> bool:
        """Whether the arguments of tritonserver say how models come and go; then the host exchanges none."""
        return any(_means(argument, ("--model-control-mode",)) for argument in self.triton_arguments)

    @property
    def picks_ports(self) -> bool:
        """Whether any port is one that was free, not one that was named."""
        return self.metrics_port is None or 0 in (self.grpc_port, self.http_port, self.metrics_port)

    @property
    def cache_size(self) -> int:
        """Bytes of the response cache, 0 for none."""
        if self.cache_bytes is not None:
            return self.cache_bytes
        return 0 if self.changes_models else CACHE_BYTES


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What an embedded Triton runs from."""

    repository: Path
    """The model repository of the options, or what stands in for it."""
    tritonserver: Path
    backends: Path
    caches: Path
    """Folder of Triton's response caches."""
    shm_prefix: str
    """Beginning of the name of every shared memory region."""
    admin_key: str
    """What opens Triton's own administration."""
    has_gpu: bool
    exchanges: bool = False
    """Whether the host itself exchanges versions of models while Triton runs."""


@dataclass(frozen=True)
class Endpoints:
    """Where a server listens: one address, a port for each service that is on."""

    address: str
    """IP address that the ports are bound to."""
    grpc_port: int
    http_port: int | None
    metrics_port: int
    publishes_metrics: bool
    """Whether the metrics are for others than this machine."""
    sockets: Path | None = None
    """Folder with Triton's own sockets for gRPC and metrics, if the guard listens on the ports above. It is open to
    this user alone, so nobody else on this machine comes past the guard either."""

    @property
    def grpc(self) -> str:
        """HOST:PORT for a gRPC client on this machine."""
        return self._reachable(self.grpc_port)

    @property
    def triton(self) -> str:
        """Triton's own gRPC service, for this machine: HOST:PORT or unix:PATH."""
        return self.grpc if self.sockets is None else f"{UNIX}{self.sockets / GRPC_SOCKET}"

    @property
    def http(self) -> str | None:
        """URL of the HTTP service, None if it is off."""
        return None if self.http_port is None else f"http://{self._reachable(self.http_port)}"

    @property
    def metrics(self) -> str | None:
        """URL of the metrics, None if they are not published."""
        return f"http://{self._reachable(self.metrics_port)}/metrics" if self.publishes_metrics else None

    @property
    def models_metrics(self) -> str:
        """Triton's own metrics for the guard: the path of a socket (unix:PATH), or without a guard a URL."""
        if self.sockets is not None:
            return f"{UNIX}{self.sockets / METRICS_SOCKET}"
        if self.publishes_metrics:
            return f"http://{self._reachable(self.metrics_port)}/metrics"
        return f"http://{LOOPBACK}:{self.metrics_port}/metrics"

    @property
    def listeners(self) -> tuple[tuple[str, int] | str, ...]:
        """Where every service of Triton that is on listens, gRPC first: address and port, or the path of a socket."""
        mine = self.reachable_address
        http = () if self.http_port is None else ((mine, self.http_port),)
        if self.sockets is not None:
            return (str(self.sockets / GRPC_SOCKET), *http, str(self.sockets / METRICS_SOCKET))
        return ((mine, self.grpc_port), *http, (mine if self.publishes_metrics else LOOPBACK, self.metrics_port))

    @property
    def bound(self) -> dict[str, str]:
        """Each service for callers that is on, with the address that it is bound to."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        http = {} if self.http_port is None else {"HTTP": f"http://{host}:{self.http_port}"}
        metrics = {"metrics": f"http://{host}:{self.metrics_port}/metrics"} if self.publishes_metrics else {}
        return {"gRPC": f"{host}:{self.grpc_port}", **http, **metrics}

    @property
    def reachable_address(self) -> str:
        """IP address that a client on this machine connects to."""
        ip = ipaddress.ip_address(self.address)
        if not ip.is_unspecified:
            return self.address
        return "127.0.0.1" if ip.version == 4 else "::1"

    def _reachable(self, port: int) -> str:
        host = self.reachable_address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_repository(repository: Path) -> None:
    """Raise RepositoryError unless the folder holds at least one model."""
    if not repository.is_dir():
        raise RepositoryError(no_repository(repository))
    try:
        models = [entry for entry in repository.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    except PermissionError as exc:
        raise RepositoryError(f"the model repository {repository} may not be read by this user") from exc
    if (repository / "config.pbtxt").is_file():
        raise RepositoryError(f"{repository} is a model, not a model repository: name the folder above it")
    if not models:
        raise RepositoryError(f"the model repository {repository} holds no model: each model is a folder in it")


def choose_endpoints(options: ServeOptions) -> Endpoints:
    """Check that every port can be had, and pick free ones where 0 was asked for.

    Raises OptionError for an impossible address or port, PortTakenError for one in use.
    """
    given = {"--grpc-port": options.grpc_port, "--http-port": options.http_port, "--metrics-port": options.metrics_port}
    for (option, port), (other, same) in itertools.combinations(given.items(), 2):
        if port and port == same:
            raise OptionError(f"{option} and {other} are both {port}: give each a port of its own")
    address = _resolve(options.host)
    publishes_metrics = options.metrics_port is not None
    metrics_address = address if publishes_metrics else LOOPBACK
    with ExitStack() as held:  # all at once, so that no free port is picked twice
        return Endpoints(
            address=address,
            grpc_port=_probe(held, "gRPC", "--grpc-port", address, options.grpc_port),
            http_port=_probe_optional(held, "HTTP", "--http-port", address, options.http_port),
            metrics_port=_probe(held, "metrics", "--metrics-port", metrics_address, options.metrics_port or 0),
            publishes_metrics=publishes_metrics,
        )


def triton_command(options: ServeOptions, endpoints: Endpoints, runtime: Runtime) -> list[str]:
    """The command line of tritonserver.

    Raises OptionError if an extra argument repeats one of ours, or needs a Triton without a guard or a key for
    administration, or the cache has an impossible size.
    """
    _check_arguments(options)
    if options.guards < 1:
        raise OptionError(f"--guards {options.guards} is too few: give 1 or more; --no-guard is for none")
    is_ipv6 = ipaddress.ip_address(endpoints.address).version == 6
    grpc_address = f"[{endpoints.address}]" if is_ipv6 else endpoints.address
    web_address = f"ipv6:{endpoints.address}" if is_ipv6 else endpoints.address
    metrics_address = web_address if endpoints.publishes_metrics else LOOPBACK
    grpc_port, metrics_port = endpoints.grpc_port, endpoints.metrics_port
    if endpoints.sockets is not None:
        grpc_address, _, port = endpoints.triton.rpartition(":")
        grpc_port, metrics_address = int(port), endpoints.models_metrics
    command = [
        str(runtime.tritonserver),
        f"--model-repository={runtime.repository.resolve()}",
        *_control_flags(runtime),
        "--rate-limit=execution_count",  # which of several idle instances is taken is for the models to say
        f"--backend-directory={runtime.backends}",
        f"--backend-config=python,shm-region-prefix-name={runtime.shm_prefix}",
        f"--cache-directory={runtime.caches}",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        f"--grpc-address={grpc_address}",
        f"--grpc-port={grpc_port}",
        f"--http-address={web_address}",
        *_http_arguments(endpoints.http_port, runtime.admin_key),
        f"--grpc-restricted-protocol={_ADMINISTRATION}:{_KEY_NAME}={runtime.admin_key}",
        "--allow-metrics=true",
        f"--metrics-address={metrics_address}",
        f"--metrics-port={metrics_port}",
        *_LOG_FLAGS[options.log_level],
    ]
    if not runtime.has_gpu:  # looking for a GPU takes time and warns
        command += ["--allow-gpu-metrics=false", "--pinned-memory-pool-byte-size=0"]
    if options.cache_size:
        if options.cache_size < SMALLEST_CACHE_BYTES:
            raise OptionError(
                f"a cache of {options.cache_size} bytes holds nothing: give --cache-size 64K or more, or 0 for none"
            )
        command.append(f"--cache-config=local,size={options.cache_size}")
    if options.model_config_name is not None:
        command.append(f"--model-config-name={options.model_config_name}")
    return [*command, *_trace_flags(options), *options.triton_arguments]


def _control_flags(runtime: Runtime) -> tuple[str, ...]:
    if not runtime.exchanges:
        return ("--model-control-mode=none", "--strict-readiness=true")
    # A version that is loaded beside the one that answers, or has been unloaded, is no reason to be not ready. Triton
    # listens only once all models are loaded.
    return ("--model-control-mode=explicit", "--load-model=*", "--strict-readiness=false")


def _check_arguments(options: ServeOptions) -> None:
    """Raise OptionError for what may not follow `--`."""
    for argument in options.triton_arguments:
        name = argument.partition("=")[0]
        if ours := _means(argument, _OURS):
            instead = f"use {_OURS[ours]} instead" if _OURS[ours] else "the embedded host sets it"
            raise OptionError(f"{name} cannot follow `--`: {instead}")
        if options.guard and _means(argument, _OF_OTHER_PORTS):
            raise OptionError(
                f"{name} opens a port past the guard to everybody: add --no-guard if you trust all callers, or leave "
                "it out"
            )
        if options.guard and _means(argument, _OF_ITS_PORT):
            raise OptionError(
                f"{name} is for callers of Triton itself, and here the guard alone calls it: add --no-guard if you "
                "trust all callers, or leave it out"
            )
        if options.guard and options.admin_key_file is None and _means(argument, _OF_CONTROL):
            raise OptionError(
                f"{name} is for whoever administers the server, and the guard lets nobody do that: name a key for them "
                "with --admin-key-file, or leave it out"
            )


def _means(argument: str, options: Iterable[str]) -> str | None:
    """Which of these options, or beginnings of such, an argument of tritonserver is; it takes shortened ones, too."""
    name = argument.partition("=")[0]
    return next((one for one in options if name.startswith(one) or (len(name) > 2 and one.startswith(name))), None)


def _trace_flags(options: ServeOptions) -> list[str]:
    if options.trace_url is None:
        return []
    try:
        url = urlsplit(options.trace_url)
        is_usable = url.scheme == "http" and bool(url.hostname) and url.port != 0
    except ValueError:  # of brackets that do not close, or a port that is none
        is_usable = False
    if not is_usable:
        raise OptionError(
            f"--trace {options.trace_url} is not a URL that begins with http://: name the OTLP/HTTP port of a collector"
        )
    if "@" in url.netloc:
        raise OptionError(
            "--trace has a name or password in its URL, which every user of this machine could read among Triton's "
            "arguments: leave it out, and let a collector on this machine send it on"
        )
    if options.trace_rate < 0:
        raise OptionError(f"--trace-rate {options.trace_rate} is below 0: give 1 for every request, or 0 for none")
    where = options.trace_url if url.path.strip("/") else f"http://{url.netloc}/v1/traces"
    return [
        "--trace-config=mode=opentelemetry",
        f"--trace-config=opentelemetry,url={where}",
        "--trace-config=opentelemetry,resource=service.name=rejection",
        "--trace-config=level=TIMESTAMPS",
        f"--trace-config=rate={options.trace_rate}",
    ]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a name or address of it; a wrong one, too, is reached by nobody else."""
    try:
        return ipaddress.ip_address(_resolve(host)).is_loopback
    except OptionError:
        return True


def _http_arguments(port: int | None, admin_key: str) -> list[str]:
    if port is None:
        return ["--allow-http=false"]
    return [f"--http-port={port}", f"--http-restricted-api={_ADMINISTRATION}:{_KEY_NAME}={admin_key}"]


def _resolve(host: str) -> str:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise OptionError(f"'{host}' is not a name or address of this machine: see --host") from exc
    # IPv4 first: that is where clients look for "localhost".
    return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])


def _probe_optional(held: ExitStack, service: str, option: str, address: str, port: int | None) -> int | None:
    return None if port is None else _probe(held, service, option, address, port)


def _probe(held: ExitStack, service: str, option: str, address: str, port: int) -> int:
    if not 0 <= port <= 65535:
        raise OptionError(f"{option} {port} is not a port: give a number from 1 to 65535, or 0 for a free one")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    probe = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
    # As Triton does: connections of an earlier server that are still closing do not count.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((address, port))
        # Linux lets two sockets with this option bind one port as long as neither listens.
        probe.listen(1)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"port {port} of {address}, wanted for {service}, is already in use: stop the program that listens "
                f"there or choose another port with {option} (0 takes a free one)"
            ) from exc
        if exc.errno == errno.EACCES:
            raise OptionError(
                f"this user may not listen on port {port}: choose one from 1024 up with {option}"
            ) from exc
        raise OptionError(f"cannot listen on {address}, port {port}: {exc.strerror}; see --host and {option}") from exc
    return int(probe.getsockname()[1])
