"""One self-contained page about runs and sweeps: no external resource, works from ``file://``.

Everything that comes from a file is escaped; the page's own script only sorts and filters tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from math import inf, log
from typing import Any

from pimsim.report.si import count, percent, ratio, si

Row = Sequence[str | float | int | None]


@dataclass(frozen=True)
class RunPage:
    """A run: its name, result.json, and the configurations as text."""

    name: str
    result: Mapping[str, Any]
    configurations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepPage:
    """A sweep: its name, the columns and rows of its table, and which columns were varied."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Row]
    axes: Sequence[str]


def render_html(runs: Sequence[RunPage], sweeps: Sequence[SweepPage]) -> str:
    """The page as text."""
    title = ", ".join([*(run.name for run in runs), *(sweep.name for sweep in sweeps)])
    parts = [_comparison(runs)] if len(runs) > 1 else []
    parts += [_run(page) for page in runs] + [_sweep(page) for page in sweeps]
    return (
        _PAGE.replace("@TITLE@", escape(title))
        .replace("@STYLE@", _STYLE)
        .replace("@SCRIPT@", _SCRIPT)
        .replace("@BODY@", "\n".join(parts))
    )


# Runs


def _comparison(runs: Sequence[RunPage]) -> str:
    rows = []
    for page in runs:
        r = page.result
        rows.append([page.name, r["arch"]["name"], r["workload"]["name"], r["time"]["seconds"],
                     r["tokens"]["seconds_per_token"], r["energy"]["joules"], r["energy"]["average_watts"]])  # fmt: skip
    head = ["run", "architecture", "workload", "seconds", "seconds per token", "joules", "watts"]
    return (
        "<section><h2>Comparison</h2>"
        + _bars("latency", [(str(row[0]), float(row[3])) for row in rows], "s")
        + _bars("energy", [(str(row[0]), float(row[5])) for row in rows], "J")
        + _table(head, rows)
        + "</section>"
    )


def _run(page: RunPage) -> str:
    r = page.result
    time, tokens, energy, dram, moved = (r[key] or {} for key in ("time", "tokens", "energy", "dram", "interface"))
    facts = [
        ("latency", f"{si(time['seconds'], 's', 4)}, {count(time['cycles'])} cycles"),
        ("per token", si(tokens.get("seconds_per_token"), "s")),
        ("energy", si(energy["joules"], "J")),
        ("average power", si(energy["average_watts"], "W")),
        ("row hits", percent(dram.get("row_hit_rate"))),
        ("less traffic than without PIM", ratio(moved.get("reduction"))),
        ("uncosted", "; ".join(energy["uncosted"]) or "nothing"),
    ]
    ops = r["ops"]
    sections = [
        f"<h2>{escape(page.name)}: {escape(r['workload']['name'])} on {escape(r['arch']['name'])}</h2>",
        "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts) + "</dl>",
        _bars("time by operation", [(k, o["seconds"]) for k, o in ops.items()], "s"),
        _bars("energy by component", energy["by_component"].items(), "J"),
        _bars("energy by operation", [(k, o["joules"]) for k, o in ops.items()], "J"),
        _units(r["units"] or {}, time["seconds"]),
        _roofline(r.get("roofline") or {}),
        _bars("DRAM commands", (dram.get("commands") or {}).items(), ""),
        "<h3>Operations</h3>",
        _table(
            ["operation", "count", "seconds", "share", "joules"],
            [[k, o["count"], o["seconds"], o["share"], o["joules"]] for k, o in ops.items()],
        ),
        _baselines(r.get("baselines") or {}),
        *(
            f"<details><summary>{escape(name)}, with sources</summary><pre>{escape(text)}</pre></details>"
            for name, text in page.configurations.items()
        ),
    ]
    return "<section>" + "\n".join(sections) + "</section>"


def _units(units: Mapping[str, Any], seconds: float) -> str:
    """One bar a unit: busy, then what it waited for."""
    if not units or not seconds:
        return ""
    sums: dict[str, float] = {}
    for unit in units.values():
        for reason, spent in unit["stalls"].items():
            sums[reason] = sums.get(reason, 0.0) + spent
    named = ["busy", *(reason for reason, _ in sorted(sums.items(), key=lambda item: -item[1])[:7])]
    lines = []
    for name, unit in units.items():
        spent = {"busy": unit["busy_seconds"], **unit["stalls"]}
        pieces = [(reason, spent.get(reason, 0.0)) for reason in named]
        pieces.append(("other", sum(value for reason, value in spent.items() if reason not in named)))
        cells = "".join(
            f'<i class="c{number}" style="width:{100 * value / seconds:.3f}%" '
            f'title="{escape(reason)} {percent(value / seconds)}"></i>'
            for number, (reason, value) in enumerate(pieces)
        )
        lines.append(f'<div class="bar"><b>{escape(name)}</b><span class="stack">{cells}</span></div>')
    legend = "".join(f'<em><i class="c{n}"></i>{escape(reason)}</em>' for n, reason in enumerate([*named, "other"]))
    return f'<h3>Utilisation and stalls</h3><div class="plot">{"".join(lines)}<p class="legend">{legend}</p></div>'


