import dataclasses
import os
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from rejection_server.host import machine
from rejection_server.host.errors import (
    OptionError,
    PortTakenError,
    RepositoryError,
    TritonNotInstalledError,
    UnsupportedMachineError,
)
from rejection_server.host.layout import lay_out, remove_stale
from rejection_server.host.locate import check_machine, find_wheel, loader_complaints, needed_libpython
from rejection_server.host.machine import Machine, find_libpython, lacks_libpython
from rejection_server.host.options import (
    Endpoints,
    ServeOptions,
    check_repository,
    choose_endpoints,
    triton_command,
)
from support.host_runtime import RUNTIME

FITTING = Machine(system="Linux", processor="x86_64", libc="glibc 2.35", python=(3, 12))


@pytest.mark.parametrize("changes", [{}, {"python": (3, 11)}, {"python": (3, 13)}, {"libc": "glibc 2.36"}])
def test_fitting_machines(changes: dict[str, Any]) -> None:
    check_machine(dataclasses.replace(FITTING, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"processor": "aarch64"}, "x86-64 processor, this is Linux on aarch64: use NVIDIA's image"),
        ({"system": "Darwin"}, "this is Darwin"),
        ({"libc": "glibc 2.31"}, "2.35 or newer, this system has 2.31: use the container"),
        ({"libc": "glibc 2.9"}, "this system has 2.9"),
        ({"libc": ""}, "another C library: use the container"),
        ({"python": (3, 10)}, "CPython 3.11 or 3.12 or 3.13, this is CPython 3.10"),
        ({"python": (3, 14)}, "this is CPython 3.14"),
        ({"free_threaded": True, "python": (3, 13)}, "free-threaded"),
        ({"implementation": "pypy", "python": (3, 11)}, "this is pypy 3.11"),
    ],
)
def test_unfitting_machines(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedMachineError, match=words):
        check_machine(dataclasses.replace(FITTING, **changes))


def test_wheel_is_found_complete() -> None:
    wheel = find_wheel()
    assert os.access(wheel.tritonserver, os.X_OK)
    assert (wheel.caches / "local").is_dir()


def test_python_without_a_stub() -> None:
    with pytest.raises(UnsupportedMachineError, match=r"no Python backend for Python 3\.99"):
        find_wheel((3, 99))


def test_wheel_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rejection_server.host.locate.WHEEL", "no-such-wheel")
    with pytest.raises(TritonNotInstalledError, match="no-such-wheel"):
        find_wheel()


def test_missing_libpython_is_named_by_the_loader() -> None:
    # No system that this runs on has the library of Python 3.8 any more.
    stub = find_wheel((3, 8)).stub
    assert needed_libpython(stub) == "libpython3.8.so.1.0"
    missing = loader_complaints(stub, {"LD_LIBRARY_PATH": str(find_wheel().libraries)})
    assert missing == ["libpython3.8.so.1.0"]


def test_the_renamed_libpython_of_a_stub_is_the_one_that_the_wheel_holds() -> None:
    name = needed_libpython(find_wheel((3, 13)).stub)
    assert name != "libpython3.13.so.1.0"
    assert (find_wheel().libraries / name).is_file()


def test_an_interpreters_own_libpython_comes_before_the_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = find_wheel((3, 13))
    own = tmp_path / "libpython3.13.so.1.0"
    own.write_bytes((wheel.libraries / needed_libpython(wheel.stub)).read_bytes())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("rejection_server.host.layout.find_libpython", lambda: own)
    layout = lay_out(wheel)
    stub = layout.backends / "python" / wheel.stub.name
    # The loader of the system says where it takes each library from.
    trace = subprocess.run(
        [stub], env={**layout.environment, "LD_TRACE_LOADED_OBJECTS": "1"}, capture_output=True, text=True
    ).stdout
    (loaded,) = (line.split()[2] for line in trace.splitlines() if "libpython" in line)
    assert Path(loaded).resolve() == own
    os.close(layout.alive_fd)


@pytest.mark.parametrize(("builtin", "lacks"), [(("sys", "_datetime"), True), (("sys",), False)])
def test_the_wheels_libpython_does_where_extension_modules_are_files(
    monkeypatch: pytest.MonkeyPatch, builtin: tuple[str, ...], lacks: bool
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 5))
    monkeypatch.setattr(sys, "builtin_module_names", builtin)
    monkeypatch.setattr("sysconfig.get_config_var", lambda _name: "/nowhere")
    monkeypatch.setattr(sys, "base_prefix", "/nowhere")
    assert lacks_libpython() is lacks


