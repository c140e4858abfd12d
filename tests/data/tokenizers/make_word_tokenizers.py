"""Makes small tokenizers of other kinds than byte-level BPE, and what Hugging Face's tokenizers reads of texts with them.

pip install tokenizers==0.23.3
python3 tests/data/tokenizers/make_word_tokenizers.py
"""

import json
import pathlib
import random

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from make_tokenizers import PARAGRAPH

FOLDER = pathlib.Path(__file__).parent

TEXTS = [
    "",
    " ",
    "  ",
    "a",
    "The end of the pier.",
    " The end",
    "The end ",
    "a  b   c",
    "HELLO World",
    "don't stop",
    "...",
    "1250 euros!",
    "Der Kapitän grüßt, größer als die Brücke",
    "Le garçon a déjà mangé",
    "Капитан смотрит на море",
    "船長看著大海，什麼也不說。",
    "a船b",
    "🙂🙂 end",
    "tab\there",
    "line\nbreak\r\nend",
    "null\0byte",
    "bell\x07",
    "\u200bzero",
    "soft\u00adhyphen",
    "\ufeffmark",
    "\ufffd",
    "e\u0301te\u0301",
    "\u0130stanbul",
    "ǅ ǈ ﬁ ﬀ",
    "ΟΔΥΣΣΕΥΣ",
    "Å",
    "\u1e9b\u0323",
    "한국어 텍스트",
    "हिन्दी पाठ",
    "ภาษาไทย",
    "مرحبا بالعالم",
    "שלום",
    "x" * 99,
    "x" * 100,
    "x" * 101,
    "the" * 60,
    "[CLS] inside [SEP]",
    "<s>inside</s>",
    "[UNK]",
    "<unk>",
    "▁under ▁score",
    "▁",
    "▁▁",
    "##s",
    "##",
    "<0x41>",
    "a<0x0A>b",
    "\u00a0nbsp",
    "\u3000wide",
    "\x85next",
    "\u2028line",
    "~!@#$%^&*()_+{}|:\"<>?`-=[]\\;',./",
    "“quotes” — dash… ‚low‘",
    "€£¥₽",
    "½ ² ³ ①",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0002b8ff\U0002b820",
    "\U00010d50\U0001e922",
    "end of the day, the end of the story",
]


def random_texts(count):
    source = random.Random(7)
    pools = [
        PARAGRAPH,
        "äöüßéèêñçøåÅÉŽšđı",
        "的一是不了人我在有他这为之大来以个中上们",
        "🙂🚀👍🏽❤️\u200d",
        "\t\n\r \u00a0\u2003\x00\x07\x1b\x7f",
        "ⅷ①½²ªºµßẞſ",
        "".join(map(chr, range(0x300, 0x340))),
        ".,;:!?-_'\"()[]{}<>@#$%^&*+=/\\|~`",
        "<s></s>[CLS]▁##",
    ]
    texts = []
    for _ in range(count):
        text = ""
        while source.random() < 0.85 or not text:
            pool = source.choice(pools)
            begin = source.randrange(len(pool))
            text += pool[begin : begin + source.randrange(1, 9)]
        texts.append(text)
    for _ in range(count):
        texts.append(
            "".join(
                chr(c)
                for c in (source.randrange(0x110000) for _ in range(12))
                if not 0xD800 <= c < 0xE000
            )
        )
    return texts


def word_piece(lowercase, **options):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, **options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    )
    tokenizer.train_from_iterator([PARAGRAPH], trainer)
    tokenizer.decoder = decoders.WordPiece()
    ends = [("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    return tokenizer


def byte_fallback(normalizer, pre_tokenizer, decoder, fuse_unk=True, drop=()):
    specials = ["<unk>", "<s>", "</s>"]
    # Trained on words with the space in front, as the steps of the finished file make them.
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(
        [PARAGRAPH], trainers.BpeTrainer(vocab_size=350, special_tokens=specials, limit_alphabet=60)
    )
    model = json.loads(trained.to_str())["model"]
    names = [f"<0x{byte:02X}>" for byte in range(256) if byte not in drop]
    tokens = specials + names + [token for token in model["vocab"] if token not in specials]
    merges = [tuple(merge) for merge in model["merges"]]
    made = models.BPE(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        unk_token="<unk>",
        fuse_unk=fuse_unk,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(made)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in specials]
    )
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def llama_decoder():
    return decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )


def kinds():
    yield "bert_uncased", word_piece(True)
    yield "bert_cased", word_piece(False, strip_accents=False)
    yield (
        "llama2",
        byte_fallback(
            normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
            None,
            llama_decoder(),
        ),
    )
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    yield "metaspace_first", byte_fallback(None, metaspace, llama_decoder())
    yield (
        "metaspace_split",
        byte_fallback(None, pre_tokenizers.Metaspace(), decoders.Metaspace(), False, (0xE8, 0x07)),
    )
    gemma = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    yield (
        "gemma",
        byte_fallback(
            normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), gemma
        ),
    )
    other = byte_fallback(
        normalizers.Sequence(
            [normalizers.NFD(), normalizers.Lowercase(), normalizers.Replace(Regex("[xyz]+"), "q")]
        ),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
        decoders.Metaspace(),
    )
    other.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    yield "steps", other


def main():
    texts = TEXTS + random_texts(30)
    expected = {"texts": [text.encode().hex() for text in texts], "ids": {}, "decoded": {}}
    for name, tokenizer in kinds():
        file = json.loads(tokenizer.to_str())
        (FOLDER / f"word_{name}.json").write_text(
            json.dumps(file, ensure_ascii=True, separators=(",", ":")) + "\n"
        )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        ids = [tokenizer.encode(text).ids for text in texts]
        expected["ids"][name] = ids
        if name.startswith(("llama2", "bert", "gemma")):
            plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS[3:14]]
            expected["decoded"][name] = [[some, tokenizer.decode(some)] for some in plain]
    (FOLDER / "word_expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
