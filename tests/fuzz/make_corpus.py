"""Makes the corpus of each fuzz target: small files, good ones and ones with a single fault each.

    python3 tests/fuzz/make_corpus.py

Needs nothing but Python. The same files come out each time, in tests/fuzz/corpus/TARGET/.
"""

import json
import pathlib
import shutil
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"


def text(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# --------------------------------------------------------------------------------------------------
# .npy


def npy(header, data=b"", version=1, magic=b"\x93NUMPY", size=None):
    header = header.encode("latin-1")
    size = len(header) if size is None else size
    return (
        magic
        + bytes([version, 0])
        + struct.pack("<H" if version == 1 else "<I", size)
        + header
        + data
    )


def npy_header(descr="<f4", shape="(2, 3)", fortran=False):
    return f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def npy_files():
    floats = struct.pack("<6f", 0, 1, -2, 0.5, float("nan"), float("inf"))
    return {
        "f32": npy(npy_header(), floats),
        "f32_fortran": npy(npy_header(fortran=True), floats),
        "f16_version_2": npy(npy_header("<f2", "(3,)"), bytes(6), version=2),
        "f64_version_3": npy(npy_header("<f8", "(1, 1, 1)"), bytes(8), version=3),
        "i8": npy(npy_header("|i1", "(3,)"), b"\x80\0\x7f"),
        "i32_long": npy(npy_header("<i4", "(3L,)"), bytes(12)),
        "i64_scalar": npy(npy_header("<i8", "()"), bytes(8)),
        "boolean": npy(npy_header("|b1", "(2, 2)", True), b"\0\1\2\xff"),
        "empty_dim": npy(npy_header("<f4", "(0, 4)")),
        "rank_8": npy(npy_header("|u1", "(1, 1, 1, 1, 1, 1, 1, 2)"), b"\0\1"),
        "bad_magic": npy(npy_header(), floats, magic=b"\x93NUMPX"),
        "bad_version": npy(npy_header(), floats, version=4),
        "bad_header_size": npy(npy_header(), floats, size=0xFFFF),
        "bad_order": npy(npy_header(">f4"), floats),
        "bad_type": npy(npy_header("<c8"), floats),
        "bad_structured": npy(
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", bytes(4)
        ),
        "bad_rank_9": npy(npy_header("|u1", "(1, 1, 1, 1, 1, 1, 1, 1, 1)"), b"\0"),
        "bad_negative": npy(npy_header("<f4", "(-1,)")),
        "bad_overflow": npy(npy_header("<f4", "(4294967296, 4294967296, 0)")),
        "bad_huge": npy(npy_header("<f4", "(99999999999999999999,)")),
        "bad_short": npy(npy_header(), floats[:-1]),
        "bad_long": npy(npy_header(), floats + b"\0"),
        "bad_key_twice": npy("{'descr': '<f4', 'descr': '<f4'}"),
        "bad_cut": npy("{'descr': '<f4"),
    }


# --------------------------------------------------------------------------------------------------
# .safetensors


def safetensors(table, data=b"", size=None):
    header = table if isinstance(table, bytes) else text(table)
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_files():
    good = {"a": entry("F32", [2], 0, 8)}
    types = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "BOOL": 1}
    all_types, end = {"__metadata__": {"format": "pt"}}, 0
    for name, size in types.items():
        all_types[name.lower()] = entry(name, [1, 2], end, end + 2 * size)
        end += 2 * size
    odd = {
        "byte": entry("I8", [1], 0, 1),
        "b": entry("F32", [2], 1, 9),
        "none": entry("F64", [0], 9, 9),
    }
    return {
        "one": safetensors(good, bytes(8)),
        "all_types": safetensors(all_types, bytes(end)),
        "unaligned": safetensors(odd, bytes(9)),
        "unread_type": safetensors(
            {"a": entry("F8_E4M3", [2], 0, 2)} | {"b": entry("BOOL", [1], 2, 3)}, b"ab\7"
        ),
        "no_tensors": safetensors({}),
        "padded": safetensors(text(good) + b"   ", bytes(8)),
        "bad_length": safetensors(good, bytes(8), size=1 << 60),
        "bad_json": safetensors(b'{"a":', bytes(8)),
        "bad_utf8": safetensors(b'{"\xff":1}'),
        "bad_zero_byte": safetensors(b"{}\0"),
        "bad_deep": safetensors(b"[" * 50),
        "bad_twice": safetensors(
            b'{"a":' + text(good["a"]) + b',"a":' + text(good["a"]) + b"}", bytes(8)
        ),
        "bad_key": safetensors({"a": good["a"] | {"more": 1}}, bytes(8)),
        "bad_missing": safetensors({"a": {"dtype": "F32"}}, bytes(8)),
        "bad_rank_9": safetensors({"a": entry("I8", [1] * 9, 0, 8)}, bytes(8)),
        "bad_shape": safetensors({"a": entry("F32", [-2], 0, 8)}, bytes(8)),
        "bad_float": safetensors({"a": entry("F32", [2.5], 0, 8)}, bytes(8)),
        "bad_number": safetensors(b'{"a":{"shape":[1e999]}}', bytes(8)),
        "bad_overflow": safetensors({"a": entry("F32", [1 << 32, 1 << 32, 0], 0, 8)}, bytes(8)),
        "bad_hole": safetensors({"a": entry("F32", [1], 4, 8)}, bytes(8)),
        "bad_overlap": safetensors(good | {"b": entry("F32", [1], 4, 8)}, bytes(8)),
        "bad_end": safetensors({"a": entry("F32", [4], 0, 16)}, bytes(8)),
    }


