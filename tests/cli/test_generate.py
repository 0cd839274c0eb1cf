"""``pimsim generate`` from a GGUF file to text: the mapped program against the float64 reference."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_tools import pimsim
from tiny_gguf import LETTERS
from typer.testing import Result

from pimsim.analysis.energy import energy
from pimsim.config import load_arch, load_workload
from pimsim.machine.reference import ReferenceEngine
from pimsim.mapper.mapping import Mapping
from pimsim.workload.importers import import_workload
from pimsim.workload.importers.gguf import load_weights
from pimsim.workload.models import build_graph
from pimsim.workload.reference import Reference

pytest.importorskip("gguf", reason="writes the model")
pytest.importorskip("tokenizers", reason="text needs the package tokenizers")

FLOAT32 = ("--set", "arch.pim.format=float32")


def run(model: Path, *options: str, prompt: str = "a tiny PIM!", tokens: int = 6) -> Result:
    given = ("--prompt", prompt, "--tokens", str(tokens), *options)
    return pimsim("generate", "--arch", "pim_gpt", "--model", str(model), *given)


def test_the_mapped_program_generates_what_the_reference_does(model: Path) -> None:
    result = run(model, "--format", "json", "--ignore-eos", *FLOAT32)
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    workload = import_workload(model)
    reference = Reference(build_graph(workload), workload, load_weights(model))
    assert made["token_ids"] == reference.generate(made["prompt_ids"], 6)
    assert made["prompt_ids"] == [LETTERS.index({" ": "\u0120"}.get(each, each)) for each in "a tiny PIM!"]
    assert made["text"] == "".join(LETTERS[token] for token in made["token_ids"]).replace("\u0120", " ")
    assert made["stop"] == "length"
    assert made["token_seconds"] == sorted(set(made["token_seconds"]))
    assert made["seconds_per_token"] == pytest.approx(made["token_seconds"][-1] / 6)
    assert made["joules_per_token"] > 0
    assert made["wall_seconds"] > 0


def test_the_time_is_that_of_the_passes_with_these_tokens(model: Path) -> None:
    """The reference engine, which times command by command, on the program of the very tokens that were generated."""
    made = json.loads(run(model, "--format", "json", "--ignore-eos").stdout)
    arch = load_arch("pim_gpt").value
    work = load_workload(model, [("prompt_tokens", "11"), ("generate_tokens", "6")]).value
    spec = arch.dram.resolve()
    mapping = Mapping(work, build_graph(work), arch, spec)
    read = [*made["prompt_ids"], *made["token_ids"][:-1]]
    passes = [mapping.forward_pass(number + 1, token) for number, token in enumerate(read)]
    totals = ReferenceEngine(arch, spec).run(iter(passes))
    assert made["token_seconds"] == [spec.seconds(ticks) for ticks in totals.token_ticks[10:]]
    assert made["seconds_per_token"] == spec.seconds(totals.ticks) / 6
    assert made["joules_per_token"] == energy(totals, arch, spec).joules / 6


def test_text_goes_to_stdout_and_figures_to_stderr(model: Path) -> None:
    result = run(model, "--ignore-eos")
    made = json.loads(run(model, "--format", "json", "--ignore-eos").stdout)
    assert result.stdout == f"a tiny PIM!{made['text']}\n"
    *lines, summary, simulated, wall = result.stderr.splitlines()
    assert summary == "6 tokens (length) behind a prompt of 11"
    assert (simulated.startswith("simulated: "), wall.startswith("wall: ")) == (True, True)
    assert [line.split(":")[0].rpartition(" ")[0] for line in lines] == [f"token {k}" for k in range(1, 7)]
    assert re.fullmatch(r"token 1 '.': [\d.]+ ms, [\d.]+ mJ simulated \(prompt of 11 included\)", lines[0])
    ends = [
        re.fullmatch(r"token \d '.': ([\d.]+) ms, .* \(([\d.]+) ms, ([\d.]+) mJ in all\)", line) for line in lines[1:]
    ]
    assert all(ends)
    last = ends[-1]
    assert last is not None
    assert float(last[2]) == pytest.approx(made["token_seconds"][-1] * 1e3, rel=1e-3)
    assert float(last[3]) == pytest.approx(made["token_joules"][-1] * 1e3, rel=1e-3)
    assert run(model, "--ignore-eos", "--quiet").stderr == ""


def test_int8_takes_the_scales_of_its_cache_from_the_prompt(model: Path) -> None:
    made = json.loads(run(model, "--format", "json", "--ignore-eos", "--set", "arch.pim.format=int8").stdout)
    exact = json.loads(run(model, "--format", "json", "--ignore-eos", *FLOAT32).stdout)
    assert len(made["token_ids"]) == 6
    assert made["token_ids"][0] == exact["token_ids"][0]
    assert made["seconds_per_token"] < exact["seconds_per_token"]  # a quarter of the bytes


def test_one_terminal_shows_text_and_figures_in_turn(model: Path) -> None:
    """A real pseudo terminal: the figures of a token stand under the text, and are gone at the end."""
    command = [sys.executable, "-m", "pimsim", "generate", "--arch", "pim_gpt", "--model", str(model)]
    command += ["--prompt", "a tiny PIM!", "--tokens", "3", "--ignore-eos"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0
    made = json.loads(run(model, "--format", "json", "--ignore-eos", tokens=3).stdout)
    text = shown.decode()
    assert text.count("mJ simulated") == 3
    assert "prompt of 11 included" in text
    assert f"a tiny PIM!{made['text']}" in text
    assert "3 tokens (length) behind a prompt of 11" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, r"error: the prompt must have at least one token, not none"),
        (
            {"tokens": 30},
            r"error: the prompt and --tokens must fit the model's context of 32 tokens, not 11 \+ 30 - 1 = 40",
        ),
    ],
)
def test_bad_input(options: dict[str, Any], message: str, model: Path) -> None:
    result = run(model, **options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.match(message, result.stderr)


def test_reserved_fields_and_formats(model: Path) -> None:
    result = run(model, "--set", "workload.prompt_tokens=4")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --set workload.prompt_tokens must be left out: it follows from --prompt")
    result = run(model, "--format", "jsn")
    assert result.stderr == "error: format must be one of json, text, not 'jsn'; did you mean 'json'?\n"


def patched(model: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """A copy of the model with other bytes."""
    path = model.with_name(name)
    path.write_bytes(change(model.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[: len(content) // 2], r": a GGUF file must go on to byte [\d,]+, where tensor '"),
        (lambda content: content[:50], r": "),
        (lambda content: b"GGML" + content[4:], r": a GGUF file must begin with b'GGUF', not b'GGML'"),
        (
            lambda content: content.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"),
            r": tokenizer\.ggml\.tokens: the file must have a vocabulary to read and write text",
        ),
        (
            lambda content: content.replace(b"gpt2.block_count", b"gpt2.block_kount"),
            r": must have the key 'gpt2\.block_count'",
        ),
    ],
)
def test_broken_models(change: Callable[[bytes], bytes], message: str, model: Path) -> None:
    path = patched(model, "broken.gguf", change)
    result = run(path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.match(rf"error: {re.escape(str(path))}{message}", result.stderr), result.stderr


def test_an_unsupported_quantisation(model: Path) -> None:
    name = b"blk.0.attn_qkv.weight"

    def other(content: bytes) -> bytes:
        at = content.index(name) + len(name) + 4 + 2 * 8
        return content[:at] + (99).to_bytes(4, "little") + content[at + 4 :]

    path = patched(model, "quantised.gguf", other)
    result = run(path)
    assert (result.exit_code, result.stdout) == (2, "")
    wanted = f"error: {path}: the encoding of tensor 'blk.0.attn_qkv.weight' must be one of F32, F16, "
    assert result.stderr.startswith(wanted)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("name: w\nmodel: {layers: 1, d_model: 8, heads: 2, d_ff: 8, vocabulary: 9, context: 4}\n")
    result = run(path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {path}: a GGUF file must begin with b'GGUF', not b'name'")


def test_a_file_that_is_not_there() -> None:
    assert run(Path("none.gguf")).stderr == "error: none.gguf: the file must exist\n"


def test_machines_and_formats_that_cannot(model: Path) -> None:
    given = ("--model", str(model), "--prompt", "a", "--tokens", "1")
    result = pimsim("generate", "--arch", "edge_moe_zcu102", *given)
    assert result.exit_code == 2
    assert result.stderr == "error: --arch must be of kind pim to generate text, not fpga as edge_moe_zcu102 is\n"
