#!/usr/bin/env python3
"""Records the token ids of a torture list for each test vocabulary, by the tokenizers package and by llama.cpp, into tests/data/tokens."""
import in_venv  # noqa: F401
import argparse
import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import gguf

import make_tiny_models as tiny
import vocab

TOP = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "entropix"
TOKENIZE = TOP / "target/peers/llama.cpp-native/bin/llama-tokenize"

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\t", "\t\t", " \n", "\n ", "\r\n", "\r", " \t\n\r ", "a", " a", "a ", " a ", "  a", "a  ", "\na", "a\n", "a\n\n\nb", "a \n b", "a\n  b", "a  \n\n  b",
    "Hello world", "Hello, world!", " Hello  World ", "hello HELLO HeLLo", "The entropy of the next token.", "tokenizer", "The tokenizer and a tokenizer",
    "0", "1", "12", "123", "1234", "12345678901234567890", "3.14159", "1,000,000", "-42", "v1.2.3-rc4", "2025-11-21T18:09:00Z", "0x1F600", "a1b2c3", "1st 2nd", "½ ² Ⅷ ٣٤ 五 ①②③",
    "I'm you're he's we'll they'd I've don't", "I'M YOU'RE HE'S WE'LL THEY'D I'VE DON'T", "I’m don’t", "'s 't 're", "''s", "it's's", "'S 'LL",
    "東京の天気は晴れです。", "你好，世界！", "안녕하세요 세계", "日本語 English 混在", "Привет, мир!", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "Ελλάδα", "ﬁ ﬂ Ǆ ß ẞ İ ı",
    "😀", "😀😁😂", "👨‍👩‍👧‍👦", "👍🏽", "🏳️‍🌈", "🇫🇷🇯🇵", "a😀b", "e\u0301 vs \u00e9", "n\u0303o", "a\u0300\u0301\u0302\u0303", "\u1100\u1161\u11a8", "\u212b \u00c5 A\u030a", "Z\u0351a\u0367l\u0300g\u0311o\u0320",
    "\u00a0a\u00a0b", "\u3000全角\u3000", "a\u200bb", "a\u200db", "\u202eabc\u202c", "\ufeffbom", "\u2028\u2029", "\x01\x02\x1f\x7f", "a\x0bb\x0cc", "\u0085a", "\ufffd", "\U0010ffff", "\ue000",
    "    def f(x):\n        return x ** 2  # square\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n", "<html>\n  <p class=\"x\">a &amp; b</p>\n</html>", "{\"key\": [1, 2.5e-3, null]}",
    "https://example.com/a?b=c&d=%20#e", "user@example.com", "C:\\path\\to\\file", "~/.config/*", "a_b-c.d/e", "!!!???...", "....", "--- *** ___", "$100 €50 £7 ¥9", "a+b=c", "(a)[b]{c}<d>", "\"'`", "@#%^&*", "¡¿«»„“”—–…",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", " " * 33 + "x", "\n" * 17, "\t" * 9 + "x", "ab" * 20, "supercalifragilisticexpialidocious", "Donaudampfschifffahrtsgesellschaftskapitän",
    "<|im_start|>user\nHi<|im_end|>\n", "<|im_end|>", " <|im_end|> ", "a<|im_end|>b", "<|im_start|><|im_end|>", "<|im_end", "<|endoftext|>", "<|endoftext|>\n<|endoftext|>", "<s>", "</s>", "a</s> b", "<unk>", "<0x41>", "[INST] x [/INST]", "▁", "a▁b", "Ġ", "aĠb",
]

# Where llama.cpp is known to differ, and why.
REASONS = [
    (lambda pre, text: pre == "qwen2" and unicodedata.normalize("NFC", text) != text, "llama.cpp does not normalise to NFC; the model's own tokenizer does"),
    (lambda pre, text: pre == "qwen2" and "</s>" in text, "llama.cpp takes any token called </s> for an end token; in this vocabulary it is ordinary text"),
]


def plain_and_special(tokenizer, text):
    tokenizer.encode_special_tokens = True
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    return plain, tokenizer.encode(text, add_special_tokens=False).ids


def llama_cpp(path, text, special):
    with tempfile.NamedTemporaryFile() as file:
        file.write(text.encode())
        file.flush()
        command = [TOKENIZE, "-m", path, "-f", file.name, "--ids", "--no-bos", "--no-escape", "--log-disable"] + ([] if special else ["--no-parse-special"])
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"record_tokens: llama-tokenize failed on {path.name} and {text!r}:\n{done.stderr[-500:]}")
    return json.loads(done.stdout)


def record(path, pre, tokenizer, folder):
    lines, different = [], 0
    for text in TEXTS:
        plain, special = plain_and_special(tokenizer, text)
        case = {"text": text, "plain": plain}
        if special != plain:
            case["special"] = special
        theirs = llama_cpp(path, text, False)
        theirs_special = llama_cpp(path, text, True) if "<" in text or "[" in text else theirs
        if theirs != plain or theirs_special != special:
            different += 1
            case |= {"llama_cpp_plain": theirs, "llama_cpp_special": theirs_special}
            case["why"] = next((why for holds, why in REASONS if holds(pre, text)), None)
            if case["why"] is None:
                sys.exit(f"record_tokens: {path.name}: {text!r} is {plain} or {special} by tokenizers, {theirs} or {theirs_special} by llama.cpp; "
                         "find out why and add the reason to REASONS")
        lines.append(json.dumps(case, ensure_ascii=True, separators=(",", ":")))
    stem = path.name.removesuffix(".gguf")
    head = json.dumps({"checkpoint": path.name, "pre_tokenizer": pre})
    (folder / f"{stem}.json").write_text(head[:-1] + ',"cases":[\n' + ",\n".join(lines) + "\n]}\n")
    print(f"{path.name}: {len(TEXTS)} texts, llama.cpp differs on {different}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=TOP / "tests/data/tokens", help="where to (default: tests/data/tokens)")
    args = parser.parse_args()
    if not TOKENIZE.exists():
        sys.exit(f"record_tokens: no {TOKENIZE.relative_to(TOP)}; run scripts/get_llama_cpp")
    args.dir.mkdir(parents=True, exist_ok=True)
    for name, file in (("llama-tied", "llama-tied.Q4_0.gguf"), ("llama3", "llama3.F16.gguf"), ("qwen2", "qwen2.Q8_0.gguf"), ("llama-wide", "llama-wide.Q4_K.gguf"), ("mistral", "mistral.Q8_0.gguf")):
        spec = next(s for s in tiny.SPECS if s.name == name)
        record(TOP / "tests/data/tiny" / file, spec.pre, tiny.make_vocab(spec)["tokenizer"], args.dir)
    for file in ("SmolLM2-135M-Instruct.Q4_1.gguf", "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf"):
        path = CACHE / file
        if not path.is_file():
            sys.exit(f"record_tokens: no checkpoint {path}; scripts/get_model fetches it")
        reader = gguf.GGUFReader(path)
        record(path, reader.fields["tokenizer.ggml.pre"].contents(), vocab.from_gguf(reader), args.dir)


if __name__ == "__main__":
    main()