def test_an_interpreter_knows_the_libpython_that_it_runs_with() -> None:
    found = find_libpython()
    assert found is not None
    assert found.is_file()
    # Beside an interpreter that was moved since it was built, what it was configured with says nothing.
    code = (
        "import sys, sysconfig, runpy; sysconfig.get_config_var = lambda _: '/nowhere'; sys.base_prefix = '/nowhere'; "
        "print(runpy.run_path(sys.argv[1])['find_libpython']())"
    )
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        moved = subprocess.run([sys.executable, "-c", code, machine.__file__], capture_output=True, text=True)
        assert Path(moved.stdout.strip()).resolve() == found.resolve()


def test_static_python_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("rejection_server.host.layout.find_libpython", lambda: None)
    with pytest.raises(UnsupportedMachineError, match="apt-get install libpython3"):
        lay_out(dataclasses.replace(find_wheel(), stub=find_wheel((3, 8)).stub))
    assert not list(tmp_path.iterdir())


def test_layout_and_what_the_loader_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", "/elsewhere")
    layout = lay_out(find_wheel())
    stub = layout.backends / "python" / "triton_python_backend_stub"
    assert os.access(stub, os.X_OK)
    assert not (layout.backends / "python" / "libtriton_python.so").is_symlink()
    assert (layout.backends / "onnxruntime" / "model.py").is_file()
    assert loader_complaints(stub, layout.environment) == []
    assert "PYTHONHOME" not in layout.environment
    os.close(layout.alive_fd)


def test_stale_folders_are_removed_and_live_ones_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    live, dead = lay_out(find_wheel()), lay_out(find_wheel())
    os.close(dead.alive_fd)
    regions = [Path("/dev/shm", layout.shm_prefix + "region") for layout in (live, dead)]
    for region in regions:
        region.touch()
    try:
        remove_stale(tmp_path)
        assert dead.folder.exists(), "too young to judge"
        for layout in (live, dead):
            os.utime(layout.folder, (0, 0))
        remove_stale(tmp_path)
        assert live.folder.exists()
        assert not dead.folder.exists()
        assert [region.exists() for region in regions] == [True, False]
    finally:
        os.close(live.alive_fd)
        for region in regions:
            region.unlink(missing_ok=True)


def test_repositories_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"no model repository at .*/nowhere"):
        check_repository(tmp_path / "nowhere")
    with pytest.raises(RepositoryError, match="holds no model"):
        check_repository(tmp_path)
    model = tmp_path / "model"
    (model / "1").mkdir(parents=True)
    check_repository(tmp_path)
    (model / "config.pbtxt").touch()
    with pytest.raises(RepositoryError, match="name the folder above"):
        check_repository(model)


