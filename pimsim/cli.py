"""The command line: options and help here, what the commands do in `pimsim.commands`.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 a check failed or the
simulation could not go on, 2 bad input, 130 interrupted, 141 nobody reads the output any more. Bad input is one line
that starts with ``error:``; a traceback means a fault of pimsim itself.

Only light modules are imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pimsim import __version__
from pimsim.errors import InputError, PimsimError, UnknownName

DONE, FAILED, BAD_INPUT, INTERRUPTED, UNREAD = 0, 1, 2, 130, 141

_UsageError: Any = typer.BadParameter.__mro__[1]
"""What is raised for a command line that cannot be parsed."""


class Group(TyperGroup):
    """Commands by name; an unknown one comes with the closest one and the choices."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As always, but an unknown command comes with the closest one and the choices."""
        names = list(self.commands)
        if args and args[0] not in names and not args[0].startswith("-"):
            raise UnknownName("command", args[0], names)
        return super().resolve_command(ctx, args)


class Program(Group):
    """The program as a whole: every error becomes a message and an exit code here."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **options: Any) -> Any:  # type: ignore[override]
        """Run the command line and leave with its exit code; with ``standalone_mode=False`` the code is returned."""
        given = list(sys.argv[1:] if args is None else args)
        options.pop("complete_var", None)
        options.pop("windows_expand_args", None)
        leave = options.pop("standalone_mode", True)

        def work() -> None:
            with self.make_context(prog_name or "pimsim", list(given), obj=["pimsim", *given], **options) as context:
                self.invoke(context)

        code = guarded(work)
        if leave:
            sys.exit(code)
        return code


def guarded(work: Callable[[], None]) -> int:
    """Do the work; whatever it raises becomes a message on standard error, and an exit code."""
    code = DONE
    try:
        work()
    except typer.Exit as error:
        code = int(error.exit_code)
    except _UsageError as error:
        code = _complain(_usage_message(error), BAD_INPUT)
    except InputError as error:
        code = _complain(str(error), BAD_INPUT)
    except PimsimError as error:
        code = _complain(str(error), FAILED)
    except (KeyboardInterrupt, typer.Abort):
        code = _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = UNREAD
    except MemoryError:
        code = _complain("the run must fit into the memory of this machine; make it smaller", FAILED)
    except Exception:  # noqa: BLE001 (the last resort)
        traceback.print_exc()
        code = _complain(
            f"this is a fault of pimsim {__version__}, not of what you gave it; please report it with the lines above "
            "and the command line",
            FAILED,
        )
    return code


def _usage_message(error: Any) -> str:
    message = str(error.format_message()).rstrip(".")
    close = getattr(error, "possibilities", None)
    if close:
        message = f"No such option: {error.option_name}; did you mean {', '.join(sorted(close))}?"
    path = error.ctx.command_path if error.ctx else "pimsim"
    return f"{message} (see {path} --help)"


def _complain(message: str, code: int) -> int:
    """One line on standard error; characters that could steer a terminal are escaped."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in message)
    with contextlib.suppress(OSError, ValueError):
        print(f"error: {shown}", file=sys.stderr, flush=True)
    return code


def _help(summary: str, *example: str, title: str = "", more: str = "") -> str:
    """Help of a command; the control character keeps the lines of the example as they are."""
    head = f"Example: {title}" if title else "Example:"
    lines = "\n".join(["\b", head, *(f"  {line}" for line in example)])
    return "\n\n".join(part for part in (summary, lines, more) if part)


