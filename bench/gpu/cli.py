"""The command `scripts/bench gpu`."""

import argparse
import datetime
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.gpu.plan import NEEDED, SECTIONS, GpuSettings
from bench.settings import BUILD, ROOT

if TYPE_CHECKING:
    from bench.gpu.results import Section

EPILOG = """examples:
  scripts/bench gpu                            all of it, ten minutes
  scripts/bench gpu --sections served          again behind Triton alone, with the graphs of the last run
  scripts/bench gpu --dry                      on the processor, with a tiny model: does it run at all

It needs a GPU, its driver, onnxruntime-gpu in the place of onnxruntime, and PyTorch. The checkpoint has the shape of
DistilRoBERTa (82 million parameters) and random weights from a seed; its graphs are compared with PyTorch in float32
before anything is timed. What is measured is on disk as soon as it is there. scripts/carry brings all of it to a
machine without a network."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog="scripts/bench gpu",
        description="Measure the served graphs on the GPU of this machine: are they right, tokens a second alone and "
        "beside PyTorch, and behind Triton, where the processor's share is told, too. Writes result.json and page.md.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--sections", type=_sections, metavar="A,B", help=f"of {', '.join(SECTIONS)} (all)")
    result.add_argument("--graphs", type=_names, default=(), metavar="A,B", help="graphs, the first in full (all)")
    layouts = "tokenizer processes and classifier instances behind Triton (a choice)"
    result.add_argument("--layouts", type=_layouts, default=(), metavar="NxN,NxN", help=layouts)
    tei = "beside it, a Text Embeddings Inference that serves the same checkpoint (WORK/checkpoint), such as http://host:80"
    result.add_argument("--tei", default="", metavar="URL", help=tei)
    result.add_argument("--dry", action="store_true", help="on the processor, with a tiny model, in a minute")
    result.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="how long all takes, beside the usual (1)"
    )
    docs = "measure nothing: write the GPU's tables of docs/benchmarks.md from these results, or from those it has"
    result.add_argument("--docs", type=Path, nargs="*", metavar="RESULT", help=docs)
    result.add_argument("--output", type=Path, metavar="FOLDER", help="where results go (build/bench/results/gpu-DATE)")
    result.add_argument("--work", type=Path, metavar="FOLDER", help="checkpoint and graphs (build/bench/gpu)")
    return result


def main(arguments: Sequence[str]) -> int:
    """Run the command; 1 if anything failed."""
    options = parser().parse_args(arguments)
    if options.docs is not None:
        from bench.gpu import docs

        sys.stdout.write(f"Written: {docs.write(options.docs, ROOT / 'docs' / 'benchmarks.md')}\n")
        return 0
    work = options.work or BUILD / ("gpu-dry" if options.dry else "gpu")
    sections = options.sections or tuple(name for name in SECTIONS if name != "tei" or options.tei)
    if "tei" in sections and not options.tei:
        parser().error("the section tei needs --tei URL")
    settings = GpuSettings(
        work.absolute(), options.dry, sections, options.graphs, options.scale, options.layouts, options.tei
    )
    work.mkdir(parents=True, exist_ok=True)
    date = datetime.datetime.now(datetime.UTC)
    output = options.output or BUILD / "results" / date.strftime("gpu-%Y-%m-%d-%H%M%S")

    from bench import machine
    from bench.gpu import page
    from bench.gpu.results import Results, run

    facts = {"date": date.isoformat(timespec="seconds"), "commit": machine.commit(), "dry": settings.dry}
    results = Results(output / "result.json", facts)
    good = True
    try:
        for section in settings.sections:
            done = run(section, _function(section), settings, results)
            good = good and done
            if section in NEEDED and not done:
                break
    finally:
        text = page.text(results)
        (output / "page.md").write_text(text, encoding="utf-8")
        sys.stdout.write(f"\n{text}\nFigures: {output / 'result.json'}\n")
        sys.stdout.flush()
    return 0 if good else 1


def _function(section: str) -> "Section":
    """What a section runs; imported one by one, because not every section needs all that others do."""
    module, name = {
        "preflight": ("preflight", "check"),
        "graphs": ("graphs", "make"),
        "gate": ("sections", "gate"),
        "onnxruntime": ("sections", "raw"),
        "torch": ("sections", "beside_torch"),
        "served": ("served", "measure"),
        "tei": ("tei", "measure"),
    }[section]
    found: Section = getattr(importlib.import_module(f"bench.gpu.{module}"), name)
    return found


def _sections(text: str) -> tuple[str, ...]:
    given = _names(text)
    for name in given:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"there is no section {name}: choose from {', '.join(SECTIONS)}")
    return given


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _layouts(text: str) -> tuple[tuple[int, int], ...]:
    found = [re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", name) for name in _names(text)]
    if None in found:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of layouts such as 6x2,6x4")
    return tuple((int(match[1]), int(match[2])) for match in found if match)