def _roofline(roofs: Mapping[str, Any]) -> str:
    """Operations under the roofs of banks and data pins, both axes logarithmic."""
    points = [(k, o["flop"] / o["bytes"], o["flop"] / o["seconds"]) for k, o in (roofs.get("ops") or {}).items()
              if o["seconds"] and o["bytes"]]  # fmt: skip
    if not points:
        return ""
    peak, banks, pins = roofs["peak_flop_s"], roofs["bank_bytes_s"], roofs["pin_bytes_s"]
    unit = "FLOP/s"
    left = min(peak / banks, *(x for _, x, _ in points)) / 8
    right, low = 4 * peak / pins, min(left * pins, *(y for _, _, y in points)) / 2
    if not (0 < left < right < inf and 0 < low < 2 * peak < inf):  # nothing that a machine of ours says
        return ""

    def at(x: float, y: float) -> tuple[float, float]:
        return (90 + 440 * log(x / left) / log(right / left), 230 - 205 * log(y / low) / log(2 * peak / low))

    def roof(bandwidth: float, name: str, dashes: str = "none") -> str:
        corners = (at(left, left * bandwidth), at(peak / bandwidth, peak), at(right, peak))
        rate = escape(si(bandwidth, "B/s"))
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
        return f'<path d="M{path}" class="axis roof" stroke-dasharray="{dashes}"><title>{name}, {rate}</title></path>'

    def dot(kind: str, x: float, y: float) -> str:
        across, down = at(x, y)
        note = escape(f"{kind}: {si(y, 'FLOP/s')} at {x:.3g} FLOP/B")
        return f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4"><title>{note}</title></circle>'

    dots = "".join(dot(*point) for point in points)
    rows = [[kind, x, y, percent(y / min(peak, x * banks))] for kind, x, y in points]
    return (
        '<h3>Roofline</h3><figure class="roofline"><figcaption>FLOP/s against FLOP per byte of weights, keys and values; '
        f"solid: banks, {escape(si(banks, 'B/s'))}; dashed: data pins, {escape(si(pins, 'B/s'))}</figcaption>"
        f'<svg viewBox="0 0 560 260" role="img"><path d="M90 20V230H540" class="axis"/>'
        f"{roof(banks, 'banks')}{roof(pins, 'data pins', '5 4')}"
        f'<text x="86" y="{at(left, peak)[1]:.0f}" text-anchor="end">{escape(si(peak, unit, 2))}</text>'
        f'<text x="86" y="234" text-anchor="end">{escape(si(low, unit, 2))}</text>'
        f'<text x="90" y="250">{left:.2g}</text><text x="540" y="250" text-anchor="end">{right:.2g}</text>{dots}</svg>'
        "</figure>" + _table(["operation", "FLOP/B", "FLOP/s", "of the roof of the banks"], rows)
    )


def _baselines(baselines: Mapping[str, Any]) -> str:
    if not baselines:
        return ""
    columns = ("seconds", "joules", "speedup", "energy_ratio", "kind", "method", "stack", "source")
    rows = [[name, *(baseline.get(column, "") for column in columns)] for name, baseline in baselines.items()]
    return "<h3>Baselines</h3>" + _table(
        ["device", "seconds", "joules", "speed-up", "energy ratio", "kind", "method", "stack", "source"], rows
    )


# Sweeps


def _sweep(page: SweepPage) -> str:
    plots = []
    numeric = {name: index for index, name in enumerate(page.columns)}
    for axis in page.axes:
        for figure, unit in (("seconds", "s"), ("joules", "J")):
            if axis in numeric and figure in numeric:
                points = [(row[numeric[axis]], row[numeric[figure]]) for row in page.rows]
                plots.append(_scatter(f"{figure} against {axis}", points, unit))
    if "seconds" in numeric and "joules" in numeric:
        points = [(row[numeric["seconds"]], row[numeric["joules"]]) for row in page.rows]
        plots.append(_scatter("joules against seconds; the Pareto front is filled", points, "J", front=True))
    return (
        f"<section><h2>{escape(page.name)}</h2><p>{len(page.rows):,} points</p>"
        f"<div class='plots'>{''.join(plots)}</div>{_table(page.columns, page.rows)}</section>"
    )


