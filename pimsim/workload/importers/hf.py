"""Workloads from the ``config.json`` of a Hugging Face model.

Every key that changes what is computed is read; one with a value that `DecoderConfig` cannot express is an error that
names the key and its line. A key that may be left out has the default of the ``transformers`` package.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pimsim.errors import WorkloadError, did_you_mean
from pimsim.workload.importers.tree import imported_tree, llama3_factors
from pimsim.yamlio import FieldPath, Position, Tree, load_tree

_ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_TYPES: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class _Config:
    """Typed access to a ``config.json``; collects the fields of the model and where they stand."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.model: dict[str, Any] = {}
        self.places: dict[str, Position] = {}

    def value(self, kind: type, key: str, default: Any = None, *, inside: FieldPath = ()) -> Any:
        """The value of a key; the default if it is missing or null.

        Raises:
            ConfigError: there is neither a value nor a default, or the value has another type.
        """
        data = self.tree.data
        for part in inside:
            data = data[str(part)]
        given = data.get(key)
        if given is None:
            if default is None:
                raise self.tree.error(f"must have the key {key!r}", inside)
            return default
        fits = isinstance(given, int | float if kind is float else kind) and (
            kind is bool or not isinstance(given, bool)
        )
        if not fits:
            shown = "a mapping" if isinstance(given, dict) else "a list" if isinstance(given, list) else repr(given)
            raise self.tree.error(f"must be {_TYPES[kind]}, not {shown}", (*inside, key))
        return given

    def take(self, field: str, kind: type, key: str, default: Any = None) -> Any:
        """Set a field of the model from a key; a default is a value of the field, too."""
        found = self.value(kind, key, default)
        self.put(field, found, key)
        return found

    def put(self, field: str, value: Any, key: str = "") -> None:
        """Set a field of the model; ``key`` is where the value comes from."""
        self.model[field] = value
        if key in self.tree.data:
            self.places[field] = self.tree.position((key,))

    def given(self, *keys: str) -> str:
        """The first of several keys that has a value, or the first one."""
        return next((key for key in keys if self.tree.data.get(key) is not None), keys[0])

    def must(self, key: str, wanted: bool, default: bool, why: str) -> None:
        """Refuse a switch in a position that cannot be expressed."""
        if self.value(bool, key, default) is not wanted:
            raise self.tree.error(f"must be {str(wanted).lower()}: {why}", (key,))

    def activation(self, key: str, default: str) -> None:
        """The nonlinearity."""
        name = self.value(str, key, default)
        if name not in _ACTIVATIONS:
            choices = ", ".join(_ACTIVATIONS)
            raise self.tree.error(f"must be one of {choices}, not {name!r}{did_you_mean(name, _ACTIVATIONS)}", (key,))
        self.put("activation", _ACTIVATIONS[name], key)

    def positive(self, key: str, default: Any = None, *, inside: FieldPath = (), kind: type = int) -> Any:
        """A positive number that something is computed from."""
        found = self.value(kind, key, default, inside=inside)
        if not 0 < found < 1e12:
            raise self.tree.error(f"must be positive and at most 1e12, not {found}", (*inside, key))
        return found


def _gpt2(c: _Config) -> None:
    c.take("layers", int, "n_layer")
    width = c.take("d_model", int, "n_embd")
    c.take("heads", int, "n_head")
    c.take("d_ff", int, "n_inner", 4 * width)
    c.take("context", int, c.given("n_positions", "n_ctx"))
    c.take("norm_eps", float, "layer_norm_epsilon", 1e-5)
    c.activation("activation_function", "gelu_new")
    if not c.value(bool, "scale_attn_weights", True):
        c.put("attention_scale", 1.0, "scale_attn_weights")
    c.must("scale_attn_by_inverse_layer_idx", False, False, "scores with a factor per layer cannot be expressed")
    c.must("add_cross_attention", False, False, "cross-attention cannot be expressed")
    c.take("tied_embeddings", bool, "tie_word_embeddings", True)


def _gpt_neo(c: _Config) -> None:
    c.take("layers", int, "num_layers")
    width = c.take("d_model", int, "hidden_size")
    c.take("heads", int, "num_heads")
    c.take("d_ff", int, "intermediate_size", 4 * width)
    c.take("context", int, "max_position_embeddings")
    c.take("norm_eps", float, "layer_norm_epsilon", 1e-5)
    c.activation("activation_function", "gelu_new")
    c.put("biases", ["projection", "feed_forward"])
    c.put("attention_scale", 1.0)
    c.take("tied_embeddings", bool, "tie_word_embeddings", True)
    if set(re.findall(r"\w*[a-z]\w*", str(c.tree.data.get("attention_types")))) != {"global"}:
        c.take("window", int, "window_size", 256)


