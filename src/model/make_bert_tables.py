#!/usr/bin/env python3
"""Writes bert_tables.inc: what Hugging Face's tokenizers does to single characters for BERT.

    pip install tokenizers==0.23.3
    python3 src/model/make_bert_tables.py

Each set is found by giving every character to tokenizers, so that the tables follow the versions of
Unicode that it has, which are several.
"""

import pathlib

from tokenizers.normalizers import NFD, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

OUTPUT = pathlib.Path(__file__).with_name("bert_tables.inc")
CHARACTERS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def normalizer(**on):
    options = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    return BertNormalizer(**(options | on)).normalize_str


def ranges(characters):
    found = []
    for code in characters:
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return found


def block(kind, name, items):
    lines, line = [], ""
    for item in items:
        if len(line) + len(item) + 2 > 98:
            lines.append(line)
            line = ""
        line += (" " if line else "") + item + ","
    lines.append(line)
    return f"constexpr {kind} {name}[] = {{\n" + "".join(f"    {x}\n" for x in lines) + "};\n"


def range_block(name, test):
    found = ranges([c for c in CHARACTERS if test(c)])
    return block("CodeRange", name, (f"{{{a}, {b}}}" for a, b in found))


def lower_block():
    """Runs of (first, count, step, distance) of the characters that have a lower case of one
    character. U+0130 alone has one of two."""
    lower = normalizer(lowercase=True)
    found = []
    for code in CHARACTERS:
        text = lower(chr(code))
        assert len(text) == 1 or code == 0x130, hex(code)
        if len(text) > 1 or text == chr(code):
            continue
        distance = ord(text) - code
        last = found[-1] if found else None
        if last and last[3] == distance and last[1] == 1 and code - last[0] <= 2:
            last[1], last[2] = 2, code - last[0]
        elif last and last[3] == distance and last[1] > 1 and last[0] + last[1] * last[2] == code:
            last[1] += 1
        else:
            found.append([code, 1, 1, distance])
    return block("LowerRun", "lower_runs", ("{%d, %d, %d, %d}" % tuple(run) for run in found))


def main():
    clean, accents = normalizer(clean_text=True), normalizer(strip_accents=True)
    chinese, nfd = normalizer(handle_chinese_chars=True), NFD().normalize_str
    pieces = lambda c: [piece for piece, _ in BertPreTokenizer().pre_tokenize_str(f"a{chr(c)}b")]
    between = lambda function, c: function(f"a{chr(c)}b")[1:-1]
    text = range_block("removed", lambda c: between(clean, c) == "")
    text += range_block("spaces", lambda c: between(clean, c) == " ")
    text += range_block("chinese", lambda c: between(chinese, c) == f" {chr(c)} ")
    # A character that decomposes is taken apart before.
    text += range_block("accents", lambda c: between(accents, c) == "" and nfd(chr(c)) == chr(c))
    text += range_block("separators", lambda c: pieces(c) == ["a", "b"])
    text += range_block("punctuation", lambda c: pieces(c) == ["a", chr(c), "b"])
    text += lower_block()
    OUTPUT.write_text(
        f"// Made by make_bert_tables.py.\n// clang-format off\n{text}// clang-format on\n"
    )


if __name__ == "__main__":
    main()
