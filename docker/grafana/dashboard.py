"""The Grafana dashboard, made from code: `python docker/grafana/dashboard.py` writes dashboards/rejection.json.

Every expression adds up over servers. Those of a GPU have no data on a server without one.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

FILE = Path(__file__).parent / "dashboards" / "rejection.json"
RATE = "$__rate_interval"
CHOSEN = 'job=~"$job",instance=~"$instance"'
ANSWERED = "rejection_request_duration_seconds"
WIDTH, HEIGHT = 8, 8


class Panel(NamedTuple):
    """One panel: a title, a sentence, Grafana's name of the unit, and what it asks Prometheus."""

    title: str
    description: str
    unit: str
    targets: dict[str, str]
    """PromQL by legend."""
    stacked: bool = False


def _rate(metric: str, matchers: str = "") -> str:
    return f"rate({metric}{{{CHOSEN}{',' if matchers else ''}{matchers}}}[{RATE}])"


def _share(part: str, whole: str) -> str:
    return f"{part} / clamp_min({whole}, 1e-9)"


def _quantile(share: float) -> str:
    return f"histogram_quantile({share}, sum by (le) ({_rate(f'{ANSWERED}_bucket', MODEL)}))"


def _part(name: str) -> str:
    """The models of this kind of all classifiers; those of `rejection` go without a prefix."""
    return f'model=~"(.+_)?{name}"'


def _mean_ms(duration: str, model: str) -> str:
    of = _part(model)
    return (
        f"sum({_rate(f'nv_inference_{duration}_duration_us', of)}) / 1e3 / "
        f"clamp_min(sum({_rate('nv_inference_request_success', of)}), 1e-9)"
    )