def _gptj(c: _Config) -> None:
    c.take("layers", int, "n_layer")
    width, heads = c.take("d_model", int, "n_embd"), c.positive("n_head")
    c.put("heads", heads, "n_head")
    c.take("d_ff", int, "n_inner", 4 * width)
    c.take("context", int, "n_positions")
    c.take("norm_eps", float, "layer_norm_epsilon", 1e-5)
    c.activation("activation_function", "gelu_new")
    c.put("biases", ["feed_forward", "lm_head"])
    c.put("position", "rope")
    c.put("rope_convention", "interleaved")
    _rotary(c, c.positive("rotary_dim"), width // heads, "rotary_dim")
    c.put("parallel_residual", True)
    c.take("tied_embeddings", bool, "tie_word_embeddings", False)


def _opt(c: _Config) -> None:
    c.take("layers", int, "num_hidden_layers")
    width = c.take("d_model", int, "hidden_size")
    c.take("heads", int, "num_attention_heads")
    c.take("d_ff", int, "ffn_dim")
    c.take("context", int, "max_position_embeddings")
    c.activation("activation_function", "relu")
    c.must("do_layer_norm_before", True, True, "norms behind attention and feed-forward cannot be expressed")
    c.must("layer_norm_elementwise_affine", True, True, "norms without gain and shift cannot be expressed")
    c.must("_remove_final_layer_norm", False, False, "a model without its last norm cannot be expressed")
    if c.value(int, "word_embed_proj_dim", width) != width:
        raise c.tree.error(
            f"must be hidden_size, {width}: a projection behind the embedding cannot be expressed",
            ("word_embed_proj_dim",),
        )
    if not c.value(bool, "enable_bias", True):
        c.put("biases", [], "enable_bias")
    c.take("tied_embeddings", bool, "tie_word_embeddings", True)


def _llama(c: _Config) -> None:
    _rms_decoder(c, eps=1e-6, tied=False)
    biases = ["attention", "projection"] if c.value(bool, "attention_bias", False) else []
    if c.value(bool, "mlp_bias", False):
        biases.append("feed_forward")
    c.put("biases", biases, c.given("attention_bias", "mlp_bias"))
    _sliding(c, present=False)


def _mistral(c: _Config) -> None:
    _rms_decoder(c, eps=1e-6, tied=False)
    c.put("biases", [])
    default = None if "sliding_window" in c.tree.data else 4096
    _sliding(c, present=True, default=default)


def _qwen2(c: _Config) -> None:
    _rms_decoder(c, eps=1e-6, tied=False)
    c.put("biases", ["attention"])
    _sliding(c, present=c.value(bool, "use_sliding_window", False), default=4096)


def _gemma(c: _Config) -> None:
    # its first files say "gelu" and mean the tanh form
    _rms_decoder(c, eps=1e-6, tied=True, d_head=256, activation=c.given("hidden_activation", "hidden_act"))
    if c.model["activation"] == "gelu_erf":
        c.model["activation"] = "gelu_tanh"
    c.put("biases", ["attention", "projection"] if c.value(bool, "attention_bias", False) else [])
    c.put("norm_offset", 1.0)
    c.put("embedding_scale", c.positive("hidden_size") ** 0.5)
    c.must("use_bidirectional_attention", False, False, "attention to later tokens cannot be expressed")


def _rms_decoder(c: _Config, *, eps: float, tied: bool, d_head: int = 0, activation: str = "hidden_act") -> None:
    """What the Llama family has in common."""
    c.take("layers", int, "num_hidden_layers")
    width, heads = c.take("d_model", int, "hidden_size"), c.positive("num_attention_heads")
    c.put("heads", heads, "num_attention_heads")
    c.take("kv_heads", int, "num_key_value_heads", heads)
    if d_head or c.tree.data.get("head_dim") is not None:
        c.take("d_head", int, "head_dim", d_head or None)
    c.take("d_ff", int, "intermediate_size")
    c.take("context", int, "max_position_embeddings")
    c.put("norm", "rmsnorm")
    c.take("norm_eps", float, "rms_norm_eps", eps)
    c.activation(activation, "gelu_pytorch_tanh" if d_head else "silu")
    c.put("gated", True)
    c.put("position", "rope")
    _rope(c, c.model.get("d_head", width // heads))
    c.take("tied_embeddings", bool, "tie_word_embeddings", tied)


def _rotary(c: _Config, rotary: int, head: int, key: str) -> None:
    if rotary > head:
        raise c.tree.error(f"must be at most the {head} elements of a head, not {rotary}", (key,))
    c.put("rope_fraction", rotary / head, key)


def _rope(c: _Config, head: int) -> None:
    """Base and scaling of the rotation: keys of their own, or inside ``rope_parameters``."""
    key = c.given("rope_parameters", "rope_scaling")
    scaling = c.tree.data.get(key)
    if scaling is not None and not isinstance(scaling, dict):
        raise c.tree.error("must be a mapping", (key,))
    scaling = scaling or {}
    nested = scaling.get("rope_theta") is not None
    inside: FieldPath = (key,) if nested else ()
    theta = float(c.positive("rope_theta", 10_000.0, inside=inside, kind=float))
    c.put("rope_theta", theta, key if nested else "rope_theta")
    if c.value(float, "partial_rotary_factor", 1.0) != 1.0 or scaling.get("partial_rotary_factor", 1.0) != 1.0:
        raise c.tree.error("must be 1: models of this type rotate whole heads", ("partial_rotary_factor",))
    type_key = "rope_type" if "rope_type" in scaling else "type"
    kind = c.value(str, type_key, "default", inside=(key,)) if scaling else "default"
    if kind == "default":
        return
    if kind not in ("linear", "llama3"):
        raise c.tree.error(f"must be one of default, linear, llama3, not {kind!r}", (key, type_key))

    def number(name: str) -> float:
        return float(c.positive(name, inside=(key,), kind=float))

    pairs = head // 2
    if not 1 <= pairs <= 1 << 16:
        field = "head_dim" if "head_dim" in c.tree.data else "hidden_size"
        raise c.tree.error(f"must leave 1 to at most 65,536 pairs of a head's elements, not {pairs}", (field,))
    factors = [number("factor")] * pairs
    if kind == "llama3":
        low, high = number("low_freq_factor"), number("high_freq_factor")
        if high <= low:
            raise c.tree.error(f"must be more than low_freq_factor, {low:g}, not {high:g}", (key, "high_freq_factor"))
        original = int(number("original_max_position_embeddings"))
        factors = llama3_factors(pairs, head, theta, number("factor"), low, high, original)
    c.put("rope_factors", factors, key)


def _sliding(c: _Config, *, present: bool, default: int | None = None) -> None:
    """A window that is smaller than the context, for all layers or for some."""
    types = c.tree.data.get("layer_types")
    if isinstance(types, list) and types:
        unknown = [each for each in types if each not in ("full_attention", "sliding_attention")]
        if unknown:
            raise c.tree.error(f"must be full_attention or sliding_attention, not {unknown[0]!r}", ("layer_types",))
        present = "sliding_attention" in types
    if not present:
        return
    if c.tree.data.get("sliding_window") is None and default is None:
        return
    if c.value(int, "sliding_window", default) < c.model["context"]:
        c.take("window", int, "sliding_window", default)


_MODELS: dict[str, Callable[[_Config], None]] = {
    "gemma": _gemma,
    "gpt2": _gpt2,
    "gpt_neo": _gpt_neo,
    "gptj": _gptj,
    "llama": _llama,
    "mistral": _mistral,
    "opt": _opt,
    "qwen2": _qwen2,
}

MODEL_TYPES: tuple[str, ...] = tuple(_MODELS)
"""Values of ``model_type`` that can be imported."""


def workload_tree(source: Tree | Path) -> Tree:
    """The workload of a ``config.json``, every value with its line.

    Raises:
        ConfigError: a key is missing, has another type or a value that cannot be expressed.
        WorkloadError: the ``model_type`` is unknown.
    """
    tree = source if isinstance(source, Tree) else load_tree(source, inherit=False)
    file = tree.files[0]
    config = _Config(tree)
    kind = config.value(str, "model_type")
    if kind not in _MODELS:
        at = tree.position(("model_type",))
        raise WorkloadError(
            f"{at.file}:{at.line}: model_type must be one of {', '.join(_MODELS)}, not {kind!r}"
            f"{did_you_mean(kind, _MODELS)}"
        )
    config.take("vocabulary", int, "vocab_size")
    _MODELS[kind](config)
    name = file.resolve().parent.name if file.stem == "config" else file.stem
    return imported_tree(file, name or "model", kind, config.model, config.places, f"{file.name}, model_type {kind}")


__all__ = ["MODEL_TYPES", "workload_tree"]
