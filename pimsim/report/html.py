"""One self-contained page about runs and sweeps: no external resource, works from ``file://``.

Everything that comes from a file is escaped; the page's own script only sorts, filters and unfolds tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import accumulate
from math import inf
from typing import Any

from pimsim.report.page_style import PAGE, SCRIPT, STYLE
from pimsim.report.si import count, percent, ratio, si
from pimsim.report.svg import COLORS, Axis, Chart, factor, legend, spread
from pimsim.report.sweep_html import SweepPage, render_sweep, shown_columns

Row = Sequence[str | float | int | None]

LONG = 40
"""Characters from which on a cell is broken into lines."""

FEW = 12
"""Settings that differ and are shown at once; more are folded away."""

MAX_LABELS = COLORS - 1
"""Parts of a stack that are told apart; the rest is summed up as the last colour."""


@dataclass(frozen=True)
class RunPage:
    """A run: its name, result.json, the configurations as text and as path -> value, and activity.json if it has one."""

    name: str
    result: Mapping[str, Any]
    configurations: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    activity: Mapping[str, Any] | None = None


def render_html(runs: Sequence[RunPage], sweeps: Sequence[SweepPage]) -> str:
    """The page as text."""
    names = [*(run.name for run in runs), *(sweep.name for sweep in sweeps)]
    parts = [_comparison(runs)] if len(runs) > 1 else []
    parts += [_run(page) for page in runs]
    parts += [render_sweep(page, _table(page.columns, page.rows, shown_columns(page))) for page in sweeps]
    return (
        PAGE.replace("@TITLE@", escape(", ".join(names)))
        .replace("@STYLE@", STYLE)
        .replace("@SCRIPT@", SCRIPT)
        .replace("@BODY@", "\n".join(parts))
    )


# Comparison


def _comparison(runs: Sequence[RunPage]) -> str:
    first = runs[0].result["time"]["seconds"]
    rows: list[Row] = []
    for page in runs:
        r = page.result
        seconds = r["time"]["seconds"]
        rows.append(
            [
                page.name,
                r["arch"]["name"],
                r["workload"]["name"],
                seconds,
                first / seconds if seconds else None,
                (r["tokens"] or {}).get("seconds_per_token"),
                r["energy"]["joules"],
                r["energy"]["average_watts"],
                (r["dram"] or {}).get("row_hit_rate"),
            ]
        )
    head = ["run", "architecture", "workload", "seconds", f"faster than {runs[0].name}", "seconds per token", "joules",
            "watts", "row hits"]  # fmt: skip
    parts = [
        "<section><h2>Comparison</h2>",
        _table(head, rows),
        '<div class="pair">',
        _stacks("latency by operation", runs, "s", lambda r: {k: o["seconds"] for k, o in r["ops"].items()}),
        _stacks("energy by component", runs, "J", lambda r: r["energy"]["by_component"]),
        "</div>",
        _differences(runs),
        "</section>",
    ]
    return "\n".join(parts)


def _stacks(title: str, runs: Sequence[RunPage], unit: str, parts: Any) -> str:
    """One bar a run, divided into the same parts; all bars to one scale."""
    found = [(page.name, {k: float(v) for k, v in parts(page.result).items() if v}) for page in runs]
    sums: dict[str, float] = {}
    for _, amounts in found:
        for name, value in amounts.items():
            sums[name] = sums.get(name, 0.0) + value
    named = sorted(sums, key=lambda name: -sums[name])[:MAX_LABELS]
    most = max((sum(amounts.values()) for _, amounts in found), default=0.0)
    if not most:
        return ""
    bars = "".join(_stack(name, amounts, named, most, si(sum(amounts.values()), unit)) for name, amounts in found)
    names = [*named, *(["other"] if len(sums) > len(named) else [])]
    return f'<div><h3>{escape(title)}</h3><div class="plot">{bars}{legend(names)}</div></div>'


def _stack(name: str, amounts: Mapping[str, float], named: Sequence[str], most: float, label: str) -> str:
    pieces = [(part, amounts.get(part, 0.0)) for part in named]
    pieces.append(("other", sum(value for part, value in amounts.items() if part not in named)))
    cells = "".join(
        f'<i class="c{COLORS - 1 if part == "other" else n}" style="width:{100 * value / most:.3f}%" '
        f'title="{escape(part)} {percent(value / (sum(amounts.values()) or 1))}"></i>'
        for n, (part, value) in enumerate(pieces)
    )
    return (
        f'<div class="bar"><b>{escape(name)}</b><span class="stack">{cells}</span><small>{escape(label)}</small></div>'
    )


def _differences(runs: Sequence[RunPage]) -> str:
    """Settings that are not the same in all runs."""
    paths = list(dict.fromkeys(path for page in runs for path in page.settings))
    rows = [[path, *(page.settings.get(path, "") for page in runs)] for path in paths]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows or not all(page.settings for page in runs):
        return ""
    table = _table(["setting", *(page.name for page in runs)], rows)
    if len(rows) <= FEW:
        return f"<h3>What differs</h3>{table}"
    return f"<details><summary>What differs: {len(rows)} settings</summary>{table}</details>"


# Runs


def _run(page: RunPage) -> str:
    r = page.result
    time, tokens, energy, dram, moved = (r[key] or {} for key in ("time", "tokens", "energy", "dram", "interface"))
    facts = [
        ("latency", f"{si(time['seconds'], 's', 4)}, {count(time['cycles'])} cycles"),
        ("per token", si(tokens.get("seconds_per_token"), "s") if tokens else ""),
        ("energy", si(energy["joules"], "J")),
        ("average power", si(energy["average_watts"], "W")),
        ("row hits", percent(dram.get("row_hit_rate")) if dram else ""),
        ("less traffic than without PIM", ratio(moved.get("reduction")) if moved else ""),
        ("uncosted", "; ".join(energy["uncosted"]) or "nothing"),
        ("engine", str(r.get("engine") or "")),
        ("pimsim", str((r.get("manifest") or {}).get("version") or "")),
    ]
    ops = r["ops"]
    sections = [
        f"<h2>{escape(page.name)}: {escape(r['workload']['name'])} on {escape(r['arch']['name'])}</h2>",
        "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts if v) + "</dl>",
        '<div class="pair">',
        _bars("time by operation", [(k, o["seconds"]) for k, o in ops.items()], "s"),
        _bars("energy by component", energy["by_component"].items(), "J"),
        _bars("energy by operation", [(k, o["joules"]) for k, o in ops.items()], "J"),
        _bars("DRAM commands", (dram.get("commands") or {}).items(), ""),
        "</div>",
        _units(r["units"] or {}, time["seconds"]),
        _activity(page.activity or {}, time["seconds"]),
        _passes(page.activity or {}),
        _roofline(r.get("roofline") or {}),
        "<h3>Operations</h3>",
        _table(
            ["operation", "count", "seconds", "share", "joules"],
            [[k, o["count"], o["seconds"], o["share"], o["joules"]] for k, o in ops.items()],
        ),
        _resources(r.get("resources") or {}),
        _baselines(r.get("baselines") or {}, time["seconds"]),
        *(
            f"<details><summary>{escape(name)}, with sources</summary><pre>{escape(text)}</pre></details>"
            for name, text in page.configurations.items()
        ),
    ]
    return "<section>" + "\n".join(part for part in sections if part) + "</section>"


def _units(units: Mapping[str, Any], seconds: float) -> str:
    """One bar a unit: busy, then what it waited for."""
    if not units or not seconds:
        return ""
    sums: dict[str, float] = {}
    for unit in units.values():
        for reason, spent in unit["stalls"].items():
            sums[reason] = sums.get(reason, 0.0) + spent
    reasons = [reason for reason, _ in sorted(sums.items(), key=lambda item: -item[1])[: MAX_LABELS - 1]]
    named = ["busy", *reasons]
    bars = "".join(
        _stack(
            name,
            {"busy": unit["busy_seconds"], **unit["stalls"]},
            named,
            seconds,
            percent(unit["busy_seconds"] / seconds),
        )
        for name, unit in units.items()
    )
    names = [*named, *(["other"] if len(sums) > len(reasons) else [])]
    return f'<h3>Utilisation and stalls</h3><div class="plot">{bars}{legend(names)}</div>'


def _activity(activity: Mapping[str, Any], seconds: float) -> str:
    """What each sort of units did over time, as a stack that fills the time of all of them."""
    groups = activity.get("groups") or {}
    if not groups or not seconds:
        return ""
    sums: dict[str, float] = {}
    for group in groups.values():
        for label, shares in group["shares"].items():
            sums[label] = sums.get(label, 0.0) + sum(shares)
    order = [label for label in sorted(sums, key=lambda label: (label != "busy", -sums[label])) if sums[label] > 0]
    named = [label for label in order if label != "idle"][:MAX_LABELS]
    charts = "".join(
        _activity_chart(name, group, named, activity["bin_seconds"], seconds) for name, group in groups.items()
    )
    names = [*named, *(["other, idle"] if len(order) > len(named) else [])]
    return f'<h3>Utilisation and stalls over time</h3>{legend(names)}<div class="pair">{charts}</div>'


def _activity_chart(
    name: str, group: Mapping[str, Any], named: Sequence[str], bin_seconds: float, seconds: float
) -> str:
    shares = group["shares"]
    bins = len(next(iter(shares.values())))
    edges = [min(n * bin_seconds, seconds) for n in range(bins + 1)]
    title = f"{group['units']} x {name}" if group["units"] > 1 else name
    chart = Chart(title, Axis(0, seconds, 48, 545, "s"), Axis(0, 1, 190, 12), "time", width=560, height=232)
    rows = [shares.get(label, [0.0] * bins) for label in named]
    tops = list(zip(*(accumulate(column) for column in zip(*rows, strict=True)), strict=True))
    below: Sequence[float] = [0.0] * bins
    for number, (label, above, row) in enumerate(zip(named, tops, rows, strict=True)):
        if any(row):
            chart.area(edges, below, above, f"c{number}", f"{label}, {percent(sum(row) / bins)} on average")
        below = above
    if any(value < 0.9999 for value in below):
        chart.area(edges, below, [1.0] * bins, f"c{COLORS - 1}", "other, idle")
    return chart.render()


def _passes(activity: Mapping[str, Any]) -> str:
    """How long each forward pass took."""
    ends = activity.get("pass_seconds") or []
    if len(ends) < 3:
        return ""
    spans = [end - begin for begin, end in zip([0.0, *ends], ends, strict=False)]
    step = max(1, len(spans) // 500)
    points = [(float(n + 1), value) for n, value in enumerate(spans)][::step]
    y = Axis(*spread([value for _, value in points], log=False, zero=True), 200, 12, "s")
    chart = Chart("time of each forward pass", Axis(1, len(spans), 62, 545), y, "forward pass", width=560, height=240)
    chart.line(points, "c0")
    return f'<h3>Forward passes</h3><div class="narrow">{chart.render()}</div>'


def _roofline(roofs: Mapping[str, Any]) -> str:
    """Operations under the roofs of banks and data pins, both axes logarithmic."""
    points = [(k, o["flop"] / o["bytes"], o["flop"] / o["seconds"]) for k, o in (roofs.get("ops") or {}).items()
              if o["seconds"] and o["bytes"]]  # fmt: skip
    if not points:
        return ""
    peak, banks, pins = roofs["peak_flop_s"], roofs["bank_bytes_s"], roofs["pin_bytes_s"]
    left = min(peak / banks, *(x for _, x, _ in points)) / 8
    right, low = 4 * peak / pins, min(left * pins, *(y for _, _, y in points)) / 2
    if not (0 < left < right < inf and 0 < low < 2 * peak < inf):  # nothing that a machine of ours says
        return ""
    chart = Chart(
        f"solid: banks, {si(banks, 'B/s')}; dashed: data pins, {si(pins, 'B/s')}; top: {si(peak, 'FLOP/s')}",
        Axis(left, right, 80, 620, log=True),
        Axis(low, 2 * peak, 300, 12, "FLOP/s", log=True),
        "FLOP per byte of weights, keys and values",
        width=640,
        height=345,
    )
    for bandwidth, name, style in ((banks, "banks", "roof"), (pins, "data pins", "roof dashed")):
        start = max(left, low / bandwidth)
        corners = [(start, start * bandwidth), (peak / bandwidth, peak), (right, peak)]
        chart.line(corners, style, f"{name}, {si(bandwidth, 'B/s')}")
    for number, (kind, x, y) in enumerate(points):
        chart.dot(x, y, f"mark c{number % COLORS}", f"{kind}: {si(y, 'FLOP/s')} at {x:.3g} FLOP/B")
    rows = [[kind, x, y, percent(y / min(peak, x * banks))] for kind, x, y in points]
    names = [kind for kind, _, _ in points]
    keys = legend(names) if len(names) <= COLORS else ""
    table = _table(["operation", "FLOP/B", "FLOP/s", "of the roof of the banks"], rows)
    return f'<h3>Roofline</h3>{keys}<div class="narrow roofline">{chart.render()}</div>{table}'


def _resources(resources: Mapping[str, Any]) -> str:
    if not resources:
        return ""
    rows = [[kind, r["needed"], r["available"], r["needed"] / r["available"] if r["available"] else None]
            for kind, r in resources.items()]  # fmt: skip
    return "<h3>Resources of the device</h3>" + _table(["resource", "needed", "available", "share"], rows)


def _baselines(baselines: Mapping[str, Any], seconds: float) -> str:
    if not baselines:
        return ""
    columns = ("seconds", "joules", "speedup", "energy_ratio", "kind", "method", "stack", "source")
    rows = [[name, *(baseline.get(column, "") for column in columns)] for name, baseline in baselines.items()]
    table = _table(
        ["device", "seconds", "joules", "speed-up", "energy ratio", "kind", "method", "stack", "source"], rows
    )
    return f"<h3>Baselines</h3>{_bands(baselines, seconds)}{table}"


def _bands(baselines: Mapping[str, Any], seconds: float) -> str:
    """Each device from its fastest to its slowest figure; a device with one figure is no band and stays in the table."""
    devices: dict[str, list[tuple[float, str]]] = {}
    for baseline in baselines.values():
        if not baseline.get("seconds") or not baseline.get("device"):
            continue
        note = f"{baseline.get('stack') or ''} ({baseline.get('method') or baseline.get('kind') or ''})"
        devices.setdefault(str(baseline["device"]), []).append((baseline["seconds"], note))
    bands = {device: sorted(found) for device, found in devices.items() if len(found) > 1}
    if not bands or not seconds:
        return ""
    low, high = spread([seconds, *(value for found in bands.values() for value, _ in found)], log=True)
    names = ["this run", *bands]
    bottom = 10 + 44 * len(names)
    chart = Chart(
        "latency of the same tokens: from the fastest to the slowest figure of each device",
        Axis(low, high, 230, 800, "s", log=True),
        Axis(len(names) - 0.5, -0.5, bottom, 10, names=names),
        width=820,
        height=bottom + 30,
    )
    chart.dot(seconds, 0, "mark c0", f"this run: {si(seconds, 's')}")
    chart.text(seconds, 0, si(seconds, "s"))
    for row, found in enumerate(bands.values(), start=1):
        chart.line([(found[0][0], row), (found[-1][0], row)], "span c1")
        for value, note in found:
            chart.dot(value, row, "mark c1", f"{note}: {si(value, 's')}, {factor(value / seconds)}")
        ends = f"{found[0][1]} .. {found[-1][1]}"
        chart.text(low, row + 0.36, ends)
    return f'<div class="broad">{chart.render()}</div>'


# Parts


def _bars(title: str, bars: Iterable[tuple[str, float]], unit: str) -> str:
    kept = sorted(((name, value) for name, value in bars if value), key=lambda bar: -bar[1])
    if not kept:
        return ""
    most = kept[0][1]
    lines = "".join(
        f'<div class="bar"><b>{escape(name)}</b><span><i class="c0" style="width:{100 * value / most:.2f}%"></i></span>'
        f"<small>{escape(si(value, unit) if unit else count(value))}</small></div>"
        for name, value in kept
    )
    return f'<div><h3>{escape(title)}</h3><div class="plot">{lines}</div></div>'


def _table(columns: Sequence[str], rows: Iterable[Row], shown: Sequence[str] | None = None) -> str:
    """A table that sorts and filters; of many columns only ``shown`` ones are seen at first."""
    extra = [shown is not None and name not in shown for name in columns]
    head = "".join(
        f"<th{' class=extra' if more else ''}><button>{escape(name)}</button></th>"
        for name, more in zip(columns, extra, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(_cell(value, more) for value, more in zip(row, extra, strict=True)) + "</tr>" for row in rows
    )
    toggle = '<label><input type="checkbox" class="toggle"> all columns</label>' if any(extra) else ""
    hint = "filter: words, or column=8, seconds&lt;0.01" if shown is not None else "filter rows"
    return (
        f'<div class="tools"><input class="filter" type="search" placeholder="{hint}" aria-label="filter rows">{toggle}'
        f'<span class="told"></span></div><div class="wide"><table{" class=less" if any(extra) else ""}>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: str | float | None, extra: bool) -> str:
    if value is None:
        return f"<td{' class=extra' if extra else ''}></td>"
    if isinstance(value, bool | str):
        styles = " ".join(name for name, holds in (("extra", extra), ("long", len(str(value)) > LONG)) if holds)
        attribute = f' class="{styles}"' if styles else ""
        return f"<td{attribute}>{escape(str(value))}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f'<td class="n{" extra" if extra else ""}" data-v="{value!r}">{escape(text)}</td>'


__all__ = ["RunPage", "SweepPage", "render_html"]
