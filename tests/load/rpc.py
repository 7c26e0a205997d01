"""gRPC under gevent: connections of one process, with thousands of calls under way.

Importing this module lets gRPC wait in gevent's loop; gevent must have patched the standard library before (importing
locust does), and no channel may exist yet.
"""

from __future__ import annotations

import itertools
from typing import Any

import grpc.experimental.gevent as grpc_gevent
from tritonclient.grpc import service_pb2_grpc

from rejection_client import ClientConfig, Tls
from rejection_client.channels import call_metadata, open_channels

grpc_gevent.init_gevent()


def config_of(options: Any) -> ClientConfig:
    """What `load.cli.add_server_options` was given, in the client's terms; raises ValueError for what cannot be."""
    wants_tls = options.tls or any((options.ca, options.cert, options.key, options.server_name))
    tls = Tls(
        ca_path=options.ca,
        certificate_path=options.cert,
        private_key_path=options.key,
        server_name=options.server_name,
    )
    return ClientConfig(
        model=options.model,
        timeout_s=options.timeout_s,
        tls=tls if wants_tls else None,
        token=options.token,
        compression=options.compression,
    )


class Channels:
    """`options.channels` connections of this process, taken in turns; raises ValueError for what is no server."""

    def __init__(self, url: str, options: Any) -> None:
        config = config_of(options)
        self._channels = open_channels(url, config, count=options.channels)
        self._stubs = itertools.cycle([service_pb2_grpc.GRPCInferenceServiceStub(each) for each in self._channels])
        self.count = len(self._channels)
        metadata = (("triton_grpc_error", "true"), *call_metadata(config))
        self.call = {"timeout": options.timeout_s, "metadata": metadata}
        """What each call is made with."""

    def stub(self) -> Any:
        """A stub on the connection whose turn it is."""
        return next(self._stubs)

    def close(self) -> None:
        """Close every connection."""
        for channel in self._channels:
            channel.close()
