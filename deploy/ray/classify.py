r"""Classify a table of texts from a Ray cluster: workers read parts of it, ask the servers, and write what they found.

On every machine of the cluster: pip install 'rejection-client[ray]'. Then, from any machine:

    ray job submit --working-dir deploy/ray -- python classify.py 's3://logs/answers/' s3://logs/scored/ \
        --column answer --url dns:///refusals-servers.default.svc:8001

Without a cluster the same command runs on this machine's cores: python deploy/ray/classify.py answers.parquet scored/.

1. Ray Data reads the table (Parquet, JSON lines or CSV, by its name) in blocks, more than memory holds.
2. `Classifier` runs in `--workers` processes, each with a client of its own. A worker waits more than it computes, so
   it reserves a quarter of a core; the servers are what needs cores.
3. Each row comes out with the columns that it had, `label`, a score for each label, `token_count`, `truncated` and
   `error`.

A row that fails is a row with its error. A server that restarts is waited for (`--outage`), or another one asked.
A worker that dies is started again by Ray, and its block asked for again: to classify twice changes nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Read when a cluster starts here: Ray would tell its makers of it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from rejection_client import ClientConfig, Prediction, RejectionClient, RejectionError, Tls

ROWS = 1024
"""Of a batch: enough that every request of a worker is full, few enough that a lost one costs little."""
CORES = 0.25
READY_S = 60.0


class Classifier:
    """One worker: a client with connections of its own."""

    def __init__(self, column: str, url: str, config: ClientConfig) -> None:
        self._column = column
        self._client = RejectionClient(url, config)
        self._client.wait_until_ready(READY_S)
        self._labels = self._client.model_info().labels

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The same rows with what was found beside them."""
        texts = rows.column(self._column).to_pylist()
        places = [place for place, text in enumerate(texts) if isinstance(text, str)]
        found: list[Prediction | None] = [None] * len(texts)
        errors: list[str | None] = ["there is no text"] * len(texts)
        for result in self._client.stream(texts[place] for place in places):
            place = places[result.index]
            found[place] = result.prediction
            errors[place] = str(result.error) if result.error else None
        columns = {
            "label": pa.array([one and one.label for one in found], pa.string()),
            **{label: pa.array([one and one.scores[label] for one in found], pa.float32()) for label in self._labels},
            "token_count": pa.array([one and one.token_count for one in found], pa.int32()),
            "truncated": pa.array([one and one.truncated for one in found], pa.bool_()),
            "error": pa.array(errors, pa.string()),
        }
        for name, values in columns.items():
            rows = rows.append_column(name, values)
        return rows


def parser() -> argparse.ArgumentParser:
    """The options."""
    lines = (__doc__ or "").splitlines()
    result = argparse.ArgumentParser(
        description=lines[0], epilog="\n".join(lines[2:]), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("table", help="a file, a folder or a pattern; .jsonl, .csv (either with .gz), else Parquet")
    add("output", help="a folder for Parquet files, empty or not there")
    add("--column", default="text", help="the column with the texts (text)")
    add("--url", default="127.0.0.1:8001", help="servers, or the door before them (127.0.0.1:8001)")
    add("--ca", type=Path, metavar="FILE", help="the authority of the servers' certificate; speaks TLS")
    add("--token-file", type=Path, metavar="FILE", help="a file with the token that the servers ask for")
    add("--workers", type=int, default=4, metavar="N", help="processes that ask the servers (4)")
    add("--outage", type=float, default=120.0, metavar="S", help="seconds to wait for a server that is gone (120)")
    return result


def read(table: str, column: str, added: set[str]) -> ray.data.Dataset:
    """The table; raises ValueError if it has not this column, or one of those that are added."""
    name = table.removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson")):
        dataset = ray.data.read_json(table, lines=True)
    elif name.endswith(".csv"):
        dataset = ray.data.read_csv(table)
    else:
        dataset = ray.data.read_parquet(table)
    columns = dataset.columns() or []
    if column not in columns:
        raise ValueError(f"{table} has no column '{column}'; it has {', '.join(columns)}")
    if double := added.intersection(columns):
        raise ValueError(f"{table} has a column '{min(double)}' already: rename it first")
    return dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; the exit code is 1 if any row failed or the job did."""
    options = parser().parse_args(arguments)
    try:
        config = ClientConfig(
            timeout_s=30.0,
            outage_s=options.outage,
            tls=Tls(ca_path=options.ca.resolve()) if options.ca else None,
            token=options.token_file.read_text(encoding="utf-8").strip() if options.token_file else None,
        )
        # Before any worker: a wrong address or a token that is not taken is one sentence here, not one of each worker.
        with RejectionClient(options.url, config) as client:
            added = {*client.model_info().labels, "label", "token_count", "truncated", "error"}
        ray.init(include_dashboard=False, log_to_driver=False)
        read(options.table, options.column, added).map_batches(
            Classifier,
            batch_size=ROWS,
            batch_format="pyarrow",
            fn_constructor_args=(options.column, options.url, config),
            compute=ray.data.ActorPoolStrategy(size=options.workers),
            num_cpus=CORES,
        ).write_parquet(options.output)
        errors = ray.data.read_parquet(options.output, columns=["error"])
        count, failed = 0, 0
        for batch in errors.iter_batches(batch_format="pyarrow"):
            count, failed = count + len(batch), failed + pc.sum(pc.is_valid(batch["error"])).as_py()
    except (RejectionError, ValueError, OSError, ray.exceptions.RayError) as error:
        sys.stderr.write(f"classify.py: {str(error).strip().splitlines()[-1]}\n")
        return 1
    sys.stdout.write(f"{count:,} rows in {options.output}, {failed:,} of them with an error\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
