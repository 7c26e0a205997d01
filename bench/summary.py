"""What a result says: rounds joined, systems side by side. Pure; tables and plots are made of this."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.figures import Row, merged
from bench.plan import RAW

POINT = ("model", "precision", "system", "workload", "loop", "concurrency", "offered_share", "layout")
GENERATOR_LIMIT = 0.7
"""Above this share of a core the load generator itself may be what is measured."""
HOW = (
    "Systems take turns, each started for its turn and stopped after it; figures are medians over the rounds, ± half "
    "the range. The load generator is a process of its own on the same machine. A closed loop keeps so many callers "
    "waiting; an open one sends at a constant rate, and latency counts from when a request was due. Raw onnxruntime "
    "runs token ids made beforehand, without any server: the limit. Differences are those of probabilities from the "
    "float32 graph's (of the bundled model, which exists as int8 alone, from the same graph's), each text alone: the "
    "largest and the mean over all answers under load."
)

Result = Mapping[str, Any]


def rows(result: Result) -> list[Row]:
    """Every point once, its rounds joined: numbers are a `median`, `min` and `max`."""
    return merged(result["points"], POINT)


def pairs(result: Result) -> list[tuple[str, str]]:
    """Models and precisions that were measured, in order."""
    return list(dict.fromkeys((point["model"], point["precision"]) for point in result["points"]))


def of(found: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in found if all(row.get(name) == value for name, value in wanted.items())]


def limit(found: Sequence[Row], model: str, precision: str, workload: str, *, alone: bool = False) -> Row | None:
    """The fastest layout of raw onnxruntime, or its one worker alone.

    Requests of many texts are held against single ones of the same texts.
    """
    workload, loop = "mixed" if workload == "batch" else workload, "alone" if alone else "raw"
    tried = of(found, model=model, precision=precision, system=RAW, workload=workload, loop=loop)
    return max(tried, key=lambda row: median(row, "texts_per_s") or 0.0, default=None)


def median(row: Row | None, *path: str) -> float | None:
    """A figure's median over the rounds, or the figure itself; None if it was not measured."""
    value: Any = row
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        value = value.get("median")
    return None if value is None else float(value)


def title(result: Result, system: str) -> str:
    """A system's name for people."""
    return str(result["systems"].get(system, {}).get("title", system))


def systems(result: Result) -> list[str]:
    """Systems that have figures, in the order they were named."""
    found = {point["system"] for point in result["points"]}
    return [system for system in result["systems"] if system in found]


def warnings(result: Result) -> list[str]:
    """What a reader has to know before believing the figures."""
    found = []
    if (idle := result["hardware"].get("idle_before", 1.0)) < 0.9:
        found.append(
            f"the machine was busy: {1 - idle:.0%} of its cores before the run began; the figures are not valid"
        )
    if busy := sum((point.get("generator_busy") or 0) > GENERATOR_LIMIT for point in result["points"]):
        found.append(f"the load generator used over {GENERATOR_LIMIT:.0%} of a core at {busy} points")
    if failed := sum(bool(point.get("failed")) for point in result["points"]):
        found.append(f"requests failed at {failed} points")
    found += [
        f"{entry['system']} with {entry['model']}, {entry['precision']}, failed: {entry['error'].splitlines()[0]}"
        for entry in result["failures"]
    ]
    if not result["complete"]:
        found.append("the run was stopped before its end")
    return found


def facts(result: Result) -> list[tuple[str, str]]:
    """What the figures were measured on and with."""
    machine, settings, own = result["hardware"], result["settings"], result.get("generator")
    lengths = (
        f"{entry['title']}: {', '.join(f'{share} {count}' for share, count in entry['distilroberta_tokens'].items())}"
        for entry in result["workloads"].values()
        if entry["batch"] == 1
    )
    found = {
        "Command": result["command"],
        "Date": result["date"],
        "Commit": result["commit"],
        "Processor": f"{machine['processor']}, {machine['cores']} cores ({', '.join(machine['flags'])})",
        "Memory": f"{machine['memory_gb']:g} GB",
        "System": machine["system"] + (", virtual machine" if machine["virtual"] else ""),
        "Idle before": f"{machine['idle_before']:.0%} of the cores",
        "Versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "Windows": f"{settings['seconds']:g} s after {settings['warm_s']:g} s of warm-up, {settings['rounds']} rounds",
        "Tokens (DistilRoBERTa)": "; ".join(lengths),
        "Load generator": own
        and f"{own['cpu_ms_per_request']:.2f} ms of CPU a request, {own['requests_per_s']:,.0f} requests/s of a server "
        "that answers at once",
    }
    return [(name, value) for name, value in found.items() if value]
