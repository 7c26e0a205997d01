"""Tables, written once and shown anywhere: aligned text for a terminal, Markdown for documents, HTML for reports."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Marked:
    """A cell that HTML shows as good or bad."""

    text: str
    kind: Literal["good", "bad"]

    def __str__(self) -> str:
        """Its text, for where there is no colour."""
        return self.text


@dataclass(frozen=True)
class Table:
    """Cells are shown as `str` has them, None as an empty cell."""

    heads: Sequence[str]
    """All empty for a table without a head."""
    rows: Sequence[Sequence[object]]
    words: Collection[int] = (0,)
    """Columns set to the left; the others hold numbers, set to the right."""

    def text(self) -> str:
        """Columns aligned with spaces, lines without trailing ones."""
        lines = [
            *([list(self.heads)] if any(self.heads) else []),
            *([_shown(cell) for cell in row] for row in self.rows),
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if number in self.words else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def markdown(self) -> str:
        """With a ruler that aligns."""
        ruler = ["---" if number in self.words else "---:" for number in range(len(self.heads))]
        lines = [self.heads, ruler, *self.rows]
        return "\n".join("| " + " | ".join(_shown(cell).replace("|", "\\|") for cell in row) + " |" for row in lines)

    def html(self) -> str:
        """A table element; text is escaped, its line ends become breaks, numbers have the class `n`."""
        head = [self._row("th", self.heads)] if any(self.heads) else []
        return f"<table>{''.join([*head, *(self._row('td', row) for row in self.rows)])}</table>"

    def _row(self, tag: str, row: Iterable[object]) -> str:
        cells = (
            f"<{tag}{'' if number in self.words else ' class=n'}>{_markup(cell)}</{tag}>"
            for number, cell in enumerate(row)
        )
        return f"<tr>{''.join(cells)}</tr>"


def ms(value: float | None) -> str:
    """A cell with a latency as a person reads it."""
    if value is None:
        return "-"
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def percent(value: float | None, form: str = ".2g") -> str:
    """A cell with a share in percent."""
    return "-" if value is None else f"{value:{form}}%"


def _shown(cell: object) -> str:
    return "" if cell is None else str(cell)


def _markup(cell: object) -> str:
    escaped = html.escape(_shown(cell)).replace("\n", "<br>")
    return f'<span class="{cell.kind}">{escaped}</span>' if isinstance(cell, Marked) else escaped
