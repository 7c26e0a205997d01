"""What the command writes where several models were asked: for each what would be written for it alone."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from rejection_client._output import Style, fields_of, found_columns
from rejection_client._prediction import Prediction, Result
from rejection_client._rows import Row
from rejection_client._table import TEXT_COLUMNS, shorten

Results = Mapping[str, Result]
"""By the name of the model."""

ERROR = "ERROR"


def fields_of_several(styles: Mapping[str, Style], results: Results) -> dict[str, Any]:
    """The fields by model; of one that failed its error."""
    return {
        "models": {
            name: {"error": one_line(result.error)}
            if result.prediction is None
            else fields_of(result.prediction, styles[name])
            for name, result in results.items()
        }
    }


def columns_of_several(styles: Mapping[str, Style]) -> dict[str, Callable[[Results], Any]]:
    """The columns of each model, with its name and a dot in front, and one for its error."""

    def value(name: str, value_of: Callable[[Prediction], Any], results: Results) -> Any:
        prediction = results[name].prediction
        return None if prediction is None else value_of(prediction)

    columns: dict[str, Callable[[Results], Any]] = {}
    for name, style in styles.items():
        for column, value_of in found_columns(style).items():
            columns[f"{name}.{column}"] = functools.partial(value, name, value_of)
        columns[f"{name}.error"] = functools.partial(_error, name)
    return columns


class SeveralTable:
    """A line for each text, after a header: by each model the best label, or those that hold, and the highest score."""

    def __init__(self, styles: Mapping[str, Style], width: int) -> None:
        self._styles = styles
        self._width = width
        self._label_widths = {
            name: max(len(name), len(ERROR), *map(len, style.model.labels)) for name, style in styles.items()
        }
        self._header_written = False

    def found(self, row: Row, results: Results) -> str:
        """The line of a row that was classified, by one of the models at least."""
        return self._line({name: self._cell(name, result) for name, result in results.items()}, row.text)

    def failed(self, row: Row, error: str) -> str:  # noqa: ARG002  # its text is not shown
        """The line of a row that was not."""
        return self._line(dict.fromkeys(self._styles, (ERROR, "")), error)

    def end(self) -> str:
        """Nothing."""
        return ""

    def _cell(self, name: str, result: Result) -> tuple[str, str]:
        prediction, style = result.prediction, self._styles[name]
        if prediction is None:
            return ERROR, ""
        label = prediction.label
        if style.model.is_multi_label:
            label = ", ".join(prediction.labels_above(style.threshold)) or "-"
        return label, f"{max(prediction.scores.values()):.4f}"

    def _line(self, cells: Mapping[str, tuple[str, str]], text: str) -> str:
        header = ""
        if not self._header_written:
            self._header_written = True
            header = self._start({name: (name.upper(), "P") for name in self._styles}) + "TEXT\n"
        start = self._start(cells)
        return f"{header}{start}{shorten(text, max(TEXT_COLUMNS, self._width - len(start)))}\n"

    def _start(self, cells: Mapping[str, tuple[str, str]]) -> str:
        return "".join(f"{label:<{self._label_widths[name]}}  {score:>7}  " for name, (label, score) in cells.items())


def one_line(error: Exception | None) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())


def _error(name: str, results: Results) -> str | None:
    error = results[name].error
    return None if error is None else one_line(error)
