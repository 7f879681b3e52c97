# SPDX-License-Identifier: Apache-2.0
"""Makes the tokenizer vectors that the tests compare with, by the libraries that define the right answer.

    python3 scripts/dev/tokenizer_vectors.py marlin          tests/golden/tokenizer/marlin-chat.vec
    python3 scripts/dev/tokenizer_vectors.py sentencepiece   tests/golden/tokenizer/{bpe,unigram,...}.{model,vec}
    python3 scripts/dev/tokenizer_vectors.py components      tests/golden/tokenizer/components*
    python3 scripts/dev/tokenizer_vectors.py json FILE N OUT any tokenizer.json (for comparisons that are not committed)

Needs: pip install tokenizers sentencepiece. A .vec file is a uint32 count, then for each string three uint16
(bytes of text, ids, bytes of decoded text), the text, the ids as int32, the decoded text; all little-endian.
Texts may be broken UTF-8; the libraries see them with errors="replace".
"""
import json
import os
import random
import struct
import sys
import unicodedata

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
OUT = os.path.join(ROOT, "tests", "golden", "tokenizer")

# Scripts by a stretch of code points each, so that every kind of letter, mark and digit is met.
BLOCKS = [
    (0x20, 0x7F), (0x20, 0x7F), (0x20, 0x7F), (0xA0, 0x180), (0x180, 0x250), (0x250, 0x370), (0x300, 0x370),
    (0x370, 0x400), (0x400, 0x530), (0x530, 0x590), (0x590, 0x600), (0x600, 0x700), (0x700, 0x7C0),
    (0x900, 0x980), (0x980, 0xA00), (0xA00, 0xB00), (0xB00, 0xC00), (0xC00, 0xD00), (0xD00, 0xE00),
    (0xE00, 0xE80), (0xE80, 0xF00), (0xF00, 0x1000), (0x1000, 0x10A0), (0x10A0, 0x1100), (0x1100, 0x1200),
    (0x1200, 0x13A0), (0x13A0, 0x1400), (0x1680, 0x1700), (0x1780, 0x1800), (0x1800, 0x18B0), (0x1E00, 0x2000),
    (0x2000, 0x2070), (0x2070, 0x2190), (0x2190, 0x2400), (0x2460, 0x2500), (0x2500, 0x2700), (0x2700, 0x27C0),
    (0x2E80, 0x2FE0), (0x3000, 0x3100), (0x3100, 0x3400), (0x4E00, 0x9FFF), (0xA000, 0xA500), (0xA640, 0xA800),
    (0xAC00, 0xD7A4), (0xF900, 0xFB00), (0xFB00, 0xFE00), (0xFE00, 0xFE70), (0xFE70, 0x10000), (0x10000, 0x10180),
    (0x10330, 0x10350), (0x10400, 0x10450), (0x11000, 0x11080), (0x12000, 0x12400), (0x1D100, 0x1D200),
    (0x1D400, 0x1D800), (0x1F100, 0x1F200), (0x1F300, 0x1F650), (0x1F680, 0x1F700), (0x1F900, 0x1FA00),
    (0x20000, 0x20100), (0xE0000, 0xE0080),
]
WORDS = ("the of and a to in is was he for it with as his on be at by I this had not are but from or have an they "
         "which one you were her all she there would their we him been has when who will more no if out so said "
         "don't we'll I'M they'RE You'D it's 'Ve fiancé naïve Straße ſ'ſ").split()
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u2003", "\u180e", "\u3000", "\u200b", "\x0b", "\x85"]
EMOJI = ["👍", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👩🏽‍🚀", "🇩🇪", "❤️", "1️⃣", "\u200d\u200d", "🫠", "é", "e\u0301", "a\u0323\u0307", "a\u0307\u0323",
         "\u1100\u1161\u11a8", "\ufdfa", "ﬁ", "Å", "\u202e", "\u2066", "ǆ", "İ", "ß"]
BROKEN = [b"\xff", b"\xc0\xaf", b"\xe2\x82", b"\xf0\x9f\x91", b"\xed\xa0\x80", b"\x80", b"\xf4\x90\x80\x80", b"\xc3", b"\xe0\x80\x80",
          b"\xf0\x80\x80\x80", b"\xfe\xff"]


def assigned(c):
    # Characters younger than Unicode 13 are left out: libraries differ in their tables, not in their rules.
    return unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")


