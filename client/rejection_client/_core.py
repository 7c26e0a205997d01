"""The logic of both clients, as coroutines over a `Runtime`: what is asked, what is sent together, what comes back."""

import functools
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, TypeVar

import grpc

from rejection_client import _documents, _several, protocol
from rejection_client._config import ClientConfig, check_timeout, checked_metadata
from rejection_client._prediction import DocumentPrediction, ModelInfo, Prediction, Result, Unit, needed
from rejection_client._repeats import Found
from rejection_client._retry import backoff_s
from rejection_client._runtime import ClosedError
from rejection_client._stream import Ask, Stream, each
from rejection_client._telemetry import current_trace
from rejection_client._transport import LOOK_TIMEOUT_S, Call, Runtime, Transport
from rejection_client.errors import (
    AccessDeniedError,
    ModelNotFoundError,
    OverloadedError,
    RejectionError,
    RequestCancelledError,
    ServerUnavailableError,
    UnexpectedAnswerError,
)

T = TypeVar("T")

_log = logging.getLogger("rejection_client")

MEANING = (
    "function_to_apply",
    "problem_type",
    "model_id",
    "model_revision",
    "model_sha256",
    "precision",
    "model_version",
)
"""Parameters of the model's configuration that are fields of `ModelInfo`, by the same names."""


