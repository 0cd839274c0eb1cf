"""The vocabulary of a GGUF file: from text to token ids and back.

Two kinds are read: byte-level BPE (``tokenizer.ggml.model`` is ``gpt2``: merges by rank, behind a pre-tokenizer that is
only named in the file) and SentencePiece BPE (``llama``: the neighbours with the best score are merged, bytes stand for
what has no piece). The ``tokenizers`` package, an optional dependency, does the merging; what a token stands for is
read here, byte by byte, so that text can be shown while it is generated.
"""

from __future__ import annotations

import codecs
import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pimsim.errors import ConfigError, WorkloadError, did_you_mean
from pimsim.extras import require
from pimsim.workload.importers.gguf import GgufFile

PREFIX = "tokenizer.ggml."
MAX_TOKEN = 1024
"""Characters of a token; its parts are searched for merges."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Values of ``tokenizer.ggml.token_type``."""

_SPACE = "\u2581"
"""What SentencePiece writes for a space."""

_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT4_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class PreTokenizer(NamedTuple):
    """How text is cut before the merges of byte-level BPE, as the ``tokenizer.json`` of the models has it."""

    splits: tuple[str, ...]
    """Regular expressions; each cuts what the one before left, into its matches and what lies between."""
    whole_words: bool = False
    """Whether a piece that is a token is taken without looking at the merges."""
    begins: bool = False
    """Whether the token for the beginning is put in front unless the file says otherwise."""


_GPT2 = PreTokenizer((_GPT2_WORDS,))
_DIGITS = PreTokenizer((r"\p{N}", _GPT2_WORDS))
_LLAMA3 = PreTokenizer((_GPT4_WORDS % "{1,3}",), whole_words=True, begins=True)
_QWEN2 = PreTokenizer((_GPT4_WORDS % "",))

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "olmo": _GPT2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "codeshell": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "stablelm2": _QWEN2,
}
"""Values of ``tokenizer.ggml.pre`` that are known."""

MODELS = ("gpt2", "llama")
"""Values of ``tokenizer.ggml.model`` that are known."""