def random_text(rng, nul=True):
    parts = []
    for _ in range(rng.randint(1, 7)):
        kind = rng.random()
        if kind < 0.35:
            parts.append(rng.choice(WORDS).encode())
        elif kind < 0.60:
            lo, hi = rng.choice(BLOCKS)
            cps = [c for c in (rng.randrange(lo, hi) for _ in range(rng.randint(1, 6))) if assigned(c)]
            parts.append("".join(map(chr, cps)).encode())
        elif kind < 0.78:
            parts.append(rng.choice(SPACES).encode() * rng.choice([1, 1, 1, 2, 5]))
        elif kind < 0.88:
            parts.append(rng.choice(EMOJI).encode())
        elif kind < 0.92:
            parts.append(str(rng.randrange(10 ** rng.randint(1, 9))).encode())
        elif kind < 0.95:
            parts.append(bytes(rng.randrange(0 if nul else 1, 32) for _ in range(rng.randint(1, 3))))
        elif kind < 0.98:
            parts.append(rng.choice(BROKEN))
        else:
            parts.append((rng.choice("ab.!?=-_# \n") * rng.randint(8, 60)).encode())
        if rng.random() < 0.4:
            parts.append(b" ")
    return b"".join(parts)


def write(path, rows):
    with open(path, "wb") as f:
        f.write(struct.pack("<I", len(rows)))
        for text, ids, decoded in rows:
            f.write(struct.pack("<HHH", len(text), len(ids), len(decoded)))
            f.write(text + struct.pack("<%di" % len(ids), *ids) + decoded)
    print(path, len(rows), "strings", os.path.getsize(path), "bytes")


def json_rows(path, n, seed, special=False):
    from tokenizers import Tokenizer
    t = Tokenizer.from_file(path)
    # Special tokens written in a text are plain text unless asked for, which is this switch.
    t.encode_special_tokens = not special
    rng, rows = random.Random(seed), []
    extra = [a["content"].encode() for a in json.load(open(path)).get("added_tokens", [])][:300]
    while len(rows) < n:
        text = random_text(rng)
        if extra and rng.random() < 0.15:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(extra) + rng.choice([b"", b" ", b"x", b"\n"]) + text[at:]
        ids = t.encode(text.decode("utf-8", "replace"), add_special_tokens=False).ids
        rows.append((text, ids, t.decode(ids, skip_special_tokens=False).encode()))
    return rows


def marlin():
    path = os.path.join(ROOT, "models", "marlin-chat", "tokenizer.json")
    write(os.path.join(OUT, "marlin-chat.vec"), json_rows(path, 6000, 1))


def own_text():
    text = []
    for folder, _, names in os.walk(ROOT):
        if "/." in folder[len(ROOT):] or "/tests" in folder:
            continue
        text += [open(os.path.join(folder, n)).read() for n in sorted(names) if n.endswith((".md", ".h"))]
    lines = [line.strip(" */")[:200] for line in "\n".join(text).split("\n")]
    return [line for line in lines if len(line) > 20] + ["Äpfel und Öl, Straße; naïve café", "нещо на Български", "日本語のテキスト"]


def sentencepiece():
    import sentencepiece as sp
    kinds = {
        "bpe": dict(model_type="bpe", vocab_size=900, byte_fallback=True, normalization_rule_name="identity",
                    remove_extra_whitespaces=False, user_defined_symbols=["<tag>", "::"]),
        "bpe-unk": dict(model_type="bpe", vocab_size=400, character_coverage=0.98, normalization_rule_name="identity"),
        "unigram": dict(model_type="unigram", vocab_size=400, user_defined_symbols=["<sep>", "ing"],
                        normalization_rule_name="identity"),
        "unigram-byte": dict(model_type="unigram", vocab_size=600, byte_fallback=True, add_dummy_prefix=False,
                             normalization_rule_name="nmt_nfkc_cf"),
    }
    for name, options in kinds.items():
        prefix = os.path.join(OUT, name)
        sp.SentencePieceTrainer.train(sentence_iterator=iter(own_text()), model_prefix=prefix, minloglevel=2,
                                      num_threads=1, **options)
        os.remove(prefix + ".vocab")
        model = sp.SentencePieceProcessor(model_file=prefix + ".model")
        rng, rows = random.Random(name), []
        extra = options.get("user_defined_symbols", [])
        while len(rows) < 700:
            text = random_text(rng, nul=False)
            if extra and rng.random() < 0.3:
                text += rng.choice(extra).encode() + rng.choice([b"", b" ", b"a"])
            ids = model.encode(text.decode("utf-8", "replace"))
            rows.append((text, ids, model.decode(ids).encode()))
        write(prefix + ".vec", rows)


ALPHABET = ["a", "B", "e", "é", "\u0301", "1", "½", " ", "\u2581", "\n", ".", "!", "ﬁ", "f", "i", "_", "日", "-", "\u00a0", "İ"]


