"""The protocol files say on the wire what `tritonclient`, made from Triton's own definition, says."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from tritonclient.grpc import model_config_pb2, service_pb2

from support.repository import ROOT

Files = dict[str, FileDescriptorProto]
"""By package."""

METHODS = [
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "RepositoryIndex",
    "ModelMetadata",
    "ModelInfer",
    "ModelStreamInfer",
    "ModelConfig",
]
# Messages of which the files hold the part that callers want; every other one is whole.
PARTS = {".inference.ModelConfig", ".inference.ModelInput", ".inference.ModelOutput"}


def tritons_files() -> Iterator[FileDescriptorProto]:
    for module in (model_config_pb2, service_pb2):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        yield file


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Both files by package. Read as data: a process can hold only one definition of a message."""
    path = tmp_path_factory.mktemp("descriptors") / "set.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto"), f"--descriptor_set_out={path}"]
    subprocess.run([*command, "inference.proto", "health.proto"], check=True, timeout=60)
    files = FileDescriptorSet.FromString(path.read_bytes()).file
    return {file.package: file for file in files}


def messages(files: Iterable[FileDescriptorProto]) -> dict[str, DescriptorProto]:
    """Messages by full name, those within messages too."""
    found = {}

    def add(prefix: str, message: DescriptorProto) -> None:
        name = f"{prefix}.{message.name}"
        found[name] = message
        for nested in message.nested_type:
            add(name, nested)

    for file in files:
        for message in file.message_type:
            add(f".{file.package}", message)
    return found


def enums(files: Iterable[FileDescriptorProto]) -> dict[str, EnumDescriptorProto]:
    return {f".{file.package}.{enum.name}": enum for file in files for enum in file.enum_type}


def wire(message: DescriptorProto, field: FieldDescriptorProto) -> dict[str, Any]:
    """All of a field that decides about bytes and about what generated code makes of it."""
    return {
        "name": field.name,
        "number": field.number,
        "type": FieldDescriptorProto.Type.Name(field.type),
        "type_name": field.type_name,
        "label": FieldDescriptorProto.Label.Name(field.label),
        "oneof": message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None,
        "optional": field.proto3_optional,
        "packed": field.options.packed if field.options.HasField("packed") else None,
    }


def fields(message: DescriptorProto) -> dict[int, dict[str, Any]]:
    return {field.number: wire(message, field) for field in message.field}


def test_syntax_and_package(ours: Files) -> None:
    assert set(ours) == {"inference", "grpc.health.v1"}
    theirs = list(tritons_files())
    assert {file.syntax for file in [*theirs, *ours.values()]} == {"proto3"}
    assert {file.package for file in theirs} == {"inference"}


def test_methods(ours: Files) -> None:
    def of(service: ServiceDescriptorProto) -> dict[str, tuple[str, str, bool, bool]]:
        return {m.name: (m.input_type, m.output_type, m.client_streaming, m.server_streaming) for m in service.method}

    (our_service,) = ours["inference"].service
    (their_service,) = [service for file in tritons_files() for service in file.service]
    assert our_service.name == their_service.name == "GRPCInferenceService"
    assert [method.name for method in our_service.method] == METHODS
    theirs = of(their_service)
    assert of(our_service) == {name: theirs[name] for name in METHODS}


def test_fields(ours: Files) -> None:
    mine, theirs = messages([ours["inference"]]), messages(tritons_files())
    assert len(mine) == 34
    for name, message in mine.items():
        want = fields(theirs[name])
        have = fields(message)
        if name in PARTS:
            assert have, name
            assert have == {number: want.get(number) for number in have}, name
        else:
            assert have == want, name
        assert message.options.map_entry == theirs[name].options.map_entry, name


def test_oneofs_are_whole(ours: Files) -> None:
    mine, theirs = messages([ours["inference"]]), messages(tritons_files())
    found = [(name, oneof.name) for name, message in mine.items() for oneof in message.oneof_decl]
    assert found == [(".inference.InferParameter", "parameter_choice")]
    for name, oneof in found:
        assert oneof in [one.name for one in theirs[name].oneof_decl]


def test_enums(ours: Files) -> None:
    mine, theirs = enums([ours["inference"]]), enums(tritons_files())
    assert set(mine) == {".inference.DataType"}
    for name, enum in mine.items():
        assert [(v.name, v.number) for v in enum.value] == [(v.name, v.number) for v in theirs[name].value]


def test_health_is_the_standard_one(ours: Files) -> None:
    # https://github.com/grpc/grpc/blob/master/doc/health-checking.md, less Watch, which Triton does not serve.
    file = ours["grpc.health.v1"]
    (service,) = file.service
    (check,) = service.method
    types = (check.input_type, check.output_type, check.client_streaming, check.server_streaming)
    assert (service.name, check.name) == ("Health", "Check")
    assert types == (".grpc.health.v1.HealthCheckRequest", ".grpc.health.v1.HealthCheckResponse", False, False)
    request, response = file.message_type
    assert [(f.name, f.number, f.type, f.label) for f in request.field] == [("service", 1, 9, 1)]
    (status,) = response.field
    assert (status.name, status.number, status.type, status.label) == ("status", 1, 14, 1)
    (values,) = response.enum_type
    assert [v.name for v in values.value] == ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]
    assert [v.number for v in values.value] == [0, 1, 2, 3]
