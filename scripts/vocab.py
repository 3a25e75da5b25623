"""Vocabularies: pre-tokenizers by their GGUF name, a tokenizer from GGUF fields, tiny vocabularies trained from a fixed text."""
from collections import Counter

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")

# GGUF token types
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def pre_tokenizer(name):
    """The pre-tokenizer of the models that GGUF calls `name`, as their own tokenizer.json has it."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name in ("gpt-2", "smollm"))
    if name == "gpt-2":
        return byte_level
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    pattern = {"llama-bpe": LLAMA3, "qwen2": QWEN2}[name]
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


def byte_level_tokenizer(tokens, merges, special, pre, bos=None):
    """A byte-level BPE tokenizer. `special` are the control and user-defined tokens; `bos` is put in front by the post-processor."""
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, ids[bos])])
    return tokenizer


def sentencepiece_tokenizer(tokens, merges):
    """A sentencepiece BPE tokenizer as Llama 2 and Mistral ship it: blanks become U+2581, unknown characters become bytes."""
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", ids["<s>"])])
    return tokenizer


def from_gguf(reader):
    """The tokenizer that a GGUF file's own byte-level vocabulary and named pre-tokenizer describe."""
    field = lambda key: reader.fields["tokenizer.ggml." + key].contents()
    tokens = field("tokens")
    special = [t for t, kind in zip(tokens, field("token_type")) if kind in (CONTROL, USER_DEFINED)]
    return byte_level_tokenizer(tokens, [tuple(m.split(" ")) for m in field("merges")], special, field("pre"))


def train(words, symbols, count):
    """Plain BPE: `count` merges of the commonest pair, ties to the lesser pair. `words` maps a tuple of symbols to how often it occurs."""
    words, symbols, merges = dict(words), list(symbols), []
    while len(merges) < count:
        pairs = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += times
        pair = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(pair)
        joined = pair[0] + pair[1]
        if joined not in symbols:
            symbols.append(joined)
        merged = Counter()
        for word, times in words.items():
            out, at = [], 0
            while at < len(word):
                if word[at:at + 2] == pair:
                    out.append(joined)
                    at += 2
                else:
                    out.append(word[at])
                    at += 1
            merged[tuple(out)] += times
        words = merged
    return symbols, merges


CORPUS = """The entropy of the next token says how sure the model is. When the model is sure, the next token is the likely one;
when it is not, there are many. The variance of the surprise says more: one sharp choice among few, or a flat sea of
many. It's a small thing to measure and we'll measure it at each step, 128 at a time. The answer is in the numbers
that the model gives: 2048 of them, 1024 more, then 3000 in 2025 and 2026. Don't count them all.
def step(self, rows):
    for row in rows:
        if row.entropy > 2.00:
            return self.branch(row)
    return self.draw(rows)

let mut sum = 0.0;
for (i, x) in logits.iter().enumerate() {
    sum += (x - max).exp();
}

The cat and the hat; the dog, the log and the frog. She said: "They've been there, and I'm here." HE SAID: "THEY'RE NOT."
Tout le monde était là, près de la forêt. Die Straße war schön. 東京の天気は晴れです。
"""


def tiny_byte_level(pre, size, special):
    """(tokens, merges, tokenizer) of a byte-level vocabulary of `size` tokens, the specials last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Counter(tuple(piece) for piece, _ in pre_tokenizer(pre).pre_tokenize_str(CORPUS))
    # A whole word that no merge reaches: llama-bpe must find it, the others must not.
    whole = ["Ġtokenizer"]
    tokens, merges = train(words, alphabet, size - len(alphabet) - len(special) - len(whole))
    tokens += whole + special
    bos = special[0] if pre == "llama-bpe" else None
    return tokens, merges, byte_level_tokenizer(tokens, merges, special, pre, bos)


def tiny_sentencepiece(merge_count):
    """(tokens, scores, types, merges, tokenizer) of a sentencepiece vocabulary: specials, bytes, pieces by merge rank, characters."""
    words = Counter(tuple("▁" + word) for line in CORPUS.split("\n") for word in line.split(" "))
    kept = "▁" + "".join(sorted(set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:'\"()-=+é")))
    words = Counter({w: n for w, n in words.items() if set(w) <= set(kept)})
    _, merges = train(words, list(kept), merge_count)
    pieces = list(dict.fromkeys(a + b for a, b in merges)) + list(kept)
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + pieces
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(pieces))]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces)
    # sentencepiece joins the pair whose result scores best, so every way to build a piece is a merge of that piece's rank
    known = set(pieces)
    by_rank = [(p[:cut], p[cut:]) for p in pieces for cut in range(1, len(p)) if p[:cut] in known and p[cut:] in known]
    return tokens, scores, types, by_rank, sentencepiece_tokenizer(tokens, by_rank)