# --------------------------------------------------------------------------------------------------
# config.json


def more_families(sizes):
    """Families whose files have keys of their own."""

    def of(model_type, **more):
        return text({"model_type": model_type} | sizes | more)

    default, linear = {"rope_type": "default"}, {"rope_type": "linear", "factor": 8}
    full, sliding = "full_attention", "sliding_attention"
    by_type = {full: linear | {"rope_theta": 1e6}, sliding: default | {"rope_theta": 1e4}}
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    long = {"type": "longrope", "short_factor": [1.0], "long_factor": [2.5]}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    return {
        "gemma2": of("gemma2", head_dim=4, num_key_value_heads=8, sliding_window=7, **caps),
        "gemma3": of("gemma3_text", head_dim=4, sliding_window_pattern=2, rope_parameters=by_type),
        "phi3": of("phi3", head_dim=4, rope_scaling=long, partial_rotary_factor=0.5),
        "smollm3": of("smollm3", num_key_value_heads=8, no_rope_layers=[1, 0, 1]),
        "olmo2": of("olmo2", rms_norm_eps=1e-6, rope_scaling=yarn),
        "dynamic": of("qwen2", rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
        "both_ways": of("mistral", is_causal=False, layer_types=[full, sliding, full]),
        "bert": of("bert", type_vocab_size=1, hidden_act="gelu", max_position_embeddings=16),
        "bad_by_type": of("gemma3_text", rope_parameters=by_type | {"other": default}),
        "bad_cap": of("gemma2", attn_logit_softcapping=0),
        "bad_causal": of("mistral", is_causal=None),
        "bad_layer_types": of("qwen3", layer_types=[full, "chunked_attention", full]),
        "bad_long_factors": of("phi3", rope_scaling=long | {"long_factor": [1.0, "2"]}),
        "bad_no_rope": of("smollm3", no_rope_layers=[1, 0]),
        "bad_activation": of("bert", hidden_act="relu"),
        "bad_positions": of("bert", position_embedding_type="relative_key"),
    }


def config_files():
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 32,
        "intermediate_size": 100,
        "vocab_size": 50,
    }
    llama = {"model_type": "llama"} | sizes
    qwen3 = {"model_type": "qwen3"} | sizes
    gpt2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 50}
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    layers = ["sliding_attention"] * 3
    return {
        "llama": text(llama),
        "llama3": text(
            llama
            | {
                "num_key_value_heads": 8,
                "head_dim": 6,
                "rope_theta": 5e5,
                "rope_scaling": llama3,
                "eos_token_id": [7, 8],
            }
        ),
        "mistral": text(
            llama
            | {
                "model_type": "mistral",
                "sliding_window": 5,
                "partial_rotary_factor": 0.5,
                "head_dim": 8,
            }
        ),
        "qwen2": text(
            qwen3 | {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 0}
        ),
        "qwen3": text(
            qwen3
            | {
                "use_sliding_window": True,
                "layer_types": layers,
                "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
            }
        ),
        "linear": text(
            llama
            | {
                "rope_scaling": {"type": "linear", "factor": 2.5},
                "bos_token_id": None,
                "attention_bias": True,
            }
        ),
        "gpt2": text(
            gpt2
            | {
                "n_inner": None,
                "activation_function": "gelu",
                "scale_attn_weights": False,
                "layer_norm_epsilon": 1e-6,
            }
        ),
        **more_families(sizes),
        "bad_type": text(llama | {"model_type": "gemma"}),
        "bad_list": text([llama]),
        "bad_number": text(llama).replace(b"64", b"1e999"),
        "bad_large": text(llama | {"vocab_size": 1 << 63}),
        "bad_negative": text(gpt2 | {"n_head": -4}),
        "bad_text": text(gpt2 | {"n_head": "4"}),
        "bad_ids": text(llama | {"eos_token_id": [1, "2"]}),
        "bad_layers": text(qwen3 | {"use_sliding_window": True, "layer_types": [1, None, {}]}),
        "bad_rope": text(llama | {"rope_scaling": {"type": "llama3", "factor": 1e-300}}),
        "bad_quantized": text(llama | {"quantization_config": {"bits": 4}}),
        "bad_twice": text(llama)[:-1] + b',"vocab_size":50}',
        "bad_deep": b'{"a":' + b"[" * 50,
        "bad_cut": text(llama)[:-1],
    }


