"""The command `scripts/carry`: what `scripts/bench gpu` needs, for a GPU machine that reaches no network.

Standard library only: on that machine nothing is installed yet.
"""

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
LARGEST_PIECE_MIB = 60
MANIFEST = "manifest.json"
SOURCE = "source.tar"
PYTHONS = ("3.11", "3.12", "3.13")
"""Those that the server runs on."""
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
"""Of the wheels, down from the C library that Triton's needs: for another machine pip takes those that are named."""

EPILOG = """where there is a network:
  scripts/carry pack build/carry --python 3.12
      wheels by the hashes of requirements.lock and this checkout's last commit, cut into build/carry/pieces
then carry the folder pieces over, file by file if need be, and there:
  python3 pieces/carry.py unpack pieces --into /srv/bench
      checks and joins what has come; what is missing or damaged is named, and the next call goes on from there

PyTorch is not among them: its builds differ by machine, so the one that is there is used (or add it by hand). Both
commands may be stopped and called again: what is there and whole is not made again."""


class CarryError(Exception):
    """What cannot be carried; the message is one sentence."""


@dataclass(frozen=True)
class Piece:
    """A part of a file."""

    name: str
    size: int
    sha256: str


def pack(folder: Path, *, kind: str, python: str, piece_bytes: int, commit: str = "HEAD") -> int:
    """Write wheels and source into `folder`, and their pieces into `folder`/pieces; returns how many pieces there are.

    Raises CarryError.
    """
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    _tell(f"fetching the wheels of the kind {kind} for Python {python}")
    _download(files, kind, python)
    archive = ["git", "-C", str(ROOT), "archive", f"--output={files / SOURCE}", commit]
    if subprocess.run(archive, check=False).returncode:
        raise CarryError(f"git cannot pack {commit} of {ROOT}: see above")
    pieces = folder / "pieces"
    count = cut(sorted(files.iterdir()), pieces, piece_bytes)
    (pieces / "carry.py").write_bytes(Path(__file__).read_bytes())
    return count


def cut(files: Sequence[Path], pieces: Path, piece_bytes: int) -> int:
    """Cut files into pieces of at most so many bytes, with a list of them; pieces that are there are kept."""
    pieces.mkdir(parents=True, exist_ok=True)
    listed: dict[str, list[dict[str, object]]] = {}
    for file in files:
        parts = []
        for number, content in enumerate(_blocks(file, piece_bytes)):
            piece = Piece(f"{file.name}.{number:03d}", len(content), hashlib.sha256(content).hexdigest())
            if _fault(pieces, piece):
                _write(pieces / piece.name, content)
                _tell(f"{piece.name}: {piece.size / MIB:.1f} MiB")
            parts.append(asdict(piece))
        listed[file.name] = parts
    _write(pieces / MANIFEST, json.dumps(listed, indent=1).encode())
    kept = {part["name"] for parts in listed.values() for part in parts} | {MANIFEST, "carry.py"}
    for stale in [path for path in pieces.iterdir() if path.name not in kept]:
        stale.unlink()
    return len(kept) - 2