def split(pattern, behavior, invert=False):
    kind = "Regex" if pattern.startswith("R:") else "String"
    return {"type": "Split", "pattern": {kind: pattern.removeprefix("R:")}, "behavior": behavior, "invert": invert}


def components():
    """One small vocabulary in which every two characters merge, so that every boundary shows, under many components."""
    from tokenizers import Tokenizer
    none, meta = None, {"type": "Metaspace", "replacement": "\u2581"}
    cases = [({"type": n}, none, none) for n in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")]
    cases += [
        ({"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": True, "strip_right": False},
                                              {"type": "Prepend", "prepend": "_"}]}, none, none),
        ({"type": "Replace", "pattern": {"Regex": "[\\s.]+"}, "content": "-"}, none, none),
        ({"type": "Replace", "pattern": {"Regex": "1*"}, "content": "_"}, none, none),
        ({"type": "Replace", "pattern": {"String": "a"}, "content": "BB"}, none, none),
    ]
    for b in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        cases += [(none, split("R:[ae]", b), none), (none, split("R:\\w+", b, True), none), (none, split(".", b), none),
                  (none, {"type": "Punctuation", "behavior": b}, none)]
    for scheme in ("always", "first", "never"):
        cases += [(none, dict(meta, prepend_scheme=scheme, split=True), dict(meta, prepend_scheme=scheme, split=True)),
                  (none, dict(meta, prepend_scheme=scheme, split=False), dict(meta, prepend_scheme=scheme, split=False))]
    cases += [
        (none, {"type": "Digits", "individual_digits": True}, none),
        (none, {"type": "Digits", "individual_digits": False}, none),
        (none, {"type": "Whitespace"}, none), (none, {"type": "WhitespaceSplit"}, none),
        (none, {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, dict(meta, prepend_scheme="first", split=True)]},
         {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                                           {"type": "ByteFallback"}, {"type": "Fuse"},
                                           {"type": "Strip", "content": " ", "start": 2, "stop": 0}]}),
        (none, none, {"type": "Strip", "content": "a", "start": 1, "stop": 0}),
        (none, {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True, "trim_offsets": True},
         {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True, "trim_offsets": True}),
    ]
    vocab = {"<unk>": 0}
    for piece in ALPHABET + [a + b for a in ALPHABET for b in ALPHABET]:
        vocab.setdefault(piece, len(vocab))
    pairs = [[a, b] for a in ALPHABET for b in ALPHABET]
    random.Random(3).shuffle(pairs)
    added = [("<s>", True, False, False, False, False), ("[L]", False, True, False, False, False),
             ("[R]", False, False, True, False, False), ("aaa", False, False, False, True, False),
             ("É!", False, False, False, False, True), ("[L]a", True, False, False, False, False)]
    head = {"version": "1.0", "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "vocab": vocab, "merges": pairs},
            "added_tokens": [{"id": len(vocab) + i, "content": c, "special": s, "lstrip": l, "rstrip": r, "single_word": w,
                              "normalized": n} for i, (c, s, l, r, w, n) in enumerate(added)]}
    with open(os.path.join(OUT, "components.model"), "w") as f:
        f.write(json.dumps(head, ensure_ascii=False, separators=(",", ":"))[1:-1])
    texts = ALPHABET + [" "] * 4 + ["a", "a"] + [a[0] for a in added] + ["q", "ß", "[L]", "[R]", "aaa", "  "]
    with open(os.path.join(OUT, "components.txt"), "w") as f:
        for i, (norm, pre, dec) in enumerate(cases):
            tail = {"normalizer": norm, "pre_tokenizer": pre, "decoder": dec, "post_processor": None}
            f.write(json.dumps(tail, separators=(",", ":"))[1:-1] + "\n")
            t = Tokenizer.from_str(json.dumps(dict(head, **tail)))
            t.encode_special_tokens = True
            rng, rows = random.Random(i), []
            for _ in range(60):
                text = "".join(rng.choice(texts) for _ in range(rng.randint(1, 14)))
                ids = t.encode(text, add_special_tokens=False).ids
                rows.append((text.encode(), ids, t.decode(ids, skip_special_tokens=False).encode()))
            write(os.path.join(OUT, "components-%d.vec" % i), rows)


def main():
    os.makedirs(OUT, exist_ok=True)
    if sys.argv[1] == "marlin":
        marlin()
    elif sys.argv[1] == "sentencepiece":
        sentencepiece()
    elif sys.argv[1] == "components":
        components()
    else:
        write(sys.argv[4], json_rows(sys.argv[2], int(sys.argv[3]), 7))


main()