app = typer.Typer(
    name="pimsim",
    cls=Program,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Arch = Annotated[str, typer.Option(metavar="A", help="Architecture: a shipped name or a YAML file.")]
Workload = Annotated[str, typer.Option(metavar="W", help="Workload: a shipped name or a YAML file.")]
MaybeArch = Annotated[
    str | None, typer.Option(metavar="A", help="Architecture: a shipped name or a YAML file.  [default: none]")
]
MaybeWorkload = Annotated[
    str | None, typer.Option(metavar="W", help="Workload: a shipped name or a YAML file.  [default: none]")
]
MaybeDram = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC", help="DRAM standard, in place of --arch: a shipped name or a YAML file.  [default: none]"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Override a field, such as arch.dram.channels=16 or workload.generate_tokens=64; may be repeated.  "
        "[default: none]",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress on standard error.  [default: off]")]
Format = Annotated[str, typer.Option("--format", metavar="table|json", help="Form of the output.")]
TimelineFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Draw what every unit did when: .pftrace (ui.perfetto.dev), .json (Chrome) or .vcd (waveforms).  "
        "[default: none]",
    ),
]
TimelineDetail = Annotated[
    str,
    typer.Option(
        metavar="op|step|command", help="What --timeline shows; command adds DRAM commands, banks and open rows."
    ),
]
TimelineWindow = Annotated[
    str,
    typer.Option(
        metavar="FIRST:LAST",
        help="Part of the run that --timeline shows, in cycles (0:20000) or with a unit (10us:20us).  [default: all]",
    ),
]
CheckTokens = Annotated[int, typer.Option(metavar="N", min=1, help="Forward passes that --check compares.")]
TraceLimit = Annotated[
    int, typer.Option(metavar="N", min=1, help="Commands that --trace may write; each takes about 200 bytes.")
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Let an independent oracle check every DRAM command as it issues; the first illegal one ends the run with "
        "exit code 1. Takes about 15 us for each command.  [default: off]",
    ),
]
Trace = Annotated[Path, typer.Option(metavar="COMMANDS.csv", help="Command trace; one command per line.")]


