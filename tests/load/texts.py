"""Files of texts, for the load tests and the benchmark: a text a line, or JSON lines with the field `text`."""

from __future__ import annotations

import json
from pathlib import Path


def read(path: Path) -> list[str]:
    """Texts of a file: JSON lines with `text` where the name ends in .jsonl, else a text a line; blank ones are none.

    Raises ValueError, with a sentence, for a file that cannot be read or holds no texts.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        texts = [json.loads(line)["text"] for line in lines] if path.suffix == ".jsonl" else lines
    except OSError as exc:
        raise ValueError(f"the texts {path} cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ValueError(f'the texts {path} are not UTF-8 JSON lines with a field "text": {exc}') from exc
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f'the texts {path} hold no texts: a text a line, or JSON lines with a field "text"')
    return texts
