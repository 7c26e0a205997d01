"""Broken model folders, each given to the command `prepare`: it must end with a repository, or with one sentence.

python -m faults.prepare_fuzz --folders 500 --seed 1

Most run in this process; in the place of Triton the written graph is asked, and what was exported once is remembered.
Some go through the command as a person runs it, with nothing in the place of anything (--command-every).
"""

import argparse
import collections
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import onnxruntime

from faults import folders, remembered
from rejection_server.commands import command
from rejection_server.names import Names
from rejection_server.onnx_backend.token_ids import TokenIds
from rejection_server.prepare import case, cli, isolated, served
from rejection_server.prepare.answers import Answers
from rejection_server.prepare.tokenizer import tokens_as_served

LONGEST_S = 600
LONGEST_SENTENCE = 900
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Statuses of a run that was stopped by the person who runs the fuzzer."""
PROGRESS = re.compile(r"\[ *\d+\.\d s\] ")
NOT_FOR_A_PERSON = {
    "traceback": re.compile(r"Traceback|^ *File \"", re.MULTILINE),
    "escape codes": re.compile(r"[\x00-\x09\x0b-\x1f\x7f]"),
    "unforeseen": re.compile("this is a fault of rejection-server"),
    "memory": re.compile("memory ran out"),
}


@dataclass(frozen=True)
class Ended:
    """How one run of the command ended."""

    broken: folders.Broken
    status: int
    seconds: float
    last: str
    """The sentence, or the last line of progress."""
    findings: tuple[str, ...]
    """What is wrong with that."""
    by_command: bool
    """Whether it was the command itself."""


class _HangError(BaseException):
    pass


def without_server(repository: Path, names: Names, texts: Sequence[str]) -> Answers:
    """What the repository's files answer: the server adds nothing to what is looked at here but time."""
    session = onnxruntime.InferenceSession(str(next(repository.glob(f"{names.classifier}/*/model.onnx"))))
    accepted = TokenIds.of(session.get_modelmeta().custom_metadata_map)
    assert accepted is not None
    tokenizer_json = repository / names.tokenizer / "1" / "tokenizer.json"
    rows, counts = tokens_as_served(tokenizer_json, texts, accepted.longest_row)
    answers = []
    for row in rows:
        feed = {"input_ids": np.asarray(row, np.int64), "sequence_lengths": np.asarray([[len(row)]], np.int32)}
        answers.append(session.run(["logits", "probabilities"], feed))
    logits, scores = (np.concatenate(parts).astype(np.float64) for parts in zip(*answers, strict=True))
    labels = (repository / names.public / "labels.txt").read_text(encoding="utf-8").splitlines()
    return Answers(tuple(labels), tuple(rows), tuple(counts), logits, scores)


def run(broken: folders.Broken, folder: Path, output: Path, *, by_command: bool = False) -> Ended:
    """Prepare the folder, by the command or as the command does in this process."""
    arguments = [str(folder), "--output", str(output), "--precision", "fp32"]
    arguments += ["--allow-pickle"] if broken.allow_pickle else []
    begin = time.monotonic()
    status, told, said = (_commanded if by_command else _called)(arguments)
    lines = said.splitlines()
    findings = tuple(_findings(status, said, told, output, folder))
    seconds = round(time.monotonic() - begin, 1)
    return Ended(broken, status, seconds, lines[-1] if lines else "", findings, by_command)


