"""Workloads and weights from a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

The header is read here, with every count and length checked against the size of the file before anything is made from
it; the ``gguf`` package, an optional dependency, only turns quantised blocks into numbers.
"""

from __future__ import annotations

import importlib
import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pimsim.errors import ConfigError, WorkloadError, did_you_mean
from pimsim.extras import require
from pimsim.workload import ops
from pimsim.workload.config import WorkloadConfig
from pimsim.workload.graph import WorkloadGraph, layer_of
from pimsim.workload.importers import GGUF_MAGIC
from pimsim.workload.importers.tree import imported_tree
from pimsim.workload.models import build_graph
from pimsim.yamlio import Position, Tree, validate

Array = npt.NDArray[Any]

VERSIONS = (2, 3)
MAX_KEYS = 10_000
MAX_TENSORS = 100_000
MAX_TEXT = 1 << 24
"""Bytes of one text."""
MAX_TEXTS = 4_000_000
"""Texts in one list, such as a vocabulary."""
MAX_AXES = 4

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9

_ENCODINGS: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
}
"""Number of an encoding in the file -> its name, elements of a block, bytes of a block."""


# ------------------------------------------------------------------------------------------------------------ header


class GgufTensor(NamedTuple):
    """Where a tensor lies; ``shape`` has the slowest axis first, so a product is ``[d_out, d_in]``."""

    name: str
    shape: tuple[int, ...]
    encoding: int
    offset: int
    """From the beginning of the file."""

    @property
    def encoding_name(self) -> str:
        """Name of the encoding, such as Q4_1."""
        return _ENCODINGS[self.encoding][0] if self.encoding in _ENCODINGS else f"number {self.encoding}"


