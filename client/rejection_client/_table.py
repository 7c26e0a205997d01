"""The table that the command writes, and what it is made of."""

import textwrap
import unicodedata
from collections.abc import Sequence

from rejection_client._output import Style
from rejection_client._prediction import DocumentPrediction, Prediction
from rejection_client._rows import Row

TEXT_COLUMNS = 20
"""Of a table, at least."""
SPAN_COLUMNS = 16
"""Before each line of a document's table."""


class Table:
    """Lines of a table, after a header; a star after the count of a truncated text.

    Two labels that exclude each other need one column of scores, others one each; where that makes the table too wide,
    the scores stand below each text, best first. `is_brief` leaves all but the positive label's out.
    """

    def __init__(self, style: Style, *, is_brief: bool = False) -> None:
        self._model, self._threshold, self._width = model, _, width = style
        self._label_width = max(5, *map(len, model.labels))
        positive = model.positive_label
        one_says_all = is_brief or (len(model.labels) == 2 and model.function_to_apply == "softmax")
        shown = [positive] if positive is not None and one_says_all else list(model.labels)
        self._unit = "P" if model.has_probabilities else "SCORE"
        columns = {label: max(8, len(f"{self._unit}({label})")) for label in shown}
        is_narrow = self._label_width + sum(2 + size for size in columns.values()) + 10 + TEXT_COLUMNS <= width
        self._columns = columns if is_narrow or one_says_all else {}
        self._header_written = False

    def found(self, row: Row, prediction: Prediction) -> str:
        """The lines of a row that was classified."""
        label = prediction.label
        if self._model.is_multi_label:
            label = ", ".join(prediction.labels_above(self._threshold)) or "-"
        cells = [f"{prediction.scores[name]:>{size}.4f}" for name, size in self._columns.items()]
        count = f"{prediction.token_count:>6}{'*' if prediction.truncated else ' '}"
        return self._line(label, cells, count, row.text) + ("" if self._columns else self._scores(prediction))

    def failed(self, row: Row, error: str) -> str:  # noqa: ARG002  # its text is not shown
        """The line of a row that was not."""
        return self._line("ERROR", [" " * size for size in self._columns.values()], " " * 7, error)

    def end(self) -> str:
        """Nothing."""
        return ""

    def _line(self, label: str, cells: Sequence[str], count: str, text: str) -> str:
        header = ""
        if not self._header_written:
            self._header_written = True
            titles = [f"{f'{self._unit}({name})':>{size}}" for name, size in self._columns.items()]
            header = "  ".join([f"{'LABEL':<{self._label_width}}", *titles, "TOKENS", "TEXT"]) + "\n"
        start = "  ".join([f"{label:<{self._label_width}}", *cells, count]) + " "
        return f"{header}{start}{shorten(text, max(TEXT_COLUMNS, self._width - len(start)))}\n"

    def _scores(self, prediction: Prediction) -> str:
        best_first = sorted(prediction.scores.items(), key=lambda item: -item[1])
        told = [f"{self._unit}({label})\N{NO-BREAK SPACE}{score:.4f}" for label, score in best_first]
        lines = textwrap.wrap("  ".join(told), self._width, initial_indent="    ", subsequent_indent="    ")
        return "".join(f"{line}\n" for line in lines).replace("\N{NO-BREAK SPACE}", " ")


def document_table(text: str, answer: DocumentPrediction, style: Style) -> str:
    """A line for each part of a document in `answer.units`, else for the highest, with its characters in front."""
    units = answer.units or (answer.highest,)
    table = Table(style._replace(width=max(40, style.width - SPAN_COLUMNS)), is_brief=True)
    lines = "".join(table.found(Row(text[unit.start : unit.end], ""), unit.prediction) for unit in units).splitlines()
    spans = ["CHARACTERS", *(f"{unit.start}-{unit.end}" for unit in units)]
    return "".join(f"{span:>14}  {line}\n" for span, line in zip(spans, lines, strict=True))


def shorten(text: str, columns: int) -> str:
    """The text on one line of at most `columns` columns, without characters that would steer a terminal."""
    line = " ".join(text.split())[: columns + 1]
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)
    used = 0
    fits = 0
    for position, character in enumerate(line):
        used += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if used > columns:
            return line[:fits] + "\N{HORIZONTAL ELLIPSIS}"
        if used < columns:
            fits = position + 1
    return line