@app.callback(
    invoke_without_command=True,
    help=_help(
        "Cycle-accurate simulation of processing-in-memory accelerators for transformers.",
        "pimsim run --arch pim_gpt --workload gpt2_decode",
        "pimsim run --arch pim_gpt --workload gpt2_decode --set arch.dram.channels=16",
        title="a 1,024-token GPT-2 decode on PIM-GPT, and the same with 16 channels",
        more="Results go to standard output, progress and errors to standard error. "
        "Exit codes: 0 done, 1 a check failed, 2 bad input.",
    ),
)
def _program(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Cycle-accurate simulation of processing-in-memory accelerators for transformers."""
    if version:
        print(f"pimsim {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command(
    short_help="Simulate a workload on an architecture.",
    help=_help(
        "Simulate a workload on an architecture and print time, energy and where they go.",
        "pimsim run --arch pim_gpt --workload gpt2_decode --format json \\",
        "  --set workload.generate_tokens=64 --set arch.asic.clock_mhz=100",
        title="64 tokens on a slow controller, all figures as JSON",
    ),
)
def run(
    context: typer.Context,
    arch: Arch,
    workload: Workload,
    overrides: Overrides = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="fast|reference",
            help="fast jumps over what repeats, reference issues one command at a time; the cycles are the same.",
        ),
    ] = "fast",
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Device to compare with (pimsim list baselines) or a YAML file; may be repeated.  [default: t4 and xeon_6154; "
            "for an image of M3ViT a6000 and xeon_6226r]",
        ),
    ] = None,
    output: Format = "table",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write result.json, arch.yaml and workload.yaml into this folder.  [default: none]"
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write every DRAM command with its memory-clock cycle as CSV; for short runs.  [default: none]",
        ),
    ] = None,
    trace_limit: TraceLimit = 20_000_000,
    timeline: TimelineFile = None,
    timeline_detail: TimelineDetail = "op",
    timeline_window: TimelineWindow = "",
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Also carry the program out on random weights and compare every result with float64.  [default: off]",
        ),
    ] = False,
    check_tokens: CheckTokens = 4,
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Simulate a workload on an architecture and print time, energy and where they go."""
    from pimsim.commands.run import run as simulate

    simulate(
        arch,
        workload,
        overrides=overrides or [],
        engine=engine,
        out=out,
        output=output,
        trace=trace,
        trace_limit=trace_limit,
        timeline=timeline,
        timeline_detail=timeline_detail,
        timeline_window=timeline_window,
        baselines=baseline or [],
        quiet=quiet,
        check_tokens=check_tokens if check else 0,
        strict=strict,
        command_line=context.obj or [],
    )


@app.command(
    short_help="Compare attention algorithms on machines.",
    help=_help(
        "Run attention algorithms on machines over contexts, and print time, energy, memory, traffic and error of each.",
        "pimsim compare --attention vanilla,single_pass:block=128,cmab --arch pim_gpt,edge_moe_zcu102 --context 128,1024,8192",
        more="An algorithm is NAME[:PARAMETER=VALUE...][@PHASE]; without a phase, one token is processed. A pair that does not "
        "run says why.",
    ),
)
def compare(
    attention: Annotated[
        str, typer.Option(metavar="NAME,...", help="Algorithms, as `pimsim list attention` names them.")
    ],
    arch: Annotated[str, typer.Option(metavar="NAME,...", help="Shipped architectures or YAML files.")],
    context: Annotated[str, typer.Option(metavar="N,...", help="Numbers of keys.")],
    phase: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="prefill, decode, update or query.  [default: one token]", show_default=False
        ),
    ] = "",
    workload: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="An attention workload that gives the other sizes.")
    ] = "attention_heads",
    overrides: Overrides = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare the numbers of every program, too.  [default: off]")
    ] = False,
    output: Annotated[str, typer.Option("--format", metavar="table|csv|json", help="Form of the output.")] = "table",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rows as CSV, too.  [default: none]")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw them (.png, .svg, .pdf).  [default: none]")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run attention algorithms on machines over contexts, and print what each costs."""
    from pimsim.commands.compare import compare as run_comparison

    run_comparison(
        attention,
        arch,
        context,
        phase=phase,
        workload=workload,
        overrides=overrides or [],
        check=check,
        output=output,
        out=out,
        plot=plot,
        quiet=quiet,
    )


@app.command(
    short_help="Write an HTML page about runs and sweeps.",
    help=_help(
        "Write one self-contained HTML page about folders of runs and sweeps; it works offline.",
        "pimsim run --arch pim_gpt --workload gpt2_decode --out runs/one",
        "pimsim report runs/one --html one.html",
    ),
)
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Folders of run --out or sweep --out.")],
    html: Annotated[Path, typer.Option(metavar="FILE", help="The page.")],
) -> None:
    """Write one self-contained HTML page about folders of runs and sweeps; it works offline."""
    from pimsim.commands.report import report as write_page

    write_page(folders, html)


@app.command(
    short_help="Run the points of a sweep file.",
    help=_help(
        "Run every point of a sweep file and store the figures as Parquet; --resume goes on where a run stopped.",
        "pimsim sweep pim_gpt_sensitivity --out runs/sens --workers 2",
    ),
)
def sweep(
    file: Annotated[str, typer.Argument(metavar="SWEEP", help="A shipped sweep or a YAML file.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the sweep.  [default: runs/NAME]")] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Processes on this computer.")] = os.cpu_count() or 1,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Dask scheduler, such as tcp://127.0.0.1:8786.  [default: none]"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in a folder that has points.  [default: off]")
    ] = False,
    overrides: Overrides = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Run every N-th point, from the I-th on.")] = "1/1",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count only.  [default: off]")] = False,
    max_failures: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Stop after more failures than that.  [default: no limit]")
    ] = None,
    output: Format = "table",
    quiet: Quiet = False,
) -> None:
    """Run every point of a sweep file and store the figures as Parquet."""
    from pimsim.commands.sweep import sweep as run_sweep

    clean = run_sweep(
        file,
        out=out,
        workers=workers,
        scheduler=scheduler,
        resume=resume,
        overrides=overrides or [],
        shard=shard,
        dry_run=dry_run,
        max_failures=max_failures,
        output=output,
        quiet=quiet,
    )
    if not clean:
        raise typer.Exit(FAILED)


@app.command(
    short_help="Search the axes of a sweep file for the best points.",
    help=_help(
        "Search the axes of a sweep file for the points that no other beats in every objective.",
        "pimsim search pim_gpt_sensitivity --trials 64 --out runs/best",
        more="--resume goes on where a search stopped, also with more --trials.",
    ),
)
def search(
    file: Annotated[str, typer.Argument(metavar="SWEEP", help="A shipped sweep or a YAML file, with objectives.")],
    trials: Annotated[int, typer.Option(metavar="N", min=1, help="Points to look at.")] = 64,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the search.  [default: runs/NAME-search]")
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Processes on this computer.")] = os.cpu_count() or 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in a folder that has points.  [default: off]")
    ] = False,
    overrides: Overrides = None,
    output: Format = "table",
    quiet: Quiet = False,
) -> None:
    """Search the axes of a sweep file for the points that no other beats in every objective."""
    from pimsim.commands.search import search as run_search

    run_search(
        file,
        trials=trials,
        out=out,
        workers=workers,
        resume=resume,
        overrides=overrides or [],
        output=output,
        quiet=quiet,
    )


@app.command(
    short_help="Continue a text with a GGUF model on the simulated machine.",
    help=_help(
        "Continue a prompt with the model of a GGUF file: the mapped program computes every token, greedily.",
        'pimsim generate --arch pim_gpt --model model.gguf --prompt "The capital of France is" --tokens 16',
        more="Text goes to standard output as it comes, simulated and wall time to standard error.",
    ),
)
def generate(
    arch: Arch,
    model: Annotated[Path, typer.Option(metavar="FILE.gguf", help="Model with weights and vocabulary.")],
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Text to continue.")],
    tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens to generate at most.")],
    overrides: Overrides = None,
    output: Annotated[str, typer.Option("--format", metavar="text|json", help="Form of the output.")] = "text",
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on behind a token that ends a text.  [default: off]")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Continue a prompt with the model of a GGUF file."""
    from pimsim.commands.generate import generate as continue_prompt

    continue_prompt(
        arch,
        model,
        prompt=prompt,
        tokens=tokens,
        overrides=overrides or [],
        output=output,
        ignore_eos=ignore_eos,
        quiet=quiet,
    )


