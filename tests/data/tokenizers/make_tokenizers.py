"""Makes the small tokenizer.json files of this folder and what texts are in their tokens.

Everything here is plain and slow, and knows nothing of the library: patterns are spelled out as walks over characters, and merging looks
at all pairs each time. Needs nothing but Python 3.11 or later.
"""

import json
import pathlib
import random
import unicodedata

FOLDER = pathlib.Path(__file__).parent
SPACES = set("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(code) for code in range(0x2000, 0x200B)
}
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"]

PARAGRAPH = (
    """
The ferry leaves at 7:45 and it's late again; we'll wait on the pier, counting gulls. In winter the bay doesn't freeze, but the wind
does what it likes with hats, umbrellas and newspapers. They've painted the lighthouse red and white for 1250 euros, I'm told, and
she'd have done it for 900. "Who'd pay that?" the captain asks. "The town, twice: 2024 and 2025!"

    for (int n = 0; n < 100; ++n) total += price[n] * count[n];

Der Kapitän grüßt, größer als die Brücke über den Fluss. Le garçon a déjà mangé près de la forêt. Капитан смотрит на море и молчит.
船長看著大海，什麼也不說。 Ο καπετάνιος κοιτάζει τη θάλασσα. 🙂🙂🙂 The end of the pier, the end of the day, the end of the story.
"""
    * 2
)

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LATER = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def is_letter(c):
    return unicodedata.category(c)[0] == "L"


def is_number(c):
    return unicodedata.category(c)[0] == "N"


def is_space(c):
    return c in SPACES


def is_other(c):
    return not (is_letter(c) or is_number(c) or is_space(c))


def run(text, begin, test, most=None):
    end = begin
    while end < len(text) and test(text[end]) and (most is None or end - begin < most):
        end += 1
    return end


def space_run(text, begin):
    """\\s+(?!\\S)|\\s+"""
    end = run(text, begin, is_space)
    return end - 1 if end < len(text) and end - begin >= 2 else end


def gpt2_word(text, begin):
    for word in CONTRACTIONS:
        if text.startswith(word, begin):
            return begin + len(word)
    after_space = begin + (text[begin] == " ")
    for test in is_letter, is_number, is_other:
        end = run(text, after_space, test)
        if end > after_space:
            return end
    return space_run(text, begin)


def later_word(text, begin, digits):
    for word in CONTRACTIONS:
        if [c.casefold() for c in text[begin : begin + len(word)]] == list(word):
            return begin + len(word)
    lead = begin + (
        text[begin] not in "\r\n" and not is_letter(text[begin]) and not is_number(text[begin])
    )
    if run(text, lead, is_letter) > lead:
        return run(text, lead, is_letter)
    if is_number(text[begin]):
        return run(text, begin, is_number, digits)
    after_space = begin + (text[begin] == " ")
    end = run(text, after_space, is_other)
    if end > after_space:
        return run(text, end, lambda c: c in "\r\n")
    spaces = text[begin : run(text, begin, is_space)]
    lines = max(spaces.rfind("\r"), spaces.rfind("\n"))
    return begin + lines + 1 if lines >= 0 else space_run(text, begin)


def words_of(text, next_word):
    words, begin = [], 0
    while begin < len(text):
        end = next_word(text, begin)
        words.append(text[begin:end])
        begin = end
    return words


def byte_alphabet():
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {
        byte: chr(0x100 + n) for n, byte in enumerate(others)
    }


ALPHABET = byte_alphabet()


def spell(data):
    return tuple(ALPHABET[byte] for byte in data)


def merge_all(symbols, pair):
    merged, n = [], 0
    while n < len(symbols):
        if tuple(symbols[n : n + 2]) == pair:
            merged.append(symbols[n] + symbols[n + 1])
            n += 2
        else:
            merged.append(symbols[n])
            n += 1
    return merged


def train(next_word, count):
    words = [list(spell(word.encode())) for word in words_of(PARAGRAPH, next_word)]
    merges = []
    for _ in range(count):
        pairs = {}
        for word in words:
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + 1
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [merge_all(word, best) for word in words]
    return merges


def merge_word(data, ranks):
    symbols = list(spell(data))
    while len(symbols) > 1:
        pairs = [
            (ranks.get(pair, len(ranks)), n) for n, pair in enumerate(zip(symbols, symbols[1:]))
        ]
        rank, n = min(pairs)
        if rank == len(ranks):
            break
        symbols[n : n + 2] = [symbols[n] + symbols[n + 1]]
    return symbols


def added(id, content, special=True, normalized=False, **flags):
    return {
        "id": id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": normalized,
        "special": special,
    } | flags


