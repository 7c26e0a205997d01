"""A gateway in front of a gRPC server: passes calls on byte for byte, notes them, and can refuse, delay or use TLS."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import grpc


@dataclass(frozen=True)
class Call:
    """What arrived."""

    method: str
    request: bytes
    peer: str
    seconds_left: float | None


class Gateway(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Listens on a free port; `refuse` holds codes for the next calls, `delay_s` goes before each."""

    def __init__(self, address: str, key_and_certificate: tuple[bytes, bytes] | None = None) -> None:
        self.calls: list[Call] = []
        self.refuse: list[grpc.StatusCode] = []
        self.delay_s = 0.0
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(address, options=unlimited)
        self._server = grpc.server(ThreadPoolExecutor(8), handlers=[self], options=unlimited)
        if key_and_certificate:
            credentials = grpc.ssl_server_credentials([key_and_certificate])
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        else:
            port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop(grace=None).wait(10)
        self._channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """gRPC asks here who handles a method: this does, with its bytes as they are."""
        method = handler_call_details.method
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._pass_on(method, request, context))

    def _pass_on(self, method: str, request: bytes, context: Any) -> Any:
        self.calls.append(Call(method.rsplit("/", 1)[1], request, context.peer(), context.time_remaining()))
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.refuse:
            context.abort(self.refuse.pop(0), "refused by the gateway")
        try:
            return self._channel.unary_unary(method)(request, timeout=60)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