@dataclass(frozen=True)
class _List:
    """A list in the metadata, not yet decoded."""

    kind: int
    count: int
    at: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file."""

    path: Path
    metadata: Mapping[str, Any]
    """Numbers, switches and texts; lists are had from `values`."""
    tensors: Mapping[str, GgufTensor]

    def values(self, key: str) -> list[Any]:
        """A list of the metadata, such as ``tokenizer.ggml.tokens``.

        Raises:
            ConfigError: there is no such list.
            WorkloadError: it has a text that is not UTF-8.
        """
        entry = self.metadata.get(key)
        if not isinstance(entry, _List):
            raise ConfigError("the file must have this list", file=self.path, path=key)
        with _mapped(self.path) as content:
            cursor = _Cursor(self.path, content, entry.at)
            if entry.kind == _TEXT:
                return [cursor.text() for _ in range(entry.count)]
            return list(cursor.take(f"{entry.count}{_SCALARS[entry.kind]}"))

    def count(self, key: str) -> int | None:
        """Length of a list of the metadata; None if there is none."""
        entry = self.metadata.get(key)
        return entry.count if isinstance(entry, _List) else None


def read_gguf(path: Path | str) -> GgufFile:
    """Read the header; work and memory are bounded by the size of the file.

    Raises:
        ConfigError: the file cannot be opened.
        WorkloadError: it is not GGUF, is truncated or has counts, lengths or offsets that do not fit it.
    """
    path = Path(path)
    with _mapped(path) as content:
        cursor = _Cursor(path, content, 0)
        if content[: len(GGUF_MAGIC)] != GGUF_MAGIC:
            raise WorkloadError(f"{path}: a GGUF file must begin with {GGUF_MAGIC!r}, not {bytes(content[:4])!r}")
        cursor.at = len(GGUF_MAGIC)
        (version,) = cursor.take("I")
        if version not in VERSIONS:
            wanted = " or ".join(map(str, VERSIONS))
            raise WorkloadError(f"{path}: the GGUF version must be {wanted}, little-endian, not {version}")
        tensor_count, key_count = cursor.take("QQ")
        cursor.limit(tensor_count, MAX_TENSORS, 24, "tensors")
        cursor.limit(key_count, MAX_KEYS, 13, "keys")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = cursor.text("a key")
            if key in metadata:
                raise WorkloadError(f"{path}: every key must be given once, not {key!r} twice")
            metadata[key] = cursor.value(key)
        found = [_tensor(cursor) for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise ConfigError(
                f"must be a power of two of at most 1,048,576, not {alignment}", file=path, path="general.alignment"
            )
        start = -(-cursor.at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for tensor in found:
            if tensor.name in tensors:
                raise WorkloadError(f"{path}: every tensor must be given once, not {tensor.name!r} twice")
            tensors[tensor.name] = moved = tensor._replace(offset=start + tensor.offset)
            _check_place(path, moved, len(content))
    return GgufFile(path, metadata, tensors)


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except IsADirectoryError:
        raise ConfigError("must be a file, not a folder", file=path) from None
    except FileNotFoundError:
        raise ConfigError("the file must exist", file=path) from None
    except ValueError:
        raise WorkloadError(f"{path}: a GGUF file must begin with {GGUF_MAGIC!r}; the file is empty") from None
    except OSError as error:
        raise ConfigError(f"the file must be readable: {error.strerror or error}", file=path) from None


class _Cursor:
    """A place in the header that never leaves the file."""

    def __init__(self, path: Path, content: mmap.mmap, at: int) -> None:
        self.path, self.content, self.at = path, content, at

    def take(self, form: str) -> tuple[Any, ...]:
        """Little-endian numbers."""
        form = f"<{form}"
        start = self._advance(struct.calcsize(form))
        return struct.unpack_from(form, self.content, start)

    def text(self, what: str = "a text") -> str:
        """A length and as many bytes of UTF-8."""
        length = self._text_length(what)
        start = self._advance(length)
        try:
            return self.content[start : self.at].decode()
        except UnicodeDecodeError:
            raise WorkloadError(f"{self.path}: {what} at byte {start} must be UTF-8") from None

    def value(self, key: str) -> Any:
        """A value of the metadata; a list is only stepped over."""
        (kind,) = self.take("I")
        if kind == _TEXT:
            return self.text(f"{key!r}")
        if kind in _SCALARS:
            (number,) = self.take(_SCALARS[kind])
            # the shortest decimal that is the same float32: 1e-05, not 9.999999747378752e-06
            return float(str(np.float32(number))) if kind == 6 else number
        if kind == _ARRAY:
            return self._list(key)
        raise WorkloadError(f"{self.path}: {key!r} must have a known type, not {kind}")

    def limit(self, count: int, most: int, each: int, what: str) -> None:
        """Refuse a count of things of at least ``each`` bytes that do not fit the file, or are far too many."""
        fitting = min(most, (len(self.content) - self.at) // each)
        if count > fitting:
            raise WorkloadError(f"{self.path}: {what} must be at most {fitting:,}, not {count:,}")

    def _list(self, key: str) -> _List:
        kind, count = self.take("IQ")
        if kind == _TEXT:
            self.limit(count, MAX_TEXTS, 8, f"the texts of {key!r}")
            entry = _List(kind, count, self.at)
            for _ in range(count):
                self._advance(self._text_length(f"a text of {key!r}"))
            return entry
        if kind not in _SCALARS:
            raise WorkloadError(f"{self.path}: {key!r} must be a list of numbers or texts, not of type {kind}")
        size = struct.calcsize(f"<{_SCALARS[kind]}")
        self.limit(count, len(self.content), size, f"the numbers of {key!r}")
        return _List(kind, count, self._advance(count * size))

    def _text_length(self, what: str) -> int:
        (length,) = self.take("Q")
        self.limit(length, MAX_TEXT, 1, f"the bytes of {what}")
        return int(length)

    def _advance(self, size: int) -> int:
        start = self.at
        if size > len(self.content) - start:
            raise WorkloadError(
                f"{self.path}: a GGUF file must go on to byte {start + size:,} at least; it is truncated at "
                f"{len(self.content):,}"
            )
        self.at += size
        return start


def _tensor(cursor: _Cursor) -> GgufTensor:
    """Name, axes (fastest first in the file), encoding and offset behind the header."""
    name = cursor.text("the name of a tensor")
    (axes,) = cursor.take("I")
    if not 1 <= axes <= MAX_AXES:
        raise WorkloadError(f"{cursor.path}: tensor {name!r} must have 1 to {MAX_AXES} axes, not {axes}")
    shape = tuple(reversed(cursor.take(f"{axes}Q")))
    encoding, offset = cursor.take("IQ")
    return GgufTensor(name, shape, encoding, offset)


def _check_place(path: Path, tensor: GgufTensor, size: int) -> None:
    elements = math.prod(tensor.shape)
    _, block, block_bytes = _ENCODINGS.get(tensor.encoding, ("", 1, 0))
    if not elements or tensor.shape[-1] % block:
        raise WorkloadError(
            f"{path}: the innermost axis of tensor {tensor.name!r} must be a positive multiple of {block}, "
            f"not {tensor.shape[-1]}"
        )
    end = tensor.offset + elements // block * block_bytes
    if end > size:
        raise WorkloadError(
            f"{path}: a GGUF file must go on to byte {end:,}, where tensor {tensor.name!r} {list(tensor.shape)} ends; "
            f"it is truncated at {size:,}"
        )


# ---------------------------------------------------------------------------------------------------------- workload


class _Header:
    """Typed access to the keys of one architecture."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.arch = self._typed(str, "general.architecture", None)

    def has(self, key: str) -> bool:
        """Whether the key, relative to the architecture, is given."""
        return f"{self.arch}.{key}" in self.file.metadata

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive whole number.

        Raises:
            ConfigError: there is neither a value nor a default, or it is something else.
        """
        found: int = self._typed(int, f"{self.arch}.{key}", default)
        if not 0 < found < 1 << 40:
            raise self.error(f"must be positive and below 2^40, not {found}", key)
        return found

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number.

        Raises:
            ConfigError: there is neither a value nor a default, or it is something else.
        """
        found = float(self._typed(float, f"{self.arch}.{key}", default))
        if not 0 < found < math.inf:
            raise self.error(f"must be positive and finite, not {found}", key)
        return found

    def text(self, key: str, default: str) -> str:
        """A text.

        Raises:
            ConfigError: it is something else.
        """
        found: str = self._typed(str, f"{self.arch}.{key}", default)
        return found

    def error(self, message: str, key: str) -> ConfigError:
        """An error about a key of the architecture."""
        return ConfigError(message, file=self.file.path, path=f"{self.arch}.{key}")

    def _typed(self, kind: type, key: str, default: Any) -> Any:
        given = self.file.metadata.get(key, default)
        if given is None:
            raise ConfigError(f"must have the key {key!r}", file=self.file.path)
        wanted = {int: "a whole number", float: "a number", str: "text"}[kind]
        fits = isinstance(given, int | float if kind is float else kind) and not isinstance(given, bool)
        if not fits:
            shown = f"a list of {given.count}" if isinstance(given, _List) else repr(given)
            raise ConfigError(f"must be {wanted}, not {shown}", file=self.file.path, path=key)
        return given


