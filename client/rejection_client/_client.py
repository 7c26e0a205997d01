"""The two clients, method for method the same; what they do is in `_core`."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

from rejection_client._aio import AsyncioRuntime
from rejection_client._config import ClientConfig
from rejection_client._core import Core
from rejection_client._prediction import DocumentPrediction, ModelInfo, Prediction, Result
from rejection_client._runtime import finish
from rejection_client._threads import ThreadRuntime
from rejection_client.channels import DEFAULT_URL


class RejectionClient:
    """Classifies texts on one Triton server or several; threads may share one client.

    Nothing is sent until the first call, which also asks the server, once, for the label names and for the largest
    batch it takes. Use it as a context manager, or call `close()`.

    These options are the same in every method that has them: `max_length` truncates each text to so many tokens,
    special tokens included (1 or more; the model's maximum is the default and the most). `timeout_s` takes the place of
    `ClientConfig.timeout_s`, the deadline of each request. `metadata` is sent along, as `traceparent` would be.
    """

    def __init__(self, url: str | Sequence[str] = DEFAULT_URL, config: ClientConfig | None = None) -> None:
        """Set the client up, without connecting yet.

        `url` is the server's gRPC address: HOST:PORT without a scheme. With several, in a sequence or with commas
        between them, and with a name that stands for several, requests are spread over all. `unix:PATH` works too.
        Raises ValueError for an address that cannot be, and for certificates that cannot be read.
        """
        config = config or ClientConfig()
        self._core = Core(url, config, ThreadRuntime(config.max_concurrent_requests))

    def classify(
        self,
        text: str,
        *,
        max_length: int | None = None,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Classify one text. Raises a `RejectionError`."""
        return finish(self._core.classify(text, self._core.call_options(timeout_s, metadata, max_length)))

    def classify_many(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> list[Prediction]:
        """Classify any number of texts; the predictions are in the order of the texts.

        They go out in `ClientConfig.max_concurrent_requests` requests at once, so that all instances of the model have
        work, of at least eight texts and at most what the server takes. Raises a `RejectionError`: when one request
        fails, the call fails, and what is under way is cancelled.
        """
        return finish(self._core.classify_many(texts, self._core.call_options(timeout_s, metadata, max_length)))

    def stream(
        self,
        texts: Iterable[str],
        *,
        max_length: int | None = None,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Iterator[Result]:
        """Classify an endless number of texts; the results come in order, each as soon as it can.

        The texts are read in a thread of its own, only as far ahead as keeps the requests busy, and no text waits for a
        request to fill. A text that fails is a `Result` with its error, and the rest goes on; what the iterable itself
        raises ends the stream after the results before it. Closing the iterator cancels what is under way.
        """
        results = self._core.stream(texts, self._core.call_options(timeout_s, metadata, max_length))
        try:
            while True:
                try:
                    result = finish(results.__anext__())
                except StopAsyncIteration:
                    return
                yield result
        finally:
            finish(results.aclose())

    def classify_document(
        self,
        text: str,
        unit: Literal["windows", "sentences"] = "windows",
        *,
        overlap: float = 0.25,
        all_units: bool = False,
        max_length: int | None = None,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> DocumentPrediction:
        """Classify a text of any length in parts, and find the one most likely to be a rejection.

        The parts are windows as long as the model reads, of which a share of `overlap` (0 to 0.9) is also in the next,
        or sentences; a sentence too long for the model is cut into windows. `all_units` gives every part in the answer.
        Raises a `RejectionError`.
        """
        options = self._core.call_options(timeout_s, metadata, max_length)
        return finish(self._core.classify_document(text, unit, overlap, all_units, options))

    def is_ready(self, *, timeout_s: float | None = None, metadata: Mapping[str, str] | None = None) -> bool:
        """Ask whether a server would take requests for the model now.

        False if none can be reached, or the model is not loaded; raises a `RejectionError` for any other trouble.
        """
        return finish(self._core.is_ready(self._core.call_options(timeout_s, metadata)))

    def wait_until_ready(self, timeout_s: float = 60.0, *, metadata: Mapping[str, str] | None = None) -> None:
        """Wait until `is_ready`; raises ServerUnavailableError after `timeout_s` seconds."""
        finish(self._core.wait_until_ready(timeout_s, self._core.call_options(None, metadata)))

    def model_info(self, *, timeout_s: float | None = None, metadata: Mapping[str, str] | None = None) -> ModelInfo:
        """Ask the server what it tells of its model. Raises a `RejectionError`."""
        return finish(self._core.model_info(self._core.call_options(timeout_s, metadata)))

    def close(self) -> None:
        """Close the connections; calls still running in other threads end with `RequestCancelledError`."""
        finish(self._core.close())

    def __enter__(self) -> Self:
        """Give the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()


class AsyncRejectionClient:
    """`RejectionClient` for asyncio: the same methods, awaited, and the same options. One event loop a client.

    A call that is cancelled cancels its request, and the server drops it.
    """

    def __init__(self, url: str | Sequence[str] = DEFAULT_URL, config: ClientConfig | None = None) -> None:
        """Set the client up, as `RejectionClient` does; needs no running event loop yet."""
        config = config or ClientConfig()
        self._core = Core(url, config, AsyncioRuntime(config.max_concurrent_requests))

    async def classify(
        self,
        text: str,
        *,
        max_length: int | None = None,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Classify one text. Raises a `RejectionError`."""
        return await self._core.classify(text, self._core.call_options(timeout_s, metadata, max_length))

    async def classify_many(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> list[Prediction]:
        """Classify any number of texts in order, as `RejectionClient.classify_many` does."""
        return await self._core.classify_many(texts, self._core.call_options(timeout_s, metadata, max_length))

    async def stream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        max_length: int | None = None,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Result]:
        """Classify an endless number of texts, as `RejectionClient.stream` does, from a task of the same event loop.

        A plain iterable must not block; give an asynchronous one where reading takes time.
        """
        results = self._core.stream(texts, self._core.call_options(timeout_s, metadata, max_length))
        try:
            async for result in results:
                yield result
        finally:
            await results.aclose()

    async def classify_document(
        self,
        text: str,
        unit: Literal["windows", "sentences"] = "windows",
        *,
        overlap: float = 0.25,
        all_units: bool = False,
        max_length: int | None = None,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> DocumentPrediction:
        """Classify a text of any length in parts, as `RejectionClient.classify_document` does."""
        options = self._core.call_options(timeout_s, metadata, max_length)
        return await self._core.classify_document(text, unit, overlap, all_units, options)

    async def is_ready(self, *, timeout_s: float | None = None, metadata: Mapping[str, str] | None = None) -> bool:
        """Ask whether a server would take requests for the model now, as `RejectionClient.is_ready` does."""
        return await self._core.is_ready(self._core.call_options(timeout_s, metadata))

    async def wait_until_ready(self, timeout_s: float = 60.0, *, metadata: Mapping[str, str] | None = None) -> None:
        """Wait until `is_ready`; raises ServerUnavailableError after `timeout_s` seconds."""
        await self._core.wait_until_ready(timeout_s, self._core.call_options(None, metadata))

    async def model_info(
        self, *, timeout_s: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> ModelInfo:
        """Ask the server what it tells of its model. Raises a `RejectionError`."""
        return await self._core.model_info(self._core.call_options(timeout_s, metadata))

    async def close(self) -> None:
        """Close the connections; calls still running in other tasks end with `RequestCancelledError`."""
        await self._core.close()

    async def __aenter__(self) -> Self:
        """Give the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()