class Vocabulary:
    """Tokens of a model; ids count from 0.

    Attributes:
        size: number of tokens.
        begin: token that goes in front of every prompt, or None.
        stops: tokens that end a text.
    """

    def __init__(self, file: GgufFile) -> None:
        """Read the vocabulary of a file.

        Raises:
            ConfigError: there is no vocabulary, or a key has a wrong value.
            WorkloadError: tokens, merges or scores do not fit together.
            InputError: the optional package ``tokenizers`` is not installed.
        """
        self._file = file
        self._texts: list[str] = file.values(f"{PREFIX}tokens") if file.count(f"{PREFIX}tokens") else []
        if not self._texts:
            raise ConfigError(
                "the file must have a vocabulary to read and write text", file=file.path, path=_key("tokens")
            )
        self.size = len(self._texts)
        self._ids = _numbered(file, self._texts)
        self._types = self._token_types()
        kind = _named(file, "model", MODELS)
        self._byte_level = kind == "gpt2"
        model = _ByteLevel(file) if self._byte_level else _SentencePiece(file, self._types)
        self._tokenizer = model.tokenizer(_library(), self._texts, self._ids)
        self._tokenizer.add_special_tokens(self._added(CONTROL, special=True))
        self._tokenizer.add_tokens(self._added(USER_DEFINED, special=False))
        self._check_ids()
        self.begin = self._begin(default=model.begins)
        self.stops = frozenset(token for name in ("eos", "eot") if (token := self._id(f"{name}_token_id")) is not None)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, the token for the beginning in front where the model has one.

        Text that reads like a control token is that token.

        Raises:
            WorkloadError: the text has characters that cannot be written in UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise WorkloadError(f"the prompt must be text that UTF-8 can write, not {text!r}") from None
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids if self.begin is None else [self.begin, *ids]

    def bytes_of(self, token: int) -> bytes:
        """What a token stands for; alone it need not be whole characters.

        Raises:
            WorkloadError: there is no such token.
        """
        if not 0 <= token < self.size:
            raise WorkloadError(f"a token must be from 0 to {self.size - 1}, not {token}")
        text, kind = self._texts[token], self._types[token]
        if kind in (CONTROL, USER_DEFINED):
            return text.encode()
        if self._byte_level:
            return b"".join(_BYTES.get(each) or each.encode() for each in text)
        if kind == BYTE:
            return bytes([_byte_value(text)])
        return text.replace(_SPACE, " ").encode()

    def stream(self) -> TextStream:
        """A new text, to be written token by token."""
        return TextStream(self)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; bytes that are no character become U+FFFD.

        Raises:
            WorkloadError: there is no such token.
        """
        stream = self.stream()
        return "".join(map(stream.write, tokens)) + stream.close()

    def _token_types(self) -> list[int]:
        if self._file.count(_key("token_type")) is None:
            return [NORMAL] * self.size
        types = self._file.values(_key("token_type"))
        if len(types) != self.size:
            raise ConfigError(
                f"must have {self.size} entries, not {len(types)}", file=self._file.path, path=_key("token_type")
            )
        return types

    def _added(self, kind: int, *, special: bool) -> list[Any]:
        """Tokens that are found in a text before anything else is."""
        make = _library().AddedToken
        return [
            make(text, special=special, normalized=False)
            for text, each in zip(self._texts, self._types, strict=True)
            if each == kind and text
        ]

    def _check_ids(self) -> None:
        """The library numbers tokens that it does not know anew; here it must have known all."""
        if self._tokenizer.get_vocab_size(with_added_tokens=True) != self.size:
            raise WorkloadError(f"{self._file.path}: every token must be a text of its own")

    def _begin(self, *, default: bool) -> int | None:
        wanted = self._file.metadata.get(_key("add_bos_token"))
        token = self._id("bos_token_id")
        if wanted is None:
            return token if default else None
        if not isinstance(wanted, bool):
            raise ConfigError(
                f"must be true or false, not {wanted!r}", file=self._file.path, path=_key("add_bos_token")
            )
        if wanted and token is None:
            raise ConfigError(f"must have the key {_key('bos_token_id')!r}", file=self._file.path)
        return token if wanted else None

    def _id(self, key: str) -> int | None:
        token = self._file.metadata.get(_key(key))
        if token is None:
            return None
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self.size:
            raise ConfigError(f"must be from 0 to {self.size - 1}, not {token!r}", file=self._file.path, path=_key(key))
        return token


class TextStream:
    """Text that becomes longer token by token; a character is given once all of its bytes are there."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, token: int) -> str:
        """What the token adds to the text; empty while a character is incomplete.

        Raises:
            WorkloadError: there is no such token.
        """
        return self._decoder.decode(self._vocabulary.bytes_of(token))

    def close(self) -> str:
        """U+FFFD for a character that stayed incomplete, or nothing."""
        return self._decoder.decode(b"", final=True)


# -------------------------------------------------------------------------------------------------------------- kinds