class Core:
    """One client's logic, over its `Transport`."""

    def __init__(self, url: str | Sequence[str], config: ClientConfig, runtime: Runtime) -> None:
        self.config = config
        self._io = runtime
        self._address = url
        self._others: dict[str, Core] = {}
        self._transport = Transport(url, config, runtime)
        self._rpc = self._transport.rpc
        self._url = self._transport.url
        self._model: ModelInfo | None = None

    def call(
        self,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
        max_length: int | None = None,
    ) -> Call:
        """The options of a call, filled up from the configuration; raises ValueError."""
        if max_length is not None and not isinstance(max_length, int):
            raise TypeError(f"max_length is of type {type(max_length).__name__}, not int")
        pairs = dict(self._transport.metadata)
        pairs.update(checked_metadata((self.config.context or current_trace)()))
        pairs.update(checked_metadata(metadata or {}))
        timeout_s = self.config.timeout_s if timeout_s is None else check_timeout(timeout_s)
        return Call(timeout_s, tuple(pairs.items()), max_length)

    # --- what the public methods do ------------------------------------------------------------------------------

    async def classify(self, text: str, call: Call) -> Prediction:
        """The prediction for one text."""
        if not isinstance(text, str):
            raise TypeError(f"text is of type {type(text).__name__}, not str; classify_many takes several texts")
        return (await self._request([text], range(1), call))[0]

    async def classify_many(self, texts: Sequence[str], call: Call) -> list[Prediction]:
        """The predictions for texts, in order; equal texts are sent once."""
        texts = protocol.checked_texts(texts)
        firsts: dict[str, int] = {}
        for row, text in enumerate(texts):
            firsts.setdefault(text, row)
        if not firsts:
            return []
        predictions = await self._many(list(firsts), list(firsts.values()), call)
        if len(firsts) == len(texts):
            return predictions
        answers = dict(zip(firsts, predictions, strict=True))
        return [answers[text] for text in texts]

    async def _many(self, texts: Sequence[str], rows: Sequence[int], call: Call) -> list[Prediction]:
        """The predictions for texts that stand at `rows` of the caller's sequence, in requests side by side."""
        size = min(await self.texts_per_request(call), _several.share(len(texts), self.config.max_concurrent_requests))
        if len(texts) <= size:
            return await self._request(texts, rows, call)
        parts = [slice(first, first + size) for first in range(0, len(texts), size)]
        found = await self._side_by_side(self._request(texts[part], rows[part], call) for part in parts)
        return [prediction for predictions in found for prediction in predictions]

    async def _side_by_side(self, coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """What comes of them, in order, with as many under way as may be; the first failure ends all."""
        done: list[T] = []
        under_way: deque[Any] = deque()
        try:
            for coroutine in coroutines:
                under_way.append(self._io.start(coroutine))
                if len(under_way) == self.config.max_concurrent_requests:
                    done.append(await self._io.result(under_way[0]))
                    under_way.popleft()
            while under_way:
                done.append(await self._io.result(under_way[0]))
                under_way.popleft()
        except ClosedError as error:
            raise self._transport.gone(error) from error
        finally:
            for handle in under_way:
                handle.cancel()
        return done

    async def classify_all(
        self, texts: str | Sequence[str], models: Sequence[str] | None, call: Call
    ) -> dict[str, list[Result]]:
        """The results for texts by each of several models, of all that are ready where none is named."""
        texts = [texts] if isinstance(texts, str) else protocol.checked_texts(texts)
        cores = await self._cores(models, call)
        return await _several.classify_all(cores, texts, call, self._side_by_side, self.config.max_concurrent_requests)

    async def stream_all(
        self, texts: Any, models: Sequence[str] | None, call: Call
    ) -> AsyncGenerator[dict[str, Result], None]:
        """The results for texts by each of several models, in order, as they come."""
        cores = await self._cores(models, call)
        ask, size = await _several.asking(cores, call, self._side_by_side)
        stream = self._stream(texts, ask, size)
        try:
            async for results in stream:
                yield dict(zip(cores, results, strict=True))
        finally:
            await stream.aclose()

    async def stream(self, texts: Any, call: Call) -> AsyncGenerator[Result, None]:
        """The results for texts, in order, as they come."""

        async def ask(texts: list[str], rows: list[int]) -> list[tuple[Found, ...]]:
            return [(found,) for found in await self.each(texts, rows, call)]

        stream = self._stream(texts, ask, await self.texts_per_request(call))
        try:
            async for (result,) in stream:
                yield result
        finally:
            await stream.aclose()

    async def _stream(self, texts: Any, ask: Ask, size: int) -> AsyncGenerator[list[Result], None]:
        protocol.check_several(texts, (Iterable, AsyncIterable) if self._io.aio else Iterable, "an iterable")
        results = Stream(self._io, ask, size, self.config.max_concurrent_requests).results(texts)
        try:
            async for result in results:
                yield result
        except ClosedError as error:
            raise self._transport.gone(error) from error
        finally:
            await results.aclose()

    async def classify_document(
        self, text: str, unit: str, overlap: float, all_units: bool, call: Call
    ) -> DocumentPrediction:
        """The predictions for the parts of a text, and the highest."""
        if not isinstance(text, str):
            raise TypeError(f"text is of type {type(text).__name__}, not str")
        _documents.check_options(unit, overlap)
        model = await self._served_model(call)
        limits = [limit for limit in (call.max_length, model.max_length) if limit is not None]
        if not limits:
            raise UnexpectedAnswerError(
                f"the server at {self._url} does not say how many tokens '{model.name}' reads; give max_length"
            )
        needed(model.positive_label, model.labels)
        splitter = _documents.Splitter(text, unit, overlap, min(limits))
        units: list[Unit] = []
        spans = splitter.first_spans()
        while spans:
            predictions = await self.classify_many([text[start:end] for start, end in spans], call)
            scored = [Unit(*span, prediction) for span, prediction in zip(spans, predictions, strict=True)]
            units += [unit for unit in scored if splitter.is_whole(unit)]
            spans = splitter.next_spans([unit for unit in scored if not splitter.is_whole(unit)])
        units.sort(key=lambda unit: (unit.start, unit.end))
        highest = max(units, key=lambda unit: unit.prediction.score)
        return DocumentPrediction(highest, len(units), tuple(units) if all_units else ())

    async def is_ready(self, call: Call) -> bool:
        """Whether any server would take requests for the model."""
        try:
            answer = await self._rpc("ModelReady", protocol.ready_request(self.config.model), call, retry=False)
        except (ServerUnavailableError, OverloadedError, ModelNotFoundError):
            return False
        return bool(answer.ready)

    async def wait_until_ready(self, timeout_s: float, call: Call) -> None:
        """Wait for that; raises what stands in the way once the time is over."""
        deadline_s = monotonic() + check_timeout(timeout_s)
        failures = 0
        while True:
            left_s = max(0.001, deadline_s - monotonic())
            error: RejectionError | None = None
            try:
                if await self.is_ready(call._replace(timeout_s=min(LOOK_TIMEOUT_S, left_s))):
                    return
            except (RequestCancelledError, AccessDeniedError):
                raise
            except RejectionError as caught:
                error = caught
            failures += 1
            pause_s = backoff_s(failures, self.config.backoff_initial_s, self.config.backoff_max_s)
            if monotonic() + pause_s >= deadline_s:
                raise ServerUnavailableError(
                    f"no server at {self._url} was ready for '{self.config.model}' within {timeout_s:g} s; check the "
                    "address, the model's name, and that the server is running"
                ) from error
            await self._io.sleep(pause_s)

    async def model_info(self, model: str | None, call: Call) -> ModelInfo:
        """What the server tells of the client's model, or of another, asked anew."""
        if model is not None and model != self.config.model:
            return await self._core_of(model).model_info(None, call)
        self._model = None
        return await self._served_model(call)

    async def models(self, call: Call) -> list[str]:
        """The classifiers of the server that are ready, by name."""
        unknown = f"the server at {self._url} does not tell which classifiers it has"
        try:
            names = protocol.read_index(await self._rpc("RepositoryIndex", protocol.index_request(), call))
        except (AccessDeniedError, UnexpectedAnswerError) as error:
            cause = error.__cause__
            if isinstance(cause, grpc.RpcError) and cause.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise
            told = cause.details() if isinstance(cause, grpc.RpcError) else error
            raise type(error)(f"{unknown} ({told}); name the models (--model)") from error
        if not names:
            raise ServerUnavailableError(f"the server at {self._url} has no classifier that is ready; wait for one")
        return names

    async def close(self) -> None:
        """Close every connection."""
        for core in self._others.values():
            await core.close()
        await self._transport.close()

    # --- other models of the server ------------------------------------------------------------------------------

    def _core_of(self, model: str) -> "Core":
        """The same for another model: with connections of its own, for a server may be ready for one and not the other.

        Which of its labels means a rejection, that model says itself.
        """
        if model == self.config.model:
            return self
        if model not in self._others:
            config = replace(self.config, model=model, positive_label=None)
            self._others.setdefault(model, Core(self._address, config, self._io))
        return self._others[model]

    async def _cores(self, models: Sequence[str] | None, call: Call) -> dict[str, "Core"]:
        """By model; raises a RejectionError if none is named and the server does not tell which there are."""
        if models is None:
            models = await self.models(call)
        is_names = isinstance(models, Iterable) and not isinstance(models, (str, bytes))
        names = list(models) if is_names else []
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"models is {models!r}; give the names of one model or several, in a sequence, or leave it out for all"
            )
        return {name: self._core_of(name) for name in names}

    # --- requests ------------------------------------------------------------------------------------------------

    async def each(self, texts: Sequence[str], rows: Sequence[int], call: Call) -> list[Found]:
        """A prediction or an error for each of some texts, which stand at `rows` of the caller's."""
        return await each(functools.partial(self._request, call=call), texts, rows)

    async def _request(self, texts: Sequence[str], rows: Sequence[int], call: Call) -> list[Prediction]:
        model = self._model or await self._served_model(call)
        request = protocol.infer_request(self.config.model, texts, max_length=call.max_length, rows=rows)
        response = await self._rpc("ModelInfer", request, call, rows=rows)
        try:
            return protocol.read_predictions(response, len(texts), model, call.max_length)
        except UnexpectedAnswerError:
            self._model = None  # perhaps another model by now; the next call asks
            raise

    async def texts_per_request(self, call: Call) -> int:
        """Texts in one request at most."""
        largest = (await self._served_model(call)).max_batch_size
        return min(largest, self.config.max_texts_per_request or largest)

    async def _served_model(self, call: Call) -> ModelInfo:
        if self._model is None:
            name = self.config.model
            config = (await self._rpc("ModelConfig", protocol.config_request(name), call)).config
            max_length = protocol.read_max_length(config)
            parameters = protocol.read_parameters(config)
            for step in protocol.step_models(config):
                if max_length is None:
                    step_config = (await self._rpc("ModelConfig", protocol.config_request(step), call)).config
                    max_length = protocol.read_max_length(step_config)
            labels = protocol.read_labels(await self._rpc("ModelInfer", protocol.labels_request(name), call))
            metadata = await self._rpc("ModelMetadata", protocol.metadata_request(name), call)
            server = await self._rpc("ServerMetadata", protocol.server_request(), call)
            self._model = ModelInfo(
                name=name,
                versions=tuple(metadata.versions),
                labels=labels,
                positive_label=protocol.read_positive_label(config, labels, self.config.positive_label),
                **{name: parameters.get(name) for name in MEANING},
                max_batch_size=max(1, config.max_batch_size),
                max_length=max_length,
                server=f"{server.name} {server.version}",
            )
            _log.debug("%s serves %s", self._transport.url, self._model)
        return self._model