def cut_added(text, tokens):
    """Pairs of a text between tokens and the token after it, or None."""
    parts, begin, at = [], 0, 0
    while at < len(text):
        found = max(
            (token for token in tokens if text.startswith(token["content"], at)),
            key=lambda t: len(t["content"]),
            default=None,
        )
        if found is None:
            at += 1
            continue
        first, at = at, at + len(found["content"])
        is_word = lambda c: c == "_" or is_letter(c) or is_number(c)
        if found["single_word"] and (
            (first > 0 and is_word(text[first - 1])) or (at < len(text) and is_word(text[at]))
        ):
            continue
        while found["lstrip"] and first > begin and is_space(text[first - 1]):
            first -= 1
        while found["rstrip"] and at < len(text) and is_space(text[at]):
            at += 1
        parts.append((text[begin:first], found))
        begin = at
    return parts + [(text[begin:], None)]


def valid_runs(text):
    """Runs of characters, and of bytes that are none, which are lone surrogates here."""
    runs = []
    for c in text:
        valid = not 0xDC80 <= ord(c) <= 0xDCFF
        if runs and runs[-1][0] == valid:
            runs[-1][1] += c
        else:
            runs.append([valid, c])
    return runs


class Tokenizer:
    def __init__(self, next_word, tokens, merges, nfc=False, ignore_merges=False, before=()):
        self.next_word, self.tokens, self.merges = next_word, tokens, merges
        self.nfc, self.ignore_merges, self.before = nfc, ignore_merges, list(before)
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.vocab = {ALPHABET[byte]: byte for byte in range(256)}
        for pair in merges:
            self.vocab.setdefault("".join(pair), len(self.vocab))

    def word(self, data):
        whole = "".join(spell(data))
        if self.ignore_merges and whole in self.vocab:
            return [self.vocab[whole]]
        return [self.vocab[symbol] for symbol in merge_word(data, self.ranks)]

    def characters(self, text):
        ids = []
        text = unicodedata.normalize("NFC", text) if self.nfc else text
        for part, token in cut_added(text, [token for token in self.tokens if token["normalized"]]):
            for word in words_of(part, self.next_word):
                ids += self.word(word.encode())
            ids += [token["id"]] if token else []
        return ids

    def encode(self, data):
        ids = list(self.before)
        text = data.decode("utf-8", "surrogateescape")
        for part, token in cut_added(
            text, [token for token in self.tokens if not token["normalized"]]
        ):
            for valid, piece in valid_runs(part):
                ids += (
                    self.characters(piece)
                    if valid
                    else self.word(piece.encode("utf-8", "surrogateescape"))
                )
            ids += [token["id"]] if token else []
        return ids

    def model(self, pairs):
        merges = (
            [list(pair) for pair in self.merges]
            if pairs
            else [" ".join(pair) for pair in self.merges]
        )
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": self.ignore_merges,
            "vocab": self.vocab,
            "merges": merges,
        }


def byte_level(**flags):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True} | flags


def split_by(pattern):
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, byte_level(use_regex=False)]}


def file_of(model, tokens, pre_tokenizer, normalizer=None, post_processor=None):
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": byte_level(),
        "model": model,
    }


def gpt2():
    merges = train(gpt2_word, 150)
    last = 256 + len(merges)
    tokens = [added(last, "<|endoftext|>", normalized=True)]
    tokenizer = Tokenizer(gpt2_word, tokens, merges)
    model = tokenizer.model(pairs=False)
    # As its own file is: no type, and the token in the vocabulary too.
    model["vocab"] = tokenizer.vocab | {"<|endoftext|>": last}
    for key in "type", "byte_fallback", "ignore_merges":
        del model[key]
    model["unk_token"] = ""
    return tokenizer, file_of(model, tokens, byte_level(), post_processor=byte_level())


