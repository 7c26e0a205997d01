"""Going on where an earlier run into the same file was stopped: its rows have to be those of the input."""

import json
from collections.abc import Iterator

from rejection_client._files import Written, looks_cut
from rejection_client._output import Csv, JsonLines
from rejection_client._prediction import ModelInfo, Prediction
from rejection_client._rows import InputError, Row

_OTHER = "name another --output-file, or delete it"


def skip_written(
    path: str, output: JsonLines[Prediction] | Csv[Prediction], rows: Iterator[Row], model: ModelInfo
) -> tuple[int, int]:
    """Take the rows from `rows` that the file has, in step with its records, and let `output` go on after them.

    Returns their number, and where the file's whole records end. Raises InputError for a file that is not of this
    input, in this form, of a model with these labels; OSError.
    """
    written = Written(path, is_csv=isinstance(output, Csv))
    records = written.records()
    header = next(records, None) if isinstance(output, Csv) else None
    if isinstance(output, Csv) and header is not None and not output.adopt_header(header.decode("utf-8", "replace")):
        raise InputError(f"{path} has other columns than this run writes; {_OTHER}")
    count = 0
    last_found: bytes | None = None
    for count, record in enumerate(records, 1):
        row = next(rows, None)
        if row is None:
            raise InputError(f"{path} has more rows than the input, which has {count - 1:,}; {_OTHER}")
        expected = _raw(output.begins(row))
        if not record.startswith(expected):
            raise InputError(f"{path} does not belong to this input: its row {count:,} is not {row.place}; {_OTHER}")
        last_found = record if record.startswith(b'"label"', len(expected)) else last_found
    if last_found is not None and isinstance(output, JsonLines):
        labels = list(json.loads(last_found).get("scores", ()))
        if labels != list(model.labels):
            raise InputError(
                f"{path} holds scores of {', '.join(labels)}, and the model has {', '.join(model.labels)}; {_OTHER}"
            )
    if count:
        return count, written.end
    if header is None and not looks_cut(written.rest, path):
        raise InputError(f"{path} holds no results of this command; {_OTHER}")
    if isinstance(output, Csv):
        output.forget_header()  # nothing says yet that it is that of this input
    return 0, 0


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
