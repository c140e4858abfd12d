#!/usr/bin/env python3
"""Writes bert_tables.inc: what Hugging Face's tokenizers does to single characters for BERT.

    pip install tokenizers==0.23.3
    python3 src/model/make_bert_tables.py

Each set is found by giving every character to tokenizers, so that the tables follow the versions of
Unicode that it has, which are several.
"""

import pathlib

from table_text import CHARACTERS, block, range_block, write
from tokenizers.normalizers import NFD, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

OUTPUT = pathlib.Path(__file__).with_name("bert_tables.inc")


def normalizer(**on):
    options = dict(
        clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False
    )
    return BertNormalizer(**(options | on)).normalize_str


def block_where(name, test):
    return range_block(name, (c for c in CHARACTERS if test(c)))


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
    text = block_where("removed", lambda c: between(clean, c) == "")
    text += block_where("spaces", lambda c: between(clean, c) == " ")
    text += block_where("chinese", lambda c: between(chinese, c) == f" {chr(c)} ")
    # A character that decomposes is taken apart before.
    text += block_where("accents", lambda c: between(accents, c) == "" and nfd(chr(c)) == chr(c))
    text += block_where("separators", lambda c: pieces(c) == ["a", "b"])
    text += block_where("punctuation", lambda c: pieces(c) == ["a", chr(c), "b"])
    text += lower_block()
    write(OUTPUT, "make_bert_tables.py", text)


if __name__ == "__main__":
    main()