def join(pieces: Path, into: Path) -> tuple[list[Path], list[str]]:
    """Put the files together whose pieces are all there and whole: these files, and what is wrong with other pieces.

    Raises CarryError where there is no list of pieces.
    """
    try:
        listed = json.loads((pieces / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise CarryError(f"{pieces} holds no readable {MANIFEST}: carry that file over first") from exc
    into.mkdir(parents=True, exist_ok=True)
    whole, faults = [], []
    for name, parts in listed.items():
        found = [Piece(**part) for part in parts]
        target = into / name
        if not target.exists():
            wrong = [fault for piece in found if (fault := _fault(pieces, piece))]
            if wrong:
                faults += wrong
                continue
            part = target.with_name(f"{name}.part")
            with part.open("wb") as file:
                for piece in found:
                    file.write((pieces / piece.name).read_bytes())
            part.replace(target)
        whole.append(target)
    return whole, faults


def unpack(pieces: Path, into: Path) -> str:
    """Join all pieces and unpack the source; returns the commands that run the benchmark. Raises CarryError."""
    whole, faults = join(pieces, into / "files")
    if faults:
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise CarryError(f"{len(faults)} pieces have not come whole, carry them again: {', '.join(faults[:10])}{more}")
    source = into / "source"
    source.mkdir(exist_ok=True)
    if subprocess.run(["tar", "-xf", str(into / "files" / SOURCE), "-C", str(source)], check=False).returncode:
        raise CarryError(f"{into / 'files' / SOURCE} cannot be unpacked: see above")
    wheels = [shlex.quote(str(path)) for path in whole if path.suffix == ".whl"]
    venv = shlex.quote(str(into / "venv"))
    return "\n".join(
        [
            f"python3 -m venv --system-site-packages {venv}",
            f"{venv}/bin/pip install --no-index --no-deps {' '.join(wheels)}",
            f"cd {shlex.quote(str(source))} && PYTHONPATH=server:client:. {venv}/bin/python -m bench gpu",
        ]
    )


def _download(files: Path, kind: str, python: str) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    from _environment import requirements  # type: ignore[import-not-found]  # the lock's own reader, which no package holds

    try:
        wanted = requirements(kind)
    except KeyError as exc:
        raise CarryError(str(exc.args[0])) from exc
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write(wanted)
        listed.flush()
        asked = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
        asked += [f"--requirement={listed.name}", f"--dest={files}", f"--python-version={python}"]
        asked += [f"--platform={platform}" for platform in PLATFORMS]
        if subprocess.run(asked, stdout=sys.stderr, check=False).returncode:
            raise CarryError("the wheels could not be fetched, pip says above why: call it again to go on")


def _blocks(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(size):
            yield block


def _fault(pieces: Path, piece: Piece) -> str:
    """What is wrong with a piece that should be there, or nothing."""
    path = pieces / piece.name
    if not path.exists():
        return f"{piece.name} is missing"
    if path.stat().st_size != piece.size or hashlib.sha256(path.read_bytes()).hexdigest() != piece.sha256:
        return f"{piece.name} is damaged"
    return ""


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _tell(line: str) -> None:
    sys.stderr.write(f"scripts/carry: {line}\n")


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog="scripts/carry",
        description="Bring scripts/bench gpu to a machine that reaches no network: in pieces, resumable.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = result.add_subparsers(dest="command", metavar="COMMAND", required=True)
    packing = commands.add_parser("pack", help="fetch wheels, pack the source, cut both into pieces")
    packing.add_argument("folder", type=Path, metavar="FOLDER", help="where all of it goes")
    told = f"Python there: {', '.join(PYTHONS)} (default: %(default)s)"
    packing.add_argument("--python", default="3.12", choices=PYTHONS, metavar="X.Y", help=told)
    packing.add_argument("--kind", default="bench-gpu", help="environment of requirements.lock (default: %(default)s)")
    packing.add_argument("--commit", default="HEAD", help="what of this checkout to pack (default: %(default)s)")
    size = "largest piece (default: %(default)s)"
    packing.add_argument("--piece-mib", type=int, default=LARGEST_PIECE_MIB, metavar="N", help=size)
    unpacking = commands.add_parser("unpack", help="check and join the pieces that have come")
    unpacking.add_argument("pieces", type=Path, metavar="PIECES", help="folder with the pieces")
    unpacking.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="where files and source go")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 if something is missing."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "unpack":
            sys.stdout.write(f"All is there. To measure:\n{unpack(options.pieces, options.into.absolute())}\n")
            return 0
        if options.piece_mib < 1:
            raise CarryError(f"--piece-mib {options.piece_mib} is too little: give 1 or more")
        size = options.piece_mib * MIB
        count = pack(options.folder, kind=options.kind, python=options.python, piece_bytes=size, commit=options.commit)
    except CarryError as exc:
        _tell(str(exc))
        return 1
    except OSError as exc:
        _tell(f"{exc.filename or 'a file'} cannot be read or written ({exc.strerror})")
        return 1
    except KeyboardInterrupt:
        _tell("interrupted: call it again to go on")
        return 130
    sys.stdout.write(f"{count} pieces in {options.folder / 'pieces'}: carry that folder over; see --help\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