ARCHITECTURES = ("gemma", "gpt2", "llama", "qwen2")
"""Values of ``general.architecture`` that can be imported."""


def workload_tree(path: Path | str) -> Tree:
    """The workload of a GGUF file.

    Raises:
        ConfigError: the file cannot be opened, or a key is missing or has a wrong value.
        WorkloadError: it is no sound GGUF file, its architecture is unknown or its tensors have other shapes.
    """
    file = read_gguf(path)
    tree = _tree(file)
    _check_tensors(file, validate(tree, WorkloadConfig))
    return tree


def _tree(file: GgufFile) -> Tree:
    header = _Header(file)
    if header.arch not in ARCHITECTURES:
        raise WorkloadError(
            f"{file.path}: general.architecture must be one of {', '.join(ARCHITECTURES)}, not {header.arch!r}"
            f"{did_you_mean(header.arch, ARCHITECTURES)}"
        )
    if file.metadata.get("split.count", 1) not in (0, 1):
        raise ConfigError("must be 1: models in several files cannot be read", file=file.path, path="split.count")
    if header.has("expert_count") and file.metadata[f"{header.arch}.expert_count"] != 0:
        raise header.error("must be 0: a mixture of experts cannot be expressed", "expert_count")
    model = {**_sizes(header), **_structure(header)}
    top = Position(str(file.path))
    origin = f"{file.path.name}, architecture {header.arch}"
    return imported_tree(file.path, file.path.stem, header.arch, model, dict.fromkeys(model, top), origin)


