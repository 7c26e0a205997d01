#!/usr/bin/env python3
"""Renew the annotated bytes in docs/protocol.md from a call to a running server; needed when the bundled model changes.

    scripts/serve
    .venv/bin/python scripts/protocol_dump.py [HOST:PORT]

The call goes through a recording proxy; what is written down is the content of the HTTP/2 DATA frames that passed it.
"""

import re
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from support.kserve import request
from support.repository import ROOT

PAGE = ROOT / "docs" / "protocol.md"
TEXTS = ["I can't.", "Sure! \N{SLIGHTLY SMILING FACE}"]
OUTPUTS = ["probabilities", "token_count"]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BYTES_A_LINE = 13
Line = tuple[bytes, str]
"""Bytes, and a note on them."""
NUMBERS = {"FP32": ("<f", 2), "INT32": ("<i", 1)}
"""How to read a type's elements, and how many columns its rows have here."""


def main() -> None:
    """Call, and write the page."""
    host, _, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8001").rpartition(":")
    sent, received = record(host, int(port))
    blocks = iter(
        [
            dump(data_frames(sent.removeprefix(PREFACE)), service_pb2.ModelInferRequest),
            dump(data_frames(received), service_pb2.ModelInferResponse),
        ]
    )
    page, count = re.subn(r"(?<=^```text\n).*?(?=^```$)", lambda _: next(blocks), PAGE.read_text(), flags=re.M | re.S)
    if count != 2:
        sys.exit(f"scripts/protocol_dump.py: {PAGE} has {count} blocks marked text, not 2")
    PAGE.write_text(page)
    print(f"renewed {PAGE}")


def record(host: str, port: int) -> tuple[bytes, bytes]:
    """Make the call through a proxy; all bytes to the server and all from it."""
    streams = bytearray(), bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            caller, _ = listener.accept()
            with caller, socket.create_connection((host, port), timeout=10) as server:
                back = threading.Thread(target=pump, args=(server, caller, streams[1]))
                back.start()
                pump(caller, server, streams[0])
                back.join()

        proxy = threading.Thread(target=serve)
        proxy.start()
        with grpc.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request(TEXTS, outputs=OUTPUTS), timeout=10)
        proxy.join(10)
    return bytes(streams[0]), bytes(streams[1])


def pump(source: socket.socket, target: socket.socket, copy: bytearray) -> None:
    """Pass bytes on until the source ends."""
    try:
        while block := source.recv(65536):
            copy += block
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one side closed first


def data_frames(stream: bytes) -> bytes:
    """Content of the DATA frames (type 0) among HTTP/2 frames: 3 bytes of length, type, flags, 4 bytes of stream."""
    content = b""
    while len(stream) >= 9:
        end = 9 + int.from_bytes(stream[:3], "big")
        if stream[3] == 0:
            content += stream[9:end]
        stream = stream[end:]
    return content


def dump(frame: bytes, message: Any) -> str:
    """Lines of hex digits and what they mean."""
    (size,) = struct.unpack_from(">I", frame, 1)
    lines = [(frame[:5], f"gRPC: not compressed (0), {size} bytes follow (uint32, big-endian)")]
    lines += fields(frame[5:], message.DESCRIPTOR, 0, [])
    text = ""
    for content, note in lines:
        for start in range(0, len(content), BYTES_A_LINE):
            digits = content[start : start + BYTES_A_LINE].hex(" ")
            text += f"{digits:<{3 * BYTES_A_LINE + 5}}{'' if start else note}".rstrip() + "\n"
    return text


def fields(content: bytes, descriptor: Any, depth: int, tensors: list[list[str]]) -> Iterator[Line]:
    """Bytes and note of each field of a message; `tensors` gathers [name, datatype] as they are met."""
    indent = "  " * depth
    position = 0
    seen: dict[str, int] = {}
    while position < len(content):
        start = position
        tag, position = varint(content, position)
        field = descriptor.fields_by_number[tag >> 3]
        index = seen[field.name] = seen.get(field.name, -1) + 1
        number, position = varint(content, position)
        title = f"{indent}{field.number} {field.name}"
        if tag & 7 == 0:
            value = str(bool(number)).lower() if field.type == field.TYPE_BOOL else number
            yield content[start:position], f"{title}: {value}"
            continue
        inside, position = content[position : position + number], position + number
        head = content[start : position - number]
        if field.message_type:
            entry = field.message_type.GetOptions().map_entry
            place = "" if entry or not field.is_repeated else f"[{index}]"
            yield head, f"{title}{place}, {'an entry of ' if entry else ''}{number} bytes"
            yield from fields(inside, field.message_type, depth + 1, tensors)
        elif field.type == field.TYPE_STRING:
            yield content[start:position], f'{title}: "{inside.decode()}"'
            if field.name == "name" and "datatype" in descriptor.fields_by_name:
                tensors.append([inside.decode(), ""])
            if field.name == "datatype":
                tensors[-1][1] = inside.decode()
        elif field.type == field.TYPE_BYTES:
            name, datatype = tensors[index]
            yield head, f"{title}[{index}], {number} bytes: {name}"
            yield from elements(inside, datatype, indent + "  ")
        else:
            yield content[start:position], f"{title}: {list(varints(inside))}"


def elements(content: bytes, datatype: str, indent: str) -> Iterator[Line]:
    """Bytes and note of each element of a tensor."""
    if datatype == "BYTES":
        while content:
            (size,) = struct.unpack_from("<I", content)
            yield content[:4], f"{indent}{size} bytes:"
            yield content[4 : 4 + size], indent + content[4 : 4 + size].decode()
            content = content[4 + size :]
        return
    form, columns = NUMBERS[datatype]
    for place, (value,) in enumerate(struct.iter_unpack(form, content)):
        row, column = divmod(place, columns)
        label = f", label {column}" if columns > 1 else ""
        yield content[4 * place : 4 * place + 4], f"{indent}text {row}{label}: {value:.7g}"


def varint(content: bytes, position: int) -> tuple[int, int]:
    """Number at a position, and the position after it: 7 bits a byte, the lowest first."""
    number = shift = 0
    while True:
        byte = content[position]
        number |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return number, position


def varints(content: bytes) -> Iterator[int]:
    """Numbers one after the other."""
    position = 0
    while position < len(content):
        number, position = varint(content, position)
        yield number


if __name__ == "__main__":
    main()