@app.command(
    short_help="Issue a command trace at its earliest legal cycles.",
    help=_help(
        "Issue the commands of a trace in order, each at its earliest legal cycle.",
        "pimsim replay --dram ddr4_3200aa --trace commands.csv --out issued.csv",
        more="The cycles in the file are ignored; the result has the same columns, with memory-clock cycles.",
    ),
)
def replay(
    trace: Trace,
    dram: MaybeDram = None,
    arch: MaybeArch = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the result here.  [default: standard output]")
    ] = None,
) -> None:
    """Issue the commands of a trace in order, each at its earliest legal cycle."""
    from pimsim.commands.traces import replay as issue

    issue(dram, arch, overrides or [], trace, out)


@app.command(
    "trace-energy",
    short_help="Energy of a command trace by component.",
    help=_help(
        "Joules of the DRAM for the commands of a trace, by component.",
        "pimsim trace-energy --dram ddr4_3200aa --trace issued.csv",
        more="The cycles of the file count; a memory alone has no charge for commands over several banks.",
    ),
)
def trace_energy(
    trace: Trace,
    dram: MaybeDram = None,
    arch: MaybeArch = None,
    overrides: Overrides = None,
) -> None:
    """Joules of the DRAM for the commands of a trace, by component."""
    from pimsim.commands.traces import energy

    energy(dram, arch, overrides or [], trace)


@app.command(
    "verify-trace",
    short_help="Check a command trace against every timing rule.",
    help=_help(
        'Check a trace against every timing rule: "no violations", or one line each and exit code 1.',
        "pimsim run --arch pim_gpt --workload gpt2_decode --set workload.generate_tokens=1 --trace run.csv",
        "pimsim verify-trace --arch pim_gpt --trace run.csv",
        title="a run proves itself",
    ),
)
def verify_trace(
    trace: Trace,
    dram: MaybeDram = None,
    arch: MaybeArch = None,
    overrides: Overrides = None,
) -> None:
    """Check a trace against every timing rule: "no violations", or one line each and exit code 1."""
    from pimsim.commands.traces import verify

    if not verify(dram, arch, overrides or [], trace):
        raise typer.Exit(FAILED)