# --------------------------------------------------------------------------------------------------
# tokenizer.json


def added(id, content, special=True, **flags):
    names = ("single_word", "lstrip", "rstrip", "normalized")
    return {"id": id, "content": content, "special": special} | {
        name: name in flags for name in names
    }


def byte_level(**settings):
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True} | settings


def split(kind, pattern, behavior, invert=False):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def tokenizer(model=None, steps=(), **parts):
    vocab = {token: id for id, token in enumerate([*"abcdehtĠ!1?Ċ", "th", "the", "Ġthe"])}
    default = {
        "type": "BPE",
        "vocab": vocab,
        "merges": [["t", "h"], ["th", "e"], "Ġ the"],
        "unk_token": "?",
        "fuse_unk": True,
    }
    pre_tokenizer = {
        "type": "Sequence",
        "pretokenizers": [*steps, byte_level(add_prefix_space=True)],
    }
    return {"model": default | (model or {}), "pre_tokenizer": pre_tokenizer} | parts


def word_tokenizers():
    """WordPiece, and BPE of characters."""
    specials = ["[UNK]", "[CLS]", "[SEP]"]
    pieces = ["the", "t", "h", "##he", "##t", "##d", "be", "!", "1", "##2", "##3"]
    word_piece = {
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 20,
            "vocab": {token: id for id, token in enumerate([*specials, *pieces])},
        },
        "added_tokens": [added(id, token) for id, token in enumerate(specials)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    }
    space = "\u2581"
    symbols = [space, *"thebd!", "th", "the", f"{space}the"]
    fallback = {
        "model": {
            "type": "BPE",
            "vocab": {
                token: id
                for id, token in enumerate(
                    ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *symbols]
                )
            },
            "merges": ["t h", "th e", f"{space} the"],
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
        },
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": space},
                {"type": "Replace", "pattern": {"String": " "}, "content": space},
            ],
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": space}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    }
    metaspace = {
        "type": "Metaspace",
        "replacement": space,
        "prepend_scheme": "first",
        "split": True,
    }
    no_steps = {"normalizer": None, "decoder": {"type": "Metaspace", "replacement": space}}
    return {
        "word_piece": word_piece,
        "byte_fallback": fallback,
        "metaspace": fallback | no_steps | {"pre_tokenizer": metaspace},
        "bad_word_unknown": word_piece | {"model": word_piece["model"] | {"unk_token": "<unk>"}},
        "bad_max_input": word_piece
        | {"model": word_piece["model"] | {"max_input_chars_per_word": -1}},
        "bad_processing": word_piece
        | {"post_processor": {"type": "BertProcessing", "sep": [2], "cls": ["[CLS]", 1]}},
        "bad_replacement": fallback | {"pre_tokenizer": metaspace | {"replacement": "ab"}},
        "bad_decoder": fallback | {"decoder": {"type": "CTC"}},
    }