@pytest.mark.parametrize(
    ("field", "option"),
    [("grpc_port", "--grpc-port"), ("http_port", "--http-port"), ("metrics_port", "--metrics-port")],
)
def test_taken_ports(field: str, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = dataclasses.replace(free_options(), **{field: port})
        with pytest.raises(PortTakenError, match=f"port {port} of 127.0.0.1.*{option}"):
            choose_endpoints(options)


def test_free_ports_differ() -> None:
    endpoints = choose_endpoints(dataclasses.replace(free_options(), http_port=0))
    assert len({endpoints.grpc_port, endpoints.http_port, endpoints.metrics_port} - {0, None}) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grpc_port": 65536}, "--grpc-port 65536 is not a port"),
        ({"metrics_port": -1}, "--metrics-port -1 is not a port"),
        ({"grpc_port": 22999, "metrics_port": 22999}, "--grpc-port and --metrics-port are both 22999"),
        ({"host": "no such host"}, "'no such host' is not a name or address"),
        ({"host": "192.0.2.1"}, "cannot listen on 192.0.2.1"),
    ],
)
def test_impossible_endpoints(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        choose_endpoints(dataclasses.replace(free_options(), **changes))


@pytest.mark.parametrize(
    ("address", "reachable"),
    [("0.0.0.0", "127.0.0.1:1"), ("127.0.0.1", "127.0.0.1:1"), ("::1", "[::1]:1"), ("::", "[::1]:1")],
)
def test_addresses_for_clients(address: str, reachable: str) -> None:
    endpoints = Endpoints(address, 1, None, 2, True)
    assert endpoints.grpc == reachable
    assert endpoints.http is None
    assert endpoints.metrics == f"http://{reachable[:-1]}2/metrics"


def test_metrics_that_are_not_published_are_on_loopback() -> None:
    endpoints = Endpoints("127.0.0.2", 1, 3, 2, False)
    assert endpoints.metrics is None
    assert endpoints.models_metrics == "http://127.0.0.1:2/metrics"
    assert endpoints.listeners == (("127.0.0.2", 1), ("127.0.0.2", 3), ("127.0.0.1", 2))
    assert Endpoints("0.0.0.0", 1, None, 2, True).listeners == (("127.0.0.1", 1), ("127.0.0.1", 2))


def test_command_line() -> None:
    options = dataclasses.replace(free_options(), model_config_name="gpu", triton_arguments=("--id=x",))
    command = triton_command(options, Endpoints("::1", 1, None, 2, True), RUNTIME)
    assert {"--grpc-address=[::1]", "--metrics-address=ipv6:::1", "--allow-http=false"} < set(command)
    assert command[-2:] == ["--model-config-name=gpu", "--id=x"]
    assert "--model-repository=/r" in command


@pytest.mark.parametrize(
    ("cache_bytes", "arguments"), [(64 * 2**20, ["--cache-config=local,size=67108864"]), (2**20, None), (0, [])]
)
def test_cache_size(cache_bytes: int, arguments: list[str] | None) -> None:
    options = dataclasses.replace(free_options(), cache_bytes=cache_bytes)
    command = triton_command(options, Endpoints("127.0.0.1", 1, None, 2, False), RUNTIME)
    expected = [f"--cache-config=local,size={cache_bytes}"] if arguments is None else arguments
    assert [argument for argument in command if argument.startswith("--cache-config")] == expected


def test_cache_too_small_to_hold_anything() -> None:
    options = dataclasses.replace(free_options(), cache_bytes=1000)
    with pytest.raises(OptionError, match="a cache of 1000 bytes holds nothing"):
        triton_command(options, Endpoints("127.0.0.1", 1, None, 2, False), RUNTIME)


@pytest.mark.parametrize(
    "argument",
    [
        "--grpc-port=1",
        "--model-repository=/x",
        "--backend-directory",
        "--cache-config=local,size=1",
        "--cache-conf=local,size=1",  # Triton takes the beginning of a name for the name
        "--grpc-restricted-p=health:a=b",
        "--allow-http=true",
    ],
)
def test_arguments_that_are_ours(argument: str) -> None:
    options = dataclasses.replace(free_options(), triton_arguments=(argument,))
    with pytest.raises(OptionError, match="cannot follow `--`"):
        triton_command(options, Endpoints("127.0.0.1", 1, None, 2, False), RUNTIME)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--grpc-keepalive-time=1", "is for callers of Triton itself"),
        ("--reuse-grpc=1", "is for callers of Triton itself"),
        ("--allow-sagemaker=true", "opens a port past the guard"),
        ("--allow-vertex=true", "opens a port past the guard"),
        ("--model-control=explicit", "is for whoever administers the server"),
        ("--load-model=*", "is for whoever administers the server"),
    ],
)
def test_arguments_that_go_past_the_guard(argument: str, words: str) -> None:
    options = dataclasses.replace(free_options(), triton_arguments=(argument,))
    endpoints = Endpoints("127.0.0.1", 1, None, 2, False)
    with pytest.raises(OptionError, match=f"{argument.partition('=')[0]} {words}"):
        triton_command(options, endpoints, RUNTIME)
    assert argument in triton_command(dataclasses.replace(options, guard=False), endpoints, RUNTIME)


def test_models_that_change_have_no_cache_however_short_the_option_is() -> None:
    assert dataclasses.replace(free_options(), triton_arguments=("--model-control=explicit",)).cache_size == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://a:4318", "is not a URL that begins with http://"),
        ("http://", "is not a URL"),
        ("http://[::1", "is not a URL"),
        ("http://a:99999", "is not a URL"),
        ("http://me:secret@a:4318", "has a name or password in its URL"),
    ],
)
def test_where_spans_cannot_go(url: str, words: str) -> None:
    options = dataclasses.replace(free_options(), trace_url=url)
    with pytest.raises(OptionError, match=words) as caught:
        triton_command(options, Endpoints("127.0.0.1", 1, None, 2, False), RUNTIME)
    assert "secret" not in str(caught.value)


def free_options() -> ServeOptions:
    return ServeOptions(repository=Path("model_repository"), grpc_port=0, metrics_port=0)
