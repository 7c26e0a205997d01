"""The command `prepare`: any Hugging Face text classifier becomes a checked model repository."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rejection_server.commands import command, installing
from rejection_server.names import DEFAULT, classifier_name, classifiers_in
from rejection_server.prepare.quiet import only_our_words
from rejection_server.wording import one_line

__all__ = ["main"]

DESCRIPTION = """\
Turn a text classifier in Hugging Face format into a model repository for Triton, and prove that it answers like the
original.

The model is fetched (or read from a folder), exported to ONNX if it is not ONNX already, brought into the form that is
served, started on an embedded Triton, and asked some 300 texts over gRPC. Only if it answers as transformers' own
pipeline does is the repository written, whole and at once.
"""

EPILOG = """\
examples:
  {prepare} protectai/distilroberta-base-rejection-v1 --output build/rejection
      then: {serve} --repository build/rejection
  {prepare} ./my-classifier --output build/mine --precision fp32
      a folder with config.json, model.safetensors and tokenizer.json
  {prepare} ./my-newer-classifier --output build/mine --version 2
      beside version 1; rejection-server reload has it answer in a server that runs
  {prepare} unitary/toxic-bert --name toxicity --add-to build/mine
      one more classifier for the same server, which callers ask for as toxicity

environment:
  HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and the hub client's other variables are respected

exit status:
  0 if the repository was written; 1 if not, and then nothing has changed; 2 for a wrong option
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(sys.argv[1:] if arguments is None else list(arguments))
    if options.engine == "tensorrt" and options.device == "cpu":
        parser.error("--engine tensorrt is for a GPU: leave out either it or --device cpu")
    logging.basicConfig(level=logging.INFO if options.verbose else logging.CRITICAL, format="%(message)s")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        with only_our_words(verbose=options.verbose):
            return _prepare(options)
    except _StoppedError as exc:
        print(f"\n{command('prepare')}: interrupted; nothing was written", file=sys.stderr)
        return 128 + exc.number


class _StoppedError(BaseException):
    """A signal asked for the end; what was begun is cleaned away on its way up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _frame: FrameType | None) -> None:
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)  # once is enough; the cleaning must not be cut short
    raise _StoppedError(number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command("prepare"),
        description=DESCRIPTION,
        epilog=EPILOG.format(prepare=command("prepare"), serve=command("serve")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="id on the Hugging Face hub (name/model), or a folder")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--output", type=Path, metavar="FOLDER", help="where the repository goes")
    place.add_argument(
        "--add-to",
        type=Path,
        metavar="FOLDER",
        help="a repository to which the classifier is added, under a --name that none in it has",
    )
    parser.add_argument(
        "--name", type=_name, default=DEFAULT, help="what callers call the classifier (default: %(default)s)"
    )
    parser.add_argument("--revision", metavar="COMMIT", help="commit, branch or tag on the hub (default: main)")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "fp16", "int8"),
        default="auto",
        help="of the weights; auto is int8 on a CPU and fp16 on a GPU; both give way to fp32 if not good enough",
    )
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), help="what the repository is for (default: cpu, gpu with --engine tensorrt)"
    )
    parser.add_argument(
        "--engine",
        choices=("onnxruntime", "tensorrt"),
        default="onnxruntime",
        help="what runs the model; tensorrt is for --device gpu, and the server builds the engine on its GPU when it "
        "first starts (default: %(default)s)",
    )
    parser.add_argument(
        "--max-length",
        type=_positive,
        metavar="TOKENS",
        help="longest text, special tokens included (default: what the model takes, at most 2048)",
    )
    parser.add_argument(
        "--version",
        type=_positive,
        metavar="N",
        help="add the model as version N to the repository that is already there",
    )
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="texts to compare on, at least 200: one a line, or *.jsonl with a field text (default: a bundled sample)",
    )
    parser.add_argument(
        "--positive-label",
        metavar="NAME",
        help="the label that callers look for, such as a refusal (default: REJECTION, if the model has it)",
    )
    parser.add_argument(
        "--min-agreement",
        type=_share,
        metavar="SHARE",
        help="smallest share of texts with the same label, 0 to 1 (default: 1; int8 0.995)",
    )
    parser.add_argument(
        "--max-difference",
        type=_share,
        metavar="P",
        help="largest difference of a probability (default: fp32 1e-4, fp16 1e-2, int8 any)",
    )
    parser.add_argument(
        "--max-mean-difference",
        type=_share,
        metavar="P",
        help="largest mean difference of the probabilities (default: fp32 1e-4, fp16 and int8 1e-2)",
    )
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read weights from a pickle (pytorch_model.bin), which its author could have made run code here",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show what the libraries and Triton say, and where an error comes from"
    )
    return parser


def _name(text: str) -> str:
    try:
        return classifier_name(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from exc
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from exc
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _prepare(arguments: argparse.Namespace) -> int:
    try:
        # Only now: help and wrong options are answered before anything is installed.
        from rejection_server.prepare import gate, pipeline
        from rejection_server.prepare.errors import PrepareError, UnexpectedError
        from rejection_server.prepare.memory import PeakMemory
        from rejection_server.prepare.options import Options
    except ImportError as exc:
        print(
            f"{command('prepare')}: the Python package {exc.name} is not installed in {sys.prefix}: "
            f"{installing('prepare')} installs what is needed",
            file=sys.stderr,
        )
        return 1
    options = Options(
        model=arguments.model,
        output=arguments.output or arguments.add_to,
        name=arguments.name,
        adds=arguments.output is None,
        revision=arguments.revision,
        precision=arguments.precision,
        device=arguments.device or ("gpu" if arguments.engine == "tensorrt" else "cpu"),
        engine=arguments.engine,
        texts=arguments.texts,
        max_length=arguments.max_length,
        version=arguments.version,
        positive_label=arguments.positive_label,
        allow_pickle=arguments.allow_pickle,
        agreement=arguments.min_agreement,
        largest=arguments.max_difference,
        mean=arguments.max_mean_difference,
    )
    is_further = options.adds_version
    begin = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - begin:5.1f} s] {line}", file=sys.stderr, flush=True)

    try:
        with PeakMemory(os.getpid()) as memory:
            prepared = pipeline.prepare(options, report)
    except Exception as exc:
        logging.getLogger(__name__).info("where it comes from:", exc_info=True)
        known = (
            exc
            if isinstance(exc, PrepareError)
            else UnexpectedError("prepare", f"{type(exc).__name__}: {one_line(exc)}")
        )
        print(f"{command('prepare')}: {known}", file=sys.stderr)
        return 1
    print(f"\n{prepared.precision} against the original, as served:\n\n{gate.table(prepared.figures)}\n")
    print(f"Written to {prepared.output}, version {prepared.version} of {options.name}.")
    print(f"Took {time.monotonic() - begin:.0f} s and at most {memory.peak_bytes / 1e9:.2f} GB of memory.")
    if options.device == "gpu":
        print(
            "The comparison ran on this machine's processor; for one on the GPU its texts and answers are in gate.npz."
        )
    device = " --device gpu" if options.device == "gpu" else ""
    if is_further:
        model = f" --model {options.name}" if len(classifiers_in(options.output)) > 1 else ""
        print(f"Have it answer in a server that runs:  {command('reload')}{model}")
    print(f"Serve it:  {command('serve')}{device} --repository {shlex.quote(str(prepared.output))}", flush=True)
    return 0
