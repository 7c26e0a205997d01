"""The two clients, method for method the same; what they do is in `_core`."""

from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Mapping, Sequence
from typing import Literal, Self, TypedDict, TypeVar, Unpack, overload

from rejection_client._config import DEFAULT_URL, ClientConfig
from rejection_client._prediction import DocumentPrediction, ModelInfo, Prediction, Result
from rejection_client._runtime import finish

T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """Options of every call."""

    timeout_s: float | None
    """Takes the place of `ClientConfig.timeout_s`, the deadline of each request, in seconds."""

    metadata: Mapping[str, str] | None
    """Sent along, as `traceparent` would be."""


class TextOptions(CallOptions, total=False):
    """Options of every call that classifies."""

    max_length: int | None
    """Truncates each text to so many tokens, special tokens included: 1 or more; the model's maximum is the default and
    the most."""


def _first_of(results: Mapping[str, Sequence[Result]]) -> dict[str, Result]:
    """The result of the only text, by model."""
    return {model: of_model[0] for model, of_model in results.items()}


def _blocking(results: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """A stream over threads as a generator."""
    try:
        while True:
            try:
                result = finish(results.__anext__())
            except StopAsyncIteration:
                return
            yield result
    finally:
        finish(results.aclose())


class RejectionClient:
    """Classifies texts on one Triton server or several; threads may share one client.

    Nothing is sent until the first call, which also asks the server, once, for the label names and for the largest
    batch it takes. Use it as a context manager, or call `close()`. Every method takes the options `timeout_s` and
    `metadata`, those that classify also `max_length`; `CallOptions` and `TextOptions` say what they mean.
    """

    def __init__(self, url: str | Sequence[str] = DEFAULT_URL, config: ClientConfig | None = None) -> None:
        """Set the client up, without connecting yet.

        `url` is the server's gRPC address: HOST:PORT without a scheme. With several, in a sequence or with commas
        between them, and with a name that stands for several, requests are spread over all. `unix:PATH` works too.
        Raises ValueError for an address that cannot be, and for certificates that cannot be read.
        """
        # gRPC and Triton's messages (which bring numpy) are imported by those who make a client, not by all who import.
        from rejection_client._core import Core
        from rejection_client._threads import ThreadRuntime

        config = config or ClientConfig()
        self._core = Core(url, config, ThreadRuntime(config.max_concurrent_requests))

    def classify(self, text: str, **options: Unpack[TextOptions]) -> Prediction:
        """Classify one text. Raises a `RejectionError`."""
        return finish(self._core.classify(text, self._core.call(**options)))

    def classify_many(self, texts: Sequence[str], **options: Unpack[TextOptions]) -> list[Prediction]:
        """Classify any number of texts; the predictions are in the order of the texts.

        They go out in `ClientConfig.max_concurrent_requests` requests at once, so that all instances of the model have
        work, of at least eight texts and at most what the server takes. Raises a `RejectionError`: when one request
        fails, the call fails, and what is under way is cancelled.
        """
        return finish(self._core.classify_many(texts, self._core.call(**options)))

    def stream(self, texts: Iterable[str], **options: Unpack[TextOptions]) -> Generator[Result, None, None]:
        """Classify an endless number of texts; the results come in order, each as soon as it can.

        The texts are read in a thread of its own, only as far ahead as keeps the requests busy, and no text waits for a
        request to fill. A text that fails is a `Result` with its error, and the rest goes on; what the iterable itself
        raises ends the stream after the results before it. Closing the iterator cancels what is under way.
        """
        yield from _blocking(self._core.stream(texts, self._core.call(**options)))

    @overload
    def classify_all(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self, texts: str, models: Sequence[str] | None = None, **options: Unpack[TextOptions]
    ) -> dict[str, Result]: ...

    @overload
    def classify_all(
        self, texts: Sequence[str], models: Sequence[str] | None = None, **options: Unpack[TextOptions]
    ) -> dict[str, list[Result]]: ...

    def classify_all(
        self, texts: str | Sequence[str], models: Sequence[str] | None = None, **options: Unpack[TextOptions]
    ) -> dict[str, Result] | dict[str, list[Result]]:
        """Classify a text, or several, with several models of the server, side by side.

        Without `models` all are asked that the server has ready at this moment, as `models()` tells them. Gives, by the
        name of the model, the result, or the results in the order of the texts. Labels, limits and the positive label
        are each model's own, and so are errors: a model that fails is a result with its error. As many requests as
        `ClientConfig.max_concurrent_requests` are under way at once. Raises a `RejectionError` where no models are
        named and the server does not tell which it has.
        """
        results = finish(self._core.classify_all(texts, models, self._core.call(**options)))
        return _first_of(results) if isinstance(texts, str) else results

    def stream_all(
        self, texts: Iterable[str], models: Sequence[str] | None = None, **options: Unpack[TextOptions]
    ) -> Generator[dict[str, Result], None, None]:
        """Classify an endless number of texts with several models: as `stream`, with a result by each model.

        Without `models` all are asked that the server has ready when the stream begins.
        """
        yield from _blocking(self._core.stream_all(texts, models, self._core.call(**options)))

    def classify_document(
        self,
        text: str,
        unit: Literal["windows", "sentences"] = "windows",
        *,
        overlap: float = 0.25,
        all_units: bool = False,
        **options: Unpack[TextOptions],
    ) -> DocumentPrediction:
        """Classify a text of any length in parts, and find the one most likely to be a rejection.

        The parts are windows as long as the model reads, of which a share of `overlap` (0 to 0.9) is also in the next,
        or sentences; a sentence too long for the model is cut into windows. `all_units` gives every part in the answer.
        Raises a `RejectionError`.
        """
        return finish(self._core.classify_document(text, unit, overlap, all_units, self._core.call(**options)))

    def is_ready(self, **options: Unpack[CallOptions]) -> bool:
        """Ask whether a server would take requests for the model now.

        False if none can be reached, or the model is not loaded; raises a `RejectionError` for any other trouble.
        """
        return finish(self._core.is_ready(self._core.call(**options)))

    def wait_until_ready(self, timeout_s: float = 60.0, *, metadata: Mapping[str, str] | None = None) -> None:
        """Wait until `is_ready`; raises ServerUnavailableError after `timeout_s` seconds."""
        finish(self._core.wait_until_ready(timeout_s, self._core.call(metadata=metadata)))

    def models(self, **options: Unpack[CallOptions]) -> list[str]:
        """Ask the server which classifiers it has ready, by their names.

        Raises a `RejectionError`, also where the server does not tell: Triton without the guard of `scripts/serve`.
        """
        return finish(self._core.models(self._core.call(**options)))

    def model_info(self, model: str | None = None, **options: Unpack[CallOptions]) -> ModelInfo:
        """Ask the server what it tells of the client's model, or of another. Raises a `RejectionError`."""
        return finish(self._core.model_info(model, self._core.call(**options)))

    def close(self) -> None:
        """Close the connections; calls still running in other threads end with `RequestCancelledError`."""
        finish(self._core.close())

    def __enter__(self) -> Self:
        """Give the client itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connections."""
        self.close()


class AsyncRejectionClient:
    """`RejectionClient` for asyncio: the same methods, awaited, and the same options. One event loop a client.

    A call that is cancelled cancels its request, and the server drops it.
    """

    def __init__(self, url: str | Sequence[str] = DEFAULT_URL, config: ClientConfig | None = None) -> None:
        """Set the client up, as `RejectionClient` does; needs no running event loop yet."""
        from rejection_client._aio import AsyncioRuntime
        from rejection_client._core import Core

        config = config or ClientConfig()
        self._core = Core(url, config, AsyncioRuntime(config.max_concurrent_requests))

    async def classify(self, text: str, **options: Unpack[TextOptions]) -> Prediction:
        """Classify one text. Raises a `RejectionError`."""
        return await self._core.classify(text, self._core.call(**options))

    async def classify_many(self, texts: Sequence[str], **options: Unpack[TextOptions]) -> list[Prediction]:
        """Classify any number of texts in order, as `RejectionClient.classify_many` does."""
        return await self._core.classify_many(texts, self._core.call(**options))

    async def stream(
        self, texts: Iterable[str] | AsyncIterable[str], **options: Unpack[TextOptions]
    ) -> AsyncGenerator[Result, None]:
        """Classify an endless number of texts, as `RejectionClient.stream` does, from a task of the same event loop.

        A plain iterable must not block; give an asynchronous one where reading takes time.
        """
        results = self._core.stream(texts, self._core.call(**options))
        try:
            async for result in results:
                yield result
        finally:
            await results.aclose()

    @overload
    async def classify_all(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self, texts: str, models: Sequence[str] | None = None, **options: Unpack[TextOptions]
    ) -> dict[str, Result]: ...

    @overload
    async def classify_all(
        self, texts: Sequence[str], models: Sequence[str] | None = None, **options: Unpack[TextOptions]
    ) -> dict[str, list[Result]]: ...

    async def classify_all(
        self, texts: str | Sequence[str], models: Sequence[str] | None = None, **options: Unpack[TextOptions]
    ) -> dict[str, Result] | dict[str, list[Result]]:
        """Classify a text, or several, with several models, as `RejectionClient.classify_all` does."""
        results = await self._core.classify_all(texts, models, self._core.call(**options))
        return _first_of(results) if isinstance(texts, str) else results

    async def stream_all(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        models: Sequence[str] | None = None,
        **options: Unpack[TextOptions],
    ) -> AsyncGenerator[dict[str, Result], None]:
        """Classify an endless number of texts with several models: as `stream`, with a result by each model."""
        results = self._core.stream_all(texts, models, self._core.call(**options))
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
        **options: Unpack[TextOptions],
    ) -> DocumentPrediction:
        """Classify a text of any length in parts, as `RejectionClient.classify_document` does."""
        return await self._core.classify_document(text, unit, overlap, all_units, self._core.call(**options))

    async def is_ready(self, **options: Unpack[CallOptions]) -> bool:
        """Ask whether a server would take requests for the model now, as `RejectionClient.is_ready` does."""
        return await self._core.is_ready(self._core.call(**options))

    async def wait_until_ready(self, timeout_s: float = 60.0, *, metadata: Mapping[str, str] | None = None) -> None:
        """Wait until `is_ready`; raises ServerUnavailableError after `timeout_s` seconds."""
        await self._core.wait_until_ready(timeout_s, self._core.call(metadata=metadata))

    async def models(self, **options: Unpack[CallOptions]) -> list[str]:
        """Ask the server which classifiers it has ready, as `RejectionClient.models` does."""
        return await self._core.models(self._core.call(**options))

    async def model_info(self, model: str | None = None, **options: Unpack[CallOptions]) -> ModelInfo:
        """Ask the server what it tells of the client's model, or of another. Raises a `RejectionError`."""
        return await self._core.model_info(model, self._core.call(**options))

    async def close(self) -> None:
        """Close the connections; calls still running in other tasks end with `RequestCancelledError`."""
        await self._core.close()

    async def __aenter__(self) -> Self:
        """Give the client itself."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the connections."""
        await self.close()