def _sizes(header: _Header) -> dict[str, Any]:
    width, heads = header.integer("embedding_length"), header.integer("attention.head_count")
    model: dict[str, Any] = {
        "layers": header.integer("block_count"),
        "d_model": width,
        "heads": heads,
        "d_ff": header.integer("feed_forward_length"),
        "vocabulary": _vocabulary(header),
        "context": header.integer("context_length"),
        "kv_heads": header.integer("attention.head_count_kv", heads),
    }
    d_head = header.integer("attention.key_length", max(1, width // heads))
    if header.has("attention.value_length") and header.integer("attention.value_length") != d_head:
        raise header.error(f"must be as long as the keys, {d_head}", "attention.value_length")
    if d_head * heads != width:
        model["d_head"] = d_head
    if header.has("attention.sliding_window") and header.file.metadata[f"{header.arch}.attention.sliding_window"] != 0:
        model["window"] = header.integer("attention.sliding_window")
    return model


def _vocabulary(header: _Header) -> int:
    """From the key, the list of tokens or the table, whichever is there first."""
    tokens = header.file.count("tokenizer.ggml.tokens")
    if header.has("vocab_size") or tokens:
        return header.integer("vocab_size", tokens)
    table = header.file.tensors.get("token_embd.weight")
    if table is None:
        raise ConfigError(f"must have the key '{header.arch}.vocab_size'", file=header.file.path)
    return table.shape[0]


def _structure(header: _Header) -> dict[str, Any]:
    tensors = header.file.tensors
    biases = {
        "attention": ("attn_qkv", "attn_q"),
        "projection": ("attn_output",),
        "feed_forward": ("ffn_up",),
    }
    model: dict[str, Any] = {
        "biases": [what for what, names in biases.items() if any(f"blk.0.{name}.bias" in tensors for name in names)],
        "tied_embeddings": "output.weight" not in tensors,
    }
    if "output.bias" in tensors:
        model["biases"].append("lm_head")
    if header.arch == "gpt2":
        return {**model, "norm_eps": header.number("attention.layer_norm_epsilon", 1e-5)}
    model |= {
        "norm": "rmsnorm",
        "norm_eps": header.number("attention.layer_norm_rms_epsilon"),
        "activation": "gelu_tanh" if header.arch == "gemma" else "silu",
        "gated": True,
        "position": "rope",
        "rope_theta": header.number("rope.freq_base", 10_000.0),
    }
    d_head = header.integer(
        "attention.key_length", max(1, header.integer("embedding_length") // header.integer("attention.head_count"))
    )
    rotary = header.integer("rope.dimension_count", d_head)
    if rotary > d_head:
        raise header.error(f"must be at most the {d_head} elements of a head, not {rotary}", "rope.dimension_count")
    model["rope_fraction"] = rotary / d_head
    if header.arch == "llama" and rotary != d_head:
        model["rope_convention"] = "interleaved"
    factors = _rope_factors(header, rotary // 2)
    if factors:
        model["rope_factors"] = factors
    if header.arch == "gemma":
        # the 1 of 1 + gamma is part of the stored gains
        model["embedding_scale"] = math.sqrt(header.integer("embedding_length"))
    return model


def _rope_factors(header: _Header, pairs: int) -> list[float]:
    """Divisors of the frequencies: one number for all, or a tensor; empty if they are not stretched."""
    kind = header.text("rope.scaling.type", "linear" if header.has("rope.scale_linear") else "none")
    if kind not in ("none", "linear"):
        raise header.error(f"must be one of none, linear, not {kind!r}", "rope.scaling.type")
    tensor = header.file.tensors.get("rope_freqs.weight")
    if tensor is not None:
        if tensor.shape != (pairs,) or tensor.encoding != 0:
            raise WorkloadError(
                f"{header.file.path}: tensor 'rope_freqs.weight' must be F32 of the shape {[pairs]}, not "
                f"{tensor.encoding_name} of {list(tensor.shape)}"
            )
        return [float(str(each)) for each in _plain(header.file, tensor)]
    if kind == "none":
        return []
    if pairs > 1 << 16:
        raise header.error(f"must be at most 131,072, not {2 * pairs:,}", "rope.dimension_count")
    factor = header.number("rope.scaling.factor" if header.has("rope.scaling.factor") else "rope.scale_linear", 1.0)
    return [factor] * pairs if factor != 1.0 else []


def _plain(file: GgufFile, tensor: GgufTensor) -> Array:
    return np.fromfile(file.path, dtype="<f4", count=math.prod(tensor.shape), offset=tensor.offset)


# ----------------------------------------------------------------------------------------------------------- tensors


class _Part(NamedTuple):
    """A tensor of the file that is a part of one of the graph; ``heads`` are those whose rows were reordered, or 0."""

    name: str
    shape: tuple[int, ...]
    heads: int = 0


_NORMS = {"ln_1": "attn_norm", "ln_2": "ffn_norm", "ln_f": "output_norm"}
_LINEARS = {"proj": "attn_output", "up": "ffn_up", "down": "ffn_down", "lm_head": "output"}
_ENDINGS = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}


def _parts(graph: WorkloadGraph, arch: str) -> dict[str, tuple[_Part, ...]]:
    """Name of a tensor of the graph -> the tensors of the file that it is made of, one below the other."""
    found: dict[str, tuple[_Part, ...]] = {}
    tied = graph.tied()
    qkv_heads = {op.inputs[0]: op for op in graph if isinstance(op, ops.Rope)}
    for op in graph:
        for name, shape in op.tensors().items():
            if name in tied:
                continue
            _, _, end = name.rpartition(".")
            layer, short = layer_of(op.name), op.name.rpartition(".")[2]
            block = f"blk.{layer}." if layer >= 0 else ""
            if isinstance(op, ops.Embedding):
                found[name] = (_Part(f"{'token' if end == 'tokens' else 'position'}_embd.weight", shape),)
                continue
            stored = tuple(reversed(shape))
            ending = _ENDINGS[end]
            if short == "qkv" and arch != "gpt2":
                found[name] = _qkv_parts(block, ending, stored, qkv_heads[op.name], reordered=arch == "llama")
            elif short == "gate_up":
                half = (stored[0] // 2, *stored[1:])
                found[name] = (_Part(f"{block}ffn_gate.{ending}", half), _Part(f"{block}ffn_up.{ending}", half))
            else:
                base = _NORMS.get(short) or _LINEARS.get(short) or "attn_qkv"
                found[name] = (_Part(f"{block}{base}.{ending}", stored),)
    return found


def _qkv_parts(
    block: str, ending: str, stored: tuple[int, ...], rope: ops.Rope, *, reordered: bool
) -> tuple[_Part, ...]:
    """Queries, keys, values. Llama's converter puts the elements of a rotated pair side by side."""
    parts = []
    for what, heads in (("q", rope.heads), ("k", rope.kv_heads), ("v", rope.kv_heads)):
        shape = (heads * rope.d_head, *stored[1:])
        moved = reordered and what != "v" and rope.convention == "half"
        parts.append(_Part(f"{block}attn_{what}.{ending}", shape, heads if moved else 0))
    return tuple(parts)


def _check_tensors(file: GgufFile, workload: WorkloadConfig) -> dict[str, tuple[_Part, ...]]:
    """Every tensor of the graph must be in the file, with its shape."""
    model = workload.model
    expected = model.layers * 9
    if expected > 4 * len(file.tensors) + 64:
        raise WorkloadError(f"{file.path}: {model.layers:,} layers must have more than {len(file.tensors):,} tensors")
    arch = _Header(file).arch
    if model.position == "rope" and model.rope_convention == "interleaved" and arch != "llama":
        raise WorkloadError(f"{file.path}: model.rope_convention must be half for architecture {arch!r}")
    if model.rope_convention == "half" and arch == "llama" and model.rotary_width != model.head_width:
        raise WorkloadError(f"{file.path}: model.rope_convention must be interleaved where parts of heads are rotated")
    if (model.position == "rope") == (arch == "gpt2"):
        raise WorkloadError(f"{file.path}: model.position must be that of architecture {arch!r}, not {model.position}")
    one_token = workload.model_copy(update={"lm_head": True, "prompt_tokens": 1, "generate_tokens": 1})
    parts = _parts(build_graph(one_token), arch)
    for part in (part for group in parts.values() for part in group):
        tensor = file.tensors.get(part.name)
        if tensor is None:
            raise WorkloadError(f"{file.path}: the file must have the tensor {part.name!r}, {list(part.shape)}")
        if tensor.shape != part.shape:
            raise WorkloadError(
                f"{file.path}: tensor {part.name!r} must have the shape {list(part.shape)} (slowest axis first), "
                f"not {list(tensor.shape)}"
            )
    return parts


class GgufWeights(Mapping[str, Array]):
    """The tensors of the graph, float32, made from the file whenever they are asked for.

    Products are ``[d_in, d_out]`` (a transposed view), queries, keys and values as well as gate and up in one. A tied
    ``final.lm_head.weight`` is the transposed ``embed.tokens``.
    """

    def __init__(self, file: GgufFile, workload: WorkloadConfig) -> None:
        """Raises: WorkloadError, if a tensor is missing, has another shape or an encoding that cannot be read."""
        self.file = file
        self.workload = workload
        self._parts = _check_tensors(file, workload)
        self._tied = {"final.lm_head.weight": "embed.tokens"} if workload.model.tied_embeddings else {}
        for part in (part for group in self._parts.values() for part in group):
            tensor = file.tensors[part.name]
            if tensor.encoding not in _ENCODINGS:
                choices = ", ".join(name for name, _, _ in _ENCODINGS.values())
                raise WorkloadError(
                    f"{file.path}: the encoding of tensor {part.name!r} must be one of {choices}, not "
                    f"{tensor.encoding_name}"
                )

    def __getitem__(self, name: str) -> Array:
        """Raises: WorkloadError, if the tensor has an infinite element or one that is not a number."""
        if name in self._tied:
            return self[self._tied[name]].T
        loaded = [self._load(part) for part in self._parts[name]]
        whole = loaded[0] if len(loaded) == 1 else np.concatenate(loaded)
        return whole if name.startswith("embed.") else whole.T

    def __iter__(self) -> Iterator[str]:
        yield from self._parts
        yield from self._tied

    def __len__(self) -> int:
        return len(self._parts) + len(self._tied)

    def _load(self, part: _Part) -> Array:
        tensor = self.file.tensors[part.name]
        values = _dequantise(self.file, tensor)
        if not np.isfinite(values).all():
            raise WorkloadError(f"{self.file.path}: every element of tensor {part.name!r} must be finite")
        if not part.heads:
            return values
        # rows (head, pair, element of the pair) -> (head, element, pair)
        rest = values.shape[1:]
        pairs = values.reshape(part.heads, -1, 2, *rest)
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def load_weights(path: Path | str, workload: WorkloadConfig | None = None) -> GgufWeights:
    """The weights of a GGUF file under the names of the graph; nothing but the header is read yet.

    Shapes must agree with ``workload``, which by default is the file's own.

    Raises:
        ConfigError: the file cannot be opened, or a key is missing or has a wrong value.
        WorkloadError: it is no sound GGUF file, its architecture is unknown, or a tensor is missing, has another
            shape or an encoding that cannot be read.
        InputError: the optional package ``gguf`` is not installed.
    """
    _quants()
    file = read_gguf(path)
    return GgufWeights(file, workload or validate(_tree(file), WorkloadConfig))


def _quants() -> Any:
    """The package that turns quantised blocks into numbers."""
    require("models", "reading the weights of GGUF files", "gguf")
    return importlib.import_module("gguf")


def _dequantise(file: GgufFile, tensor: GgufTensor) -> Array:
    """Float32 of the tensor's shape."""
    package = _quants()
    _, block, block_bytes = _ENCODINGS[tensor.encoding]
    rows, columns = tensor.shape[:-1], tensor.shape[-1] // block * block_bytes
    count = math.prod(rows) * columns
    raw = np.fromfile(file.path, dtype=np.uint8, count=count, offset=tensor.offset)
    if raw.size != count:
        raise WorkloadError(f"{file.path}: a GGUF file must not be cut short while it is read")
    encoding = package.GGMLQuantizationType(tensor.encoding)
    values = package.dequantize(raw.reshape(*rows, columns), encoding)
    return np.asarray(values, dtype=np.float32).reshape(tensor.shape)


__all__ = [
    "ARCHITECTURES",
    "GgufFile",
    "GgufTensor",
    "GgufWeights",
    "load_weights",
    "read_gguf",
    "workload_tree",
]