class _ByteLevel:
    """BPE on bytes, each written as one printable character; merges come with their rank."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self._pre = PRE_TOKENIZERS[_named(file, "pre", PRE_TOKENIZERS)]
        self.begins = self._pre.begins

    def tokenizer(self, library: Any, _texts: Sequence[str], ids: Mapping[str, int]) -> Any:
        made = library.Tokenizer(
            library.models.BPE(vocab=dict(ids), merges=self._merges(ids), ignore_merges=self._pre.whole_words)
        )
        cuts = library.pre_tokenizers
        splits = [cuts.Split(library.Regex(each), behavior="isolated") for each in self._pre.splits]
        made.pre_tokenizer = cuts.Sequence([*splits, cuts.ByteLevel(add_prefix_space=False, use_regex=False)])
        return made

    def _merges(self, ids: Mapping[str, int]) -> list[tuple[str, str]]:
        merges = []
        for rank, text in enumerate(self._file.values(_key("merges"))):
            cut = text.find(" ", 1)
            left, right = text[:cut], text[cut + 1 :]
            if cut < 0 or not {left, right, left + right} <= ids.keys():
                raise WorkloadError(
                    f"{self._file.path}: entry {rank} of {_key('merges')} must be two tokens that make one, with a space "
                    f"between them, not {_shown(text)}"
                )
            merges.append((left, right))
        return merges


class _SentencePiece:
    """BPE on characters; the pair whose piece has the best score is merged first."""

    begins = True

    def __init__(self, file: GgufFile, types: Sequence[int]) -> None:
        self._file, self._types = file, types

    def tokenizer(self, library: Any, texts: Sequence[str], ids: Mapping[str, int]) -> Any:
        unknown = [text for text, kind in zip(texts, self._types, strict=True) if kind == UNKNOWN]
        self._check_bytes(texts)
        made = library.Tokenizer(
            library.models.BPE(
                vocab=dict(ids),
                merges=self._merges(texts, ids),
                unk_token=unknown[0] if unknown else None,
                fuse_unk=True,
                byte_fallback=BYTE in self._types,
            )
        )
        normal = library.normalizers
        prefix = self._file.metadata.get(_key("add_space_prefix"), True)
        steps = [normal.Prepend(_SPACE)] if prefix else []
        made.normalizer = normal.Sequence([*steps, normal.Replace(" ", _SPACE)])
        return made

    def _merges(self, texts: Sequence[str], ids: Mapping[str, int]) -> list[tuple[str, str]]:
        """Every pair of pieces that makes a piece; better scores first, then in the order of the left one's score."""
        scores = self._file.values(_key("scores"))
        if len(scores) != len(texts) or not all(isinstance(each, float) and math.isfinite(each) for each in scores):
            raise ConfigError(
                f"must have a finite number for each of {len(texts)} tokens", file=self._file.path, path=_key("scores")
            )
        usable = {
            text: score
            for text, kind, score in zip(texts, self._types, scores, strict=True)
            if kind in (NORMAL, USER_DEFINED)
        }
        merges = []
        for text, score in usable.items():
            for cut in range(1, len(text)):
                left, right = text[:cut], text[cut:]
                if left in usable and right in usable:
                    merges.append((-score, ids[left], ids[right], left, right))
        merges.sort(key=lambda merge: merge[:3])
        return [(left, right) for *_, left, right in merges]

    def _check_bytes(self, texts: Sequence[str]) -> None:
        for text, kind in zip(texts, self._types, strict=True):
            if kind == BYTE and _byte_value(text) < 0:
                raise WorkloadError(f"{self._file.path}: a token for a byte must read like <0x0A>, not {_shown(text)}")


def _printable_bytes() -> dict[str, bytes]:
    """Character -> byte of GPT-2's alphabet: printable bytes are themselves, the others follow from U+0100 on."""
    table, spare = {}, 256
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD):
            table[chr(byte)] = bytes([byte])
        else:
            table[chr(spare)] = bytes([byte])
            spare += 1
    return table


_BYTES = _printable_bytes()


def _byte_value(text: str) -> int:
    """10 for ``<0x0A>``; -1 for what does not read like that."""
    digits = text[3:-1]
    fits = len(text) == 6 and text.startswith("<0x") and text.endswith(">")
    return int(digits, 16) if fits and all(each in "0123456789ABCDEFabcdef" for each in digits) else -1


# -------------------------------------------------------------------------------------------------------------- keys


def _key(name: str) -> str:
    return f"{PREFIX}{name}"


def _named(file: GgufFile, key: str, choices: Iterable[str]) -> str:
    """The value of a key that must be one of the choices."""
    given = file.metadata.get(_key(key))
    if given is None:
        raise ConfigError(f"must have the key {_key(key)!r}, one of {', '.join(choices)}", file=file.path)
    if not isinstance(given, str) or given not in choices:
        shown = _shown(given) if isinstance(given, str) else "something else"
        close = did_you_mean(given, choices) if isinstance(given, str) else ""
        raise ConfigError(f"must be one of {', '.join(choices)}, not {shown}{close}", file=file.path, path=_key(key))
    return given


def _numbered(file: GgufFile, texts: Sequence[str]) -> dict[str, int]:
    """Text of a token -> its id."""
    ids: dict[str, int] = {}
    for token, text in enumerate(texts):
        if len(text) > MAX_TOKEN:
            raise WorkloadError(f"{file.path}: a token must have at most {MAX_TOKEN:,} characters, not {len(text):,}")
        if ids.setdefault(text, token) != token:
            raise WorkloadError(f"{file.path}: every token must be given once, not {_shown(text)} twice")
    return ids


def _shown(text: str) -> str:
    """At most 40 characters of a text of the file."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _library() -> Any:
    """The package that merges."""
    require("models", "reading and writing text", "tokenizers")
    return importlib.import_module("tokenizers")


__all__ = ["MODELS", "PRE_TOKENIZERS", "PreTokenizer", "TextStream", "Vocabulary"]
