"""Pieces of the report's HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence


def section(title: str, content: str) -> str:
    """Markup under a heading."""
    return f"<h2>{title}</h2>{content}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Rows of markup; the columns `numbers` are set to the right. No head if all of `heads` are empty."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if number in numbers else ''}>{cell}</{tag}>" for number, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    head = f"<tr>{row(heads, 'th')}</tr>" if any(heads) else ""
    return f"<table>{head}{body}</table>"


def text(value: object) -> str:
    """Any value as text that markup in it cannot break."""
    return html.escape(str(value))