@app.command(
    short_help="Judge attention algorithms by a real model's predictions of a text.",
    help=_help(
        "Put attention algorithms into every layer of a GGUF model, as it is, and compare its predictions of a text with "
        "those of exact attention; with --arch, also what one more token's attention costs.",
        "pimsim quality --model model.gguf --attention topk:k=32,longformer:side=64,kv_drop:budget=128 --arch pim_gpt",
    ),
)
def quality(
    model: Annotated[Path, typer.Option(metavar="FILE.gguf", help="Model with weights and vocabulary.")],
    attention: Annotated[str, typer.Option(metavar="NAME,...", help="Algorithms, as NAME[:PARAMETER=VALUE...].")],
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text to predict.  [default: a story that comes with pimsim]")
    ] = None,
    tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens of the text at most.")] = 512,
    arch: Annotated[
        str,
        typer.Option(
            metavar="NAME,...", help="Architectures whose costs stand beside.  [default: none]", show_default=False
        ),
    ] = "",
    output: Annotated[str, typer.Option("--format", metavar="table|json", help="Form of the output.")] = "table",
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw perplexity against costs (.png, .svg, .pdf).  [default: none]"),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Judge attention algorithms by a real model's predictions of a text."""
    from pimsim.commands.quality import quality as run_quality

    run_quality(model, attention, text=text, tokens=tokens, arch=arch, output=output, plot=plot, quiet=quiet)


@app.command(
    short_help="Compare published figures with this simulator.",
    help=_help(
        "Compare published and golden figures with this simulator; exit code 1 if one fails.",
        "pimsim validate --format json",
    ),
)
def validate(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Figures to compare.  [default: all]")
    ] = None,
    output: Annotated[
        str, typer.Option("--format", metavar="table|json|markdown", help="Form of the output.")
    ] = "table",
    quiet: Quiet = False,
) -> None:
    """Compare published and golden figures with this simulator; exit code 1 if one fails."""
    from pimsim.commands.validation import validate as compare

    if not compare(names or [], output, quiet=quiet):
        raise typer.Exit(FAILED)


@app.command(
    "list",
    short_help="List what there is of a kind.",
    help=_help(
        "List what there is of a kind: a name and a short description per line.",
        "pimsim list workloads",
    ),
)
def list_(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="archs, workloads, attention, dram, baselines, sweeps or commands.")
    ],
    output: Format = "table",
) -> None:
    """List what there is of a kind: a name and a short description per line."""
    from pimsim.commands.inspect import list_names

    list_names(kind, output)


@app.command(
    short_help="Print the JSON Schema of a kind of file.",
    help=_help(
        "Print the JSON Schema of a kind of YAML file, for editors that complete and check.",
        "pimsim schema arch > arch.schema.json",
    ),
)
def schema(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="arch, workload, dram or sweep.")],
) -> None:
    """Print the JSON Schema of a kind of YAML file, for editors that complete and check."""
    from pimsim.commands.inspect import schema as print_schema

    print_schema(kind)


@app.command(
    short_help="Print a resolved configuration with its sources.",
    help=_help(
        "Print a configuration with everything inherited filled in, and the source of every number.",
        "pimsim show --arch pim_gpt --set arch.dram.channels=16",
    ),
)
def show(
    arch: MaybeArch = None,
    workload: MaybeWorkload = None,
    overrides: Overrides = None,
    output: Annotated[str, typer.Option("--format", metavar="yaml|json", help="Form of the output.")] = "yaml",
) -> None:
    """Print a configuration with everything inherited filled in, and the source of every number."""
    from pimsim.commands.inspect import show as print_configuration

    print_configuration(arch, workload, overrides or [], output)


baseline_app = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    help="Devices to compare with: pimsim list baselines shows those that are shipped.",
)
app.add_typer(baseline_app, name="baseline", short_help="Measure a device to compare with.")


@baseline_app.command(
    short_help="Time a workload on this machine.",
    help=_help(
        "Time the forward passes of a workload on this machine and write them as a baseline.",
        "pimsim baseline measure --workload gpt2_decode --out mine.yaml",
        "pimsim run --arch pim_gpt --workload gpt2_decode --baseline mine.yaml",
        title="a run against this machine",
        more="Energy is read from RAPL where the system allows it, and is unknown elsewhere.",
    ),
)
def measure(
    workload: Workload,
    overrides: Overrides = None,
    stack: Annotated[str, typer.Option(metavar="numpy|torch", help="Library that runs the passes.")] = "numpy",
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Passes at each context; the fastest counts.")] = 5,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the YAML here.  [default: standard output]")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Time the forward passes of a workload on this machine and write them as a baseline."""
    from pimsim.commands.baseline import measure as measure_here

    measure_here(workload, overrides or [], stack, repeats, out, quiet=quiet)


def main() -> None:
    """Entry point of the program."""
    typer.main.get_command(app).main(prog_name="pimsim")


__all__ = ["app", "guarded", "main"]