def _scatter(title: str, points: Iterable[tuple[Any, Any]], unit: str, *, front: bool = False) -> str:
    """Points as SVG; values that are not numbers stand in their order."""
    kept = [(x, float(y)) for x, y in points if x is not None and isinstance(y, int | float)]
    if not kept:
        return ""
    labels = sorted({x for x, _ in kept}, key=lambda x: (isinstance(x, str), str(x) if isinstance(x, str) else x))
    words = any(isinstance(x, str) for x in labels)
    at = {x: float(n) for n, x in enumerate(labels)} if words else {x: float(x) for x in labels}
    low, high = min(at.values()), max(at.values())
    top = max(y for _, y in kept) or 1.0
    best = _front([(at[x], y) for x, y in kept]) if front else set()
    dots = "".join(
        f'<circle cx="{50 + 330 * (at[x] - low) / ((high - low) or 1):.1f}" cy="{190 - 165 * y / top:.1f}" r="3.5"'
        f"{' class=front' if (at[x], y) in best else ''}><title>{escape(str(x))}: {escape(si(y, unit))}</title></circle>"
        for x, y in kept
    )
    ends = (labels[0], labels[-1])
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 400 220" role="img">'
        f'<path d="M50 20V190H390" class="axis"/><text x="46" y="28" text-anchor="end">{escape(si(top, unit, 2))}</text>'
        f'<text x="46" y="194" text-anchor="end">0</text><text x="50" y="210">{escape(str(ends[0])[:24])}</text>'
        f'<text x="390" y="210" text-anchor="end">{escape(str(ends[1])[:24])}</text>{dots}</svg></figure>'
    )


def _front(points: Sequence[tuple[float, float]]) -> set[tuple[float, float]]:
    """Points that no other one beats in both coordinates."""
    best: set[tuple[float, float]] = set()
    lowest = float("inf")
    for x, y in sorted(set(points)):
        if y < lowest:
            best.add((x, y))
            lowest = y
    return best


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
    return f'<h3>{escape(title)}</h3><div class="plot">{lines}</div>'


def _table(columns: Sequence[str], rows: Iterable[Row]) -> str:
    head = "".join(f"<th><button>{escape(name)}</button></th>" for name in columns)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return (
        '<input class="filter" type="search" placeholder="filter rows" aria-label="filter rows">'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(value: str | float | None) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, bool | str):
        return f"<td>{escape(str(value))}</td>"
    return f'<td class="n" data-v="{value!r}">{escape(f"{value:,}" if isinstance(value, int) else f"{value:.4g}")}</td>'


_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--soft:#5c6670;--line:#d5dae0;
--c0:#2f6f9f;--c1:#c8702a;--c2:#5a9a68;--c3:#8a6bb0;--c4:#c9a227;--c5:#b0506a;--c6:#4aa3a8;--c7:#7d7466;--c8:#aab2ba}
@media(prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#e4e8ec;--soft:#9aa5b0;--line:#39414a;--c0:#62a6d8;--c1:#e0924e}}
body{background:var(--bg);color:var(--fg);font:15px/1.45 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem}
h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}h3{margin:1.6rem 0 .4rem;font-size:1rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem}dt{color:var(--soft)}dd{margin:0}
.bar{display:grid;grid-template-columns:12rem 1fr 6rem;gap:.6rem;align-items:center;margin:2px 0}
.bar b{font-weight:400;overflow-wrap:anywhere}.bar span{display:flex;height:14px}.bar i{display:block;height:14px}
.stack{grid-column:2/4}small,.legend{color:var(--soft)}.legend em{font-style:normal;margin-right:1rem}
.legend i{display:inline-block;width:.7em;height:.7em;margin-right:.3em}
.c0{background:var(--c0)}.c1{background:var(--c1)}.c2{background:var(--c2)}.c3{background:var(--c3)}.c4{background:var(--c4)}
.c5{background:var(--c5)}.c6{background:var(--c6)}.c7{background:var(--c7)}.c8{background:var(--c8)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:1rem}figure{margin:0}
svg text{fill:var(--soft);font-size:11px}.axis{fill:none;stroke:var(--line)}circle{fill:none;stroke:var(--c0)}
circle.front{fill:var(--c1);stroke:var(--c1)}.wide{overflow-x:auto}.roofline{max-width:640px}.roof{stroke:var(--soft)}table{border-collapse:collapse}
td,th{padding:.15rem .6rem;border-bottom:1px solid var(--line);text-align:left}.n{text-align:right}
th button{all:unset;cursor:pointer;font-weight:600}th[aria-sort=ascending] button::after{content:" \\25b2"}
th[aria-sort=descending] button::after{content:" \\25bc"}pre{overflow-x:auto}.filter{margin:.6rem 0}
"""

_SCRIPT = """
'use strict';
for (const box of document.querySelectorAll('.filter')) {
  const table = box.nextElementSibling.querySelector('table'), body = table.tBodies[0];
  box.addEventListener('input', () => {
    const text = box.value.toLowerCase();
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(text);
  });
  [...table.tHead.rows[0].cells].forEach((head, column) => head.addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') !== 'ascending', sign = up ? 1 : -1;
    for (const other of head.parentNode.cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = row => row.cells[column].dataset.v;
    body.append(...[...body.rows].sort((a, b) => sign * (key(a) !== undefined && key(b) !== undefined
      ? key(a) - key(b) : a.cells[column].textContent.localeCompare(b.cells[column].textContent))));
  }));
}
"""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>@TITLE@</title><style>@STYLE@</style></head><body><h1>pimsim report</h1>
@BODY@
<script>@SCRIPT@</script></body></html>
"""

__all__ = ["RunPage", "SweepPage", "render_html"]