def tokenizer_files():
    tokens = [
        added(20, "<s>"),
        added(21, "</s>", lstrip=True, rstrip=True),
        added(22, "bed", False, single_word=True, normalized=True),
    ]
    single = [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "special_tokens": {"<s>": {"id": "<s>", "ids": [20], "tokens": ["<s>"]}},
    }
    nfc = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    everything = [
        split("Regex", r"(?i:d)|\p{L}+", "MergedWithPrevious", True),
        split("String", "!", "Contiguous"),
        {"type": "Digits", "individual_digits": True},
    ]
    files = {
        "everything": tokenizer(
            steps=everything,
            added_tokens=tokens,
            normalizer=nfc,
            post_processor=template,
            decoder=byte_level(),
        ),
        "plain": tokenizer(),
        "ignore_merges": tokenizer({"ignore_merges": True, "unk_token": None}),
        "no_regex": tokenizer() | {"pre_tokenizer": byte_level(use_regex=False)},
        "empty_matches": tokenizer(steps=[split("Regex", "(?=t)|b\\K", "Isolated")]),
        "patterns": tokenizer(
            steps=[
                split("Regex", r"(?x) [\p{L}&&[^\p{Han}t]]{1,2}+ | (?<=\w) \b$", "Isolated"),
                split("Regex", r"(?i:'s|(t)h\1?)|(?>\s*+\R)|(?!\d)[[:punct:]]{3,1}", "Contiguous"),
            ]
        ),
        "many_steps": tokenizer(steps=[split("Regex", "(a+)+$", "MergedWithNext")]),
        "bad_start_of_match": tokenizer(steps=[split("Regex", "(?<=a)\\K.", "Removed")]),
        "bad_regex": tokenizer(steps=[split("Regex", "(a", "Removed")]),
        "bad_absent": tokenizer(steps=[split("Regex", "(?~a)", "Removed")]),
        "bad_class": tokenizer(steps=[split("Regex", "[[^a&&[b]", "Removed")]),
        "bad_large": tokenizer(steps=[split("Regex", "((a{9}b){999}){999}", "Removed")]),
        "bad_behavior": tokenizer(steps=[split("Regex", "a", "Kept")]),
        "bad_type": tokenizer({"type": "Unigram"}),
        "bad_id": tokenizer({"vocab": {"a": -1}}),
        "bad_same_id": tokenizer({"vocab": {"a": 0, "b": 0}}),
        "bad_merge": tokenizer({"merges": ["t h e"]}),
        "bad_merge_unknown": tokenizer({"merges": ["t d"]}),
        "bad_unknown": tokenizer({"unk_token": "<unk>"}),
        "bad_added": tokenizer(added_tokens=[added(3, "<s>")]),
        "bad_template": tokenizer(
            added_tokens=tokens, post_processor=template | {"single": single[1:] * 2}
        ),
        "bad_template_id": tokenizer(post_processor=template),
        "bad_normalizer": tokenizer(normalizer={"type": "Lowercase"}),
    }
    files |= word_tokenizers()
    files = {name: text(file) for name, file in files.items()}
    files["bad_twice"] = files["plain"][:-1] + b',"model":{}}'
    files["bad_deep"] = b'{"model":' * 50
    files["bad_utf8"] = files["plain"].replace(b"th", b"\xff\xfe")
    return files


def main():
    targets = {
        "npy": npy_files,
        "safetensors": safetensors_files,
        "config": config_files,
        "tokenizer": tokenizer_files,
    }
    shutil.rmtree(CORPUS, ignore_errors=True)
    for target, files in targets.items():
        folder = CORPUS / target
        folder.mkdir(parents=True)
        for name, content in files().items():
            (folder / name).write_bytes(content)


main()