def _commanded(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Status, standard output and standard error of the command; its status is -1 if it had no end."""
    prepare = [sys.executable, "-m", "rejection_server", "prepare", *arguments]
    try:
        done = subprocess.run(prepare, capture_output=True, text=True, check=False, timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        return -1, "", ""
    return done.returncode, done.stdout, done.stderr


def _called(arguments: Sequence[str]) -> tuple[int, str, str]:
    """The same of the command's function in this process."""
    told, said = io.StringIO(), io.StringIO()
    with _streams(told, said):
        signal.signal(signal.SIGALRM, _hang)
        signal.alarm(LONGEST_S)
        try:
            status = cli.main(arguments)
        except _HangError:
            status = -1
        except SystemExit as exc:
            status = int(exc.code or 0)
        finally:
            signal.alarm(0)
    return status, told.getvalue(), said.getvalue()


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise _HangError


@contextlib.contextmanager
def _streams(*taken: io.StringIO) -> Iterator[None]:
    """Takes what this process and its children write to standard output and standard error."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        files = (out, err)
        kept = sys.stdout, sys.stderr, os.dup(1), os.dup(2)
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = files
        try:
            yield
        finally:
            sys.stdout, sys.stderr = kept[:2]
            for number, before in enumerate(kept[2:], 1):
                os.dup2(before, number)
                os.close(before)
            for file, text in zip(files, taken, strict=True):
                file.flush()
                file.seek(0)
                text.write(file.read())


def _findings(status: int, said: str, told: str, output: Path, folder: Path) -> Iterator[str]:
    if status not in (0, 1):
        yield f"status {status}"
    yield from (name for name, pattern in NOT_FOR_A_PERSON.items() if pattern.search(said))
    words = [line for line in said.split("\n") if line and not PROGRESS.match(line)]
    is_whole = (output / "classifier" / "1" / "model.json").is_file()
    if (status == 0) != is_whole:
        yield "no repository" if status == 0 else "a repository that is not whole"
    if status == 0 and words:
        yield "words beside a repository"
    if status == 1 and (not words or not words[0].startswith(f"{command('prepare')}: ")):
        yield "no sentence"
    if status == 1 and told:
        yield "words on standard output"
    table = [line for line in words[1:] if not line.startswith("| ")]
    if status == 1 and table:
        yield "more than a sentence"
    if words and len(words[0]) > LONGEST_SENTENCE:
        yield "a long sentence"
    if [path for path in output.parent.iterdir() if path not in (output, folder)]:
        yield "files left behind"
    if (folder / "was run").exists():
        yield "code was run"


def fuzz(numbers: Iterable[int], seed: int, work: Path, command_every: int) -> Iterator[Ended]:
    """Prepare the folders of these numbers, one after the other."""
    bases = folders.make_bases(work / "bases")
    # Each step's process runs this file anew, and all that it imports.
    isolated.PRELOADED += (folders.__name__, remembered.__name__)
    served.ask = without_server
    vars(case)["export"] = remembered.export  # it is no name that others may take from there
    os.environ[remembered.PLACE] = str(work / "exports")
    (work / "exports").mkdir()
    for number in numbers:
        place = work / "run"
        place.mkdir()
        broken = folders.make(seed, number, bases, place / "model")
        by_command = number % command_every == command_every - 1
        yield run(broken, place / "model", place / "served", by_command=by_command)
        shutil.rmtree(place)


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m faults.prepare_fuzz", description=__doc__, allow_abbrev=False)
    parser.add_argument("--folders", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--command-every", type=int, default=50, metavar="N", help="each Nth runs as a person runs it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every run, one a line; goes on where it ends")
    options = parser.parse_args()
    done = [json.loads(line) for line in options.json.open()] if options.json and options.json.exists() else []
    counted = collections.Counter(kind for one in done for kind in _kinds(one["status"], one["findings"]))
    wanted = range(options.first, options.first + options.folders)
    left = sorted(set(wanted) - {one["broken"]["number"] for one in done})
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as stack:
        lines = stack.enter_context(options.json.open("a", encoding="utf-8", buffering=1)) if options.json else None
        for ended in fuzz(left, options.seed, Path(work), options.command_every):
            if ended.status in STOPPED:
                return ended.status
            counted.update(_kinds(ended.status, ended.findings))
            if lines:
                lines.write(json.dumps(asdict(ended), ensure_ascii=False) + "\n")
            if ended.findings:
                sys.stdout.write(f"{ended.broken}: {', '.join(ended.findings)}: {ended.last[:400]}" + "\n")
    sys.stdout.write(", ".join(f"{name} {count}" for name, count in counted.most_common()) + "\n")
    return 0 if counted.keys() <= {"repository", "sentence"} else 1


def _kinds(status: int, findings: Sequence[str]) -> Sequence[str]:
    return findings or ["repository" if status == 0 else "sentence"]


if __name__ == "__main__":
    sys.exit(main())
