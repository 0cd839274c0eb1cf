"""``pimsim quality``: what attention algorithms do to a real model on a text, and what they save on machines."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pimsim.commands.output import check_picture, choose, columns, whole_bytes, whole_folder, write_json, write_out
from pimsim.commands.progress import progress
from pimsim.errors import InputError

if TYPE_CHECKING:
    from pimsim.quality import Judged

FORMATS = ("table", "json")


def quality(
    model: Path,
    attention: str,
    *,
    text: Path | None,
    tokens: int,
    arch: str,
    output: str,
    plot: Path | None,
    quiet: bool,
    record: Path | None = None,
) -> None:
    """Judge every algorithm; the arguments are the options of ``pimsim quality``.

    Raises:
        InputError: an option, the model, the text or an algorithm is wrong; no file has been written.
    """
    choose("format", output, FORMATS)
    check_picture(plot)
    if plot is not None and not arch:
        raise InputError("--plot must come with --arch: it draws what is saved against what is lost")
    from pimsim.compare import load_archs, parse_entry
    from pimsim.quality import TEXT, Recordings, judge_all, read_text, with_linear_layers

    entries = [parse_entry(each.strip()) for each in attention.split(",")]
    machines = load_archs([name.strip() for name in arch.split(",")], []) if arch else {}
    ids, graph, weights = read_text(model, text, tokens)
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(whole_folder(record)) if record is not None else {}
        picture = stack.enter_context(whole_bytes(plot)) if plot is not None else None
        recordings = None
        if record is not None:
            recordings = Recordings(f"{model.name} on {text.name if text else TEXT}, {len(ids)} tokens")
        with progress("layers", quiet=quiet) as report:
            rows = judge_all(graph, weights, ids, entries, machines, report, recordings)
        rows = with_linear_layers(rows, model, entries, machines)
        if recordings is not None:
            files |= recordings.files
        if picture is not None and plot is not None:
            from pimsim.report.quality import plot_quality

            plot_quality(rows).savefig(picture, format=plot.suffix[1:].lower(), dpi=110)
    if output == "json":
        write_json({"tokens": len(ids), "rows": [asdict(row) for row in rows]})
    else:
        write_out(columns(_table(rows)))


def _table(rows: Sequence[Judged]) -> list[list[str]]:
    from pimsim.report.si import NONE, si

    archs = list(rows[0].costs)
    linear = bool(rows[0].linear)
    costs = [cell for arch in archs for cell in (f"time on {arch}", "energy", *(["linear layers", "energy"] * linear))]
    found = [["attention", "perplexity", "same token", "divergence", *costs, "note"]]
    for row in rows:
        cells: list[Any] = [row.attention, f"{row.perplexity:.4g}", f"{row.agreement:.1%}", f"{row.divergence:.2g}"]
        for arch in archs:
            for cost in (row.costs[arch], *([row.linear[arch]] if linear else [])):
                cells += [si(cost.seconds, "s"), si(cost.joules, "J")] if cost.seconds is not None else [NONE, NONE]
        notes = dict.fromkeys(cost.why for cost in row.costs.values() if cost.why)
        found.append([*cells, "; ".join(notes)])
    return found


__all__ = ["FORMATS", "quality"]