def llama3():
    next_word = lambda text, begin: later_word(text, begin, 3)
    merges = train(next_word, 200)
    # Tokens that merging alone does not reach: the words are there, what leads to them is not.
    merges = [merge for n, merge in enumerate(merges) if n % 17 != 5 or n < 100]
    known = set(ALPHABET.values())
    merges = [pair for pair in merges if not ({*pair} - known or known.add("".join(pair)))]
    first = 256 + len(merges)
    names = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>",
        "<|eot_id|>",
    ]
    tokens = [added(first + 1 + n, name) for n, name in enumerate(names)]
    tokenizer = Tokenizer(next_word, tokens, merges, ignore_merges=True, before=[first + 1])
    tokenizer.vocab["Ġlighthouse"] = first  # in the vocabulary alone
    special = {names[0]: {"id": names[0], "ids": [first + 1], "tokens": [names[0]]}}
    single = [
        {"SpecialToken": {"id": names[0], "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [],
        "special_tokens": special,
    }
    post = {"type": "Sequence", "processors": [byte_level(), template]}
    return tokenizer, file_of(
        tokenizer.model(pairs=True),
        tokens,
        split_by(LATER.replace("DIGITS", r"\p{N}{1,3}")),
        post_processor=post,
    )


def qwen():
    next_word = lambda text, begin: later_word(text, begin, 1)
    merges = train(next_word, 200)
    first = 256 + len(merges)
    tokens = [
        added(first, "<|endoftext|>"),
        added(first + 1, "<|im_start|>"),
        added(first + 2, "<|im_end|>"),
        added(first + 3, "<tool>", special=False),
        added(first + 4, "<tool_call>", special=False),
        added(first + 5, "[left]", lstrip=True),
        added(first + 6, "[right]", rstrip=True),
        added(first + 7, "pier", special=False, single_word=True),
        added(first + 8, "caf\u00e9s", special=False, normalized=True),
    ]
    tokenizer = Tokenizer(next_word, tokens, merges, nfc=True)
    return tokenizer, file_of(
        tokenizer.model(pairs=False),
        tokens,
        split_by(LATER.replace("DIGITS", r"\p{N}")),
        {"type": "NFC"},
        byte_level(),
    )


TEXTS = [
    "",
    " ",
    "a",
    "The end",
    " the lighthouse",
    "the lighthouse",
    "It's I'm we'll THEY'VE she'D 'tis '\u017f 'S",
    "don't  stop   ",
    "1 12 123 1234 12345678 2024-11-25 3.14159 \u0664\u0665 \u2167\u00bd",
    "\n",
    "\r\n\r\n",
    "a\nb\r\nc\n\n\nd",
    "  \n  x",
    " \t\n \t",
    "\t\tx\t y",
    "line  \n\n   indented\n",
    "!!!\n\n???\r\nx",
    " ...\n x",
    "for (int n = 0; n < 10; ++n)\n{\n    x[n] += y;\n}\n",
    "Gr\u00fc\u00dfe, gar\u00e7on, \u043a\u0430\u043f\u0438\u0442\u0430\u043d, \u8239\u9577, \u03b8\u03ac\u03bb\u03b1\u03c3\u03c3\u03b1",
    "caf\u00e9s cafe\u0301s e\u0301\u0323 \u1e9b\u0323 \u212b \ud55c\uad6d \u1112\u1161\u11ab \u0958",
    "\U0001f642\U0001f642 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\xa0\u3000x\u2003\u2003y\u2028z",
    "zero\0byte\0\0",
    "\x7f\x1f\x01",
    "<|endoftext|>",
    "one<|endoftext|>two <|endoftext|> three<|endoftext|><|endoftext|>",
    "<|im_start|>user\nHello<|im_end|>\n",
    "<|begin_of_text|>x<|eot_id|>",
    "<|reserved_special_token_1|><|reserved_special_token_",
    "<tool_call><tool><tool_",
    "<<tool>>",
    "a [left] b [right]  c[left][right] \n[left]\t[right]\u3000x",
    "pier piers pier. _pier pier_ the pier",
    "caf\u00e9s caf\u00e9\u0301s",
    "a" * 40,
    " " * 30 + "x",
    "ab" * 50,
    "the " * 20,
    "\n" * 20 + " " * 3,
]
BYTES = [
    b"\xff",
    b"a\xffb",
    b"\xc3",
    b"\xe2\x82",
    b"\xe2\x82x\xe2\x82\xac",
    b"\xf0\x80\x80\x80 \xed\xa0\x80",
    b"the\x80\x81 end \xfe<|endoftext|>\xfe",
    b" \xc0\xaf ",
    bytes(range(256)),
]


def random_texts(count):
    chooser = random.Random(20240607)
    pool = list(
        " \n\r\t'sStTdDlLmMrevVabxyz0123456789.,!?-_<|>[]\u00e9\u00df\u0301\u0323\u0436\u6f22\u0e01\u0e34\u00b2\u0663\U0001f642\u3000\xa0"
    ) + [
        "the",
        " the",
        " end",
        "'ll",
        "<|endoftext|>",
        "<|im_end|>",
        "pier",
        "  ",
        "\r\n",
        " lighthouse",
    ]
    return ["".join(chooser.choices(pool, k=chooser.randint(1, 40))) for _ in range(count)]


def write(path, value):
    path.write_text(
        json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
    )


def main():
    texts = [text.encode() for text in TEXTS + random_texts(40)] + BYTES
    expected = {}
    for name, make in {"gpt2": gpt2, "llama3": llama3, "qwen": qwen}.items():
        tokenizer, file = make()
        write(FOLDER / f"tokenizer_{name}.json", file)
        expected[name] = [{"text": text.hex(), "ids": tokenizer.encode(text)} for text in texts]
    write(FOLDER / "tokens_expected.json", expected)


main()