NOT_OK = 'code!="OK"'
MODEL = 'model=~"$model"'
CLASSIFIER, SCORING = _part("classifier"), _part("scoring")
ROWS: dict[str, list[Panel]] = {
    "Callers": [
        Panel(
            "Answers",
            "Inference requests answered a second, messages of streams included, each counted once.",
            "reqps",
            {"{{model}} {{instance}}": f"sum by (model, instance) ({_rate(f'{ANSWERED}_count', MODEL)})"},
            stacked=True,
        ),
        Panel(
            "Time to answer",
            "From a whole request's arrival to its answer. Refused and failed requests are not in it.",
            "s",
            {"p50": _quantile(0.5), "p90": _quantile(0.9), "p99": _quantile(0.99)},
        ),
        Panel(
            "Refused and failed",
            "Calls a second that ended with another status than OK, by gRPC code.",
            "reqps",
            {"{{code}}": f"sum by (code) ({_rate('rejection_guard_requests_total', NOT_OK)})"},
            stacked=True,
        ),
        Panel(
            "Labels",
            "Share of the answered texts by their most probable label: for the bundled model, how much is refused.",
            "percentunit",
            {
                "{{model}} {{label}}": f"sum by (model, label) ({_rate('rejection_guard_verdicts_total', MODEL)}) "
                "/ ignoring (label) group_left () "
                f"clamp_min(sum by (model) ({_rate('rejection_guard_verdicts_total', MODEL)}), 1e-9)"
            },
        ),
        Panel(
            "Why refused",
            "Requests and connections that the guard refused a second, by reason.",
            "reqps",
            {"{{reason}}": f"sum by (reason) ({_rate('rejection_guard_refused_total')})"},
            stacked=True,
        ),
        Panel(
            "Connections",
            "Open connections of callers.",
            "short",
            {"{{instance}}": f"sum by (instance) (rejection_guard_connections{{{CHOSEN}}})"},
            stacked=True,
        ),
    ],
    "Models": [
        Panel(
            "Under way",
            "Inference requests that were taken and not answered, and how many of them wait for the classifier.",
            "short",
            {
                "{{model}}": f"sum by (model) (rejection_guard_requests_under_way{{{CHOSEN},{MODEL}}})",
                "wait for {{model}}": f"sum by (model) ({_rate('nv_inference_queue_duration_us', CLASSIFIER)}) / 1e6",
            },
        ),
        Panel(
            "Texts an execution",
            "Texts that the classifier takes at a time, on average.",
            "short",
            {
                "{{model}}": _share(
                    f"sum by (model) ({_rate('nv_inference_count', CLASSIFIER)})",
                    f"sum by (model) ({_rate('nv_inference_exec_count', CLASSIFIER)})",
                )
            },
        ),
        Panel(
            "Cache hits",
            "Share of the requests whose answer was remembered.",
            "percentunit",
            {
                "{{model}}": _share(
                    f"sum by (model) ({_rate('nv_cache_num_hits_per_model', SCORING)})",
                    f"(sum by (model) ({_rate('nv_cache_num_hits_per_model', SCORING)}) + "
                    f"sum by (model) ({_rate('nv_cache_num_misses_per_model', SCORING)}))",
                )
            },
        ),
        Panel(
            "Where the time goes",
            "Milliseconds of a request that reached the models: waiting for each, and in it.",
            "ms",
            {
                "wait for tokenizer": _mean_ms("queue", "tokenizer"),
                "tokenizer": _mean_ms("compute_infer", "tokenizer"),
                "wait for classifier": _mean_ms("queue", "classifier"),
                "classifier": _mean_ms("compute_infer", "classifier"),
            },
            stacked=True,
        ),
        Panel(
            "Servers and instances",
            "Servers that Prometheus reaches, and processes of the classifier.",
            "short",
            {
                "servers": f"sum(up{{{CHOSEN}}})",
                "classifier instances": (
                    f'count(rejection_guard_process_memory_bytes{{{CHOSEN},process=~"(.+_)?classifier_.+"}})'
                ),
            },
        ),
        Panel(
            "Memory",
            "Resident memory of all processes of a server; pages that they share count for each.",
            "bytes",
            {"{{instance}}": f"sum by (instance) (rejection_guard_process_memory_bytes{{{CHOSEN}}})"},
        ),
    ],
    "GPU": [
        Panel(
            "GPU utilisation",
            "Share of the time in which the GPU did anything.",
            "percentunit",
            {"{{instance}} {{gpu_uuid}}": f"nv_gpu_utilization{{{CHOSEN}}}"},
        ),
        Panel(
            "GPU memory",
            "Memory of the GPU that is used.",
            "bytes",
            {"{{instance}} {{gpu_uuid}}": f"nv_gpu_memory_used_bytes{{{CHOSEN}}}"},
        ),
        Panel(
            "GPU power",
            "Power that the GPU draws.",
            "watt",
            {"{{instance}} {{gpu_uuid}}": f"nv_gpu_power_usage{{{CHOSEN}}}"},
        ),
    ],
}
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def build() -> str:
    """The dashboard as Grafana reads it."""
    made = (
        dashboard.Dashboard("Rejection detection")
        .uid("rejection")
        .description("Servers of rejection-server: answers, refusals, latencies, queues, models, memory.")
        .tags(["rejection", "triton"])
        .refresh("10s")
        .time("now-30m", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name in ("job", "instance", "model"):
        within = "" if name == "job" else ',job=~"$job"'
        series = "rejection_guard_requests_under_way" if name == "model" else "up"
        made.with_variable(
            dashboard.QueryVariable(name)
            .datasource(SOURCE)
            .query(f'label_values({series}{{job=~"rejection.*"{within}}}, {name})')
            .multi(True)
            .include_all(True)
            .all_value("rejection.*" if name == "job" else ".*")
        )
    for title, panels in ROWS.items():
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _panel(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .span(WIDTH)
        .height(HEIGHT)
        .fill_opacity(25 if panel.stacked else 0)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if panel.stacked:
        made.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if panel.unit == "percentunit":
        made.max(1)
    for legend, expression in panel.targets.items():
        made.with_target(prometheus.Dataquery().expr(expression).legend_format(legend).range())
    return made


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(build(), encoding="utf-8")
