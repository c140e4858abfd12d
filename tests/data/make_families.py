"""Small random models of every family, made and computed by Hugging Face's transformers.

    python3 tests/data/make_families.py [DIRECTORY]

Needs python3 with torch 2.13 and transformers 5.24. README.md beside this file describes what it writes.
"""

import json
import sys
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.ministral import MinistralConfig

TEXT = b"The ferry leaves at 7:45, and it is late again."
NEW_TOKENS = 10
LAST_LOGITS = 12  # of the prompt's tokens, that are stored
SMALLEST_MARGIN = 0.02

SIZES = dict(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)


def rope(rope_type, theta=10000.0, **more):
    return dict(rope_type=rope_type, rope_theta=theta, **more)


LONG = dict(
    short_factor=[1.0, 1.1, 1.3], long_factor=[1.0, 2.5, 7.0], original_max_position_embeddings=32
)
YARN = dict(factor=4.0, original_max_position_embeddings=32)
FULL, SLIDING = "full_attention", "sliding_attention"

MODELS = {
    "gemma2": (
        Gemma2Config,
        dict(
            head_dim=12,
            sliding_window=7,
            query_pre_attn_scalar=20,
            attn_logit_softcapping=6.0,
            final_logit_softcapping=9.0,
        ),
    ),
    "gemma3_text": (
        Gemma3TextConfig,
        dict(
            head_dim=12,
            num_hidden_layers=4,
            sliding_window=7,
            query_pre_attn_scalar=20,
            final_logit_softcapping=9.0,
            layer_types=[SLIDING, SLIDING, FULL, SLIDING],
            rope_parameters={FULL: rope("linear", 1e6, factor=8.0), SLIDING: rope("default", 1e4)},
        ),
    ),
    "phi3": (
        Phi3Config,
        dict(
            original_max_position_embeddings=32,
            rope_parameters=rope("longrope", partial_rotary_factor=0.75, **LONG),
        ),
    ),
    "olmo2": (Olmo2Config, dict(rope_parameters=rope("default", 5e5))),
    "smollm3": (SmolLM3Config, dict(num_hidden_layers=4, no_rope_layers=[1, 1, 0, 1])),
    "mistral_mixed": (
        MinistralConfig,
        dict(head_dim=8, sliding_window=6, layer_types=[FULL, SLIDING, SLIDING]),
    ),
    "mistral_both_ways": (
        MinistralConfig,
        dict(head_dim=8, sliding_window=6, layer_types=[FULL, SLIDING, FULL], is_causal=False),
    ),
    "qwen2_mixed": (
        Qwen2Config,
        dict(use_sliding_window=True, sliding_window=6, max_window_layers=1),
    ),
    "qwen3_yarn": (
        Qwen3Config,
        dict(
            head_dim=16,
            use_sliding_window=True,
            sliding_window=6,
            layer_types=[SLIDING, FULL, SLIDING],
            rope_parameters=rope("yarn", **YARN),
        ),
    ),
    "llama_dynamic": (
        LlamaConfig,
        dict(max_position_embeddings=32, rope_parameters=rope("dynamic", factor=2.0)),
    ),
    "llama_llama3": (
        LlamaConfig,
        dict(
            rope_parameters=rope(
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
            attention_bias=True,
            mlp_bias=True,
        ),
    ),
}


def randomize(model, seed):
    """Weights for which each part of the model matters, stored as f16."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if "norm" in name.lower():  # scales, or in Gemma their distance from 1
                mean = (
                    0.0
                    if name.endswith("bias") or model.config.model_type.startswith("gemma")
                    else 1.0
                )
                values = mean + 0.25 * values
            elif "embed" in name:  # Gemma multiplies them by sqrt(hidden)
                values = (0.08 if model.config.model_type.startswith("gemma") else 0.4) * values
            elif name.endswith("bias"):
                values = 0.4 * values
            else:
                values = values * 1.3 / tensor.shape[-1] ** 0.5
            tensor.copy_(values.half().float())
    return model.eval()


def write_weights(folder, model):
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_config(folder, config, model_type=None):
    values = {
        key: value for key, value in config.to_dict().items() if key != "transformers_version"
    }
    if model_type:
        values["model_type"] = model_type
    (folder / "config.json").write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")


def generate(model, ids, count):
    return model.generate(
        torch.tensor([ids]), max_new_tokens=count, min_new_tokens=count, do_sample=False
    )[0, len(ids) :].tolist()


def margin(logits):
    best = logits.topk(2).values
    return float((best[..., 0] - best[..., 1]).min())


def write_decoder(directory, name, make, settings):
    folder = directory / name
    folder.mkdir(parents=True, exist_ok=True)
    ids = list(TEXT)
    for seed in range(
        1000
    ):  # until no greedy token hangs on a hair, in a run of all tokens at once
        config = make(**(SIZES | settings))
        config._attn_implementation = "eager"
        model = randomize(AutoModelForCausalLM.from_config(config), seed)
        model.generation_config.eos_token_id = None
        with (
            torch.inference_mode()
        ):  # before longer texts: dynamic positions remember the longest one
            logits = model(torch.tensor([ids])).logits
        new = generate(model, ids, NEW_TOKENS)
        with torch.inference_mode():
            continued = model(torch.tensor([ids + new])).logits[0, len(ids) - 1 : -1]
        if margin(continued) > SMALLEST_MARGIN and len(set(new)) >= 4:
            break
    model_type = "mistral" if config.model_type == "ministral" else None
    write_config(folder, config, model_type)
    write_weights(folder, model)
    numpy.save(folder / "logits.npy", logits[0, -LAST_LOGITS:].numpy())
    expected = {"prompt": ids}
    if getattr(config, "is_causal", True):  # else nobody generates text
        expected["greedy"] = new
    if name == "phi3":  # from a text that is short for the model to one that is long
        expected["short_prompt"] = ids[:27]
        expected["short_greedy"] = generate(model, ids[:27], NEW_TOKENS)
        with torch.inference_mode():
            continued = model(torch.tensor([ids[:27] + expected["short_greedy"]])).logits[0, 26:-1]
        print("margin across the border", margin(continued))
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    print(name, "seed", seed, "largest logit", float(logits.abs().max()), new)


def write_encoder(directory):
    """A BERT as its first releases named tensors: `bert.` in front, gamma and beta, a pooler."""
    folder = directory / "bert"
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    sizes = {
        key: SIZES[key]
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
    }
    config = BertConfig(
        **sizes,
        num_hidden_layers=3,
        max_position_embeddings=48,
        type_vocab_size=2,
        layer_norm_eps=1e-5,
    )
    config._attn_implementation = "eager"
    model = randomize(BertModel(config), 1)
    older = lambda name: (
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )
    )
    tensors = {
        older(name): tensor.half().contiguous() for name, tensor in model.state_dict().items()
    }
    tensors["bert.embeddings.position_ids"] = torch.arange(48)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_config(folder, config)
    texts = [list(TEXT[:11]), list(TEXT), [7], list(TEXT[5:30])]
    longest = max(map(len, texts))
    ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    types = torch.arange(longest)[None].expand_as(ids) % 3 % 2
    with torch.inference_mode():
        plain = model(input_ids=ids, attention_mask=mask).last_hidden_state
        typed = model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    real = lambda states: torch.cat(
        [state[: len(text)] for state, text in zip(states, texts)]
    ).numpy()
    numpy.save(folder / "hidden.npy", real(plain))
    numpy.save(folder / "hidden_of_types.npy", real(typed))
    weights = mask[..., None].float()
    mean = (plain * weights).sum(1) / weights.sum(1)
    greatest = torch.where(mask[..., None] == 1, plain, -1e9).amax(1)
    vectors = torch.nn.functional.normalize(torch.cat([greatest, mean], 1), dim=1)
    numpy.save(folder / "vectors.npy", vectors.numpy())
    (folder / "expected.json").write_text(json.dumps({"texts": texts}) + "\n")
    names = ["Transformer", "Pooling", "Normalize"]
    modules = [
        dict(
            idx=n,
            name=str(n),
            path=f"{n}_{name}" if n else "",
            type=f"sentence_transformers.models.{name}",
        )
        for n, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(modules) + "\n")
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps(
            dict(
                word_embedding_dimension=32,
                pooling_mode_cls_token=False,
                pooling_mode_mean_tokens=True,
                pooling_mode_max_tokens=True,
            )
        )
        + "\n"
    )


def frequencies(theta, dim):
    return theta ** (-numpy.arange(0, dim, 2, dtype=numpy.float64) / dim)


def yarn_frequencies(theta, dim, factor, original, fast, slow):
    """By wavelengths: the ramp of YaRN is linear in the logarithm of the wavelength."""
    plain = frequencies(theta, dim)
    turns = original * plain / (2 * numpy.pi)
    pairs = numpy.arange(dim // 2)
    # The first pair that turns at most `fast` times, and the pair after the last that turns `slow` times.
    pair_of = lambda count: numpy.interp(-numpy.log(count), -numpy.log(turns), pairs)
    begin, end = numpy.floor(pair_of(fast)), numpy.ceil(pair_of(slow))
    divided = numpy.clip((pairs - begin) / (end - begin), 0, 1)
    return plain * (1 - divided) + plain / factor * divided


def write_frequencies(folder):
    """Frequencies of real sizes in float64, for heads of 128."""
    yarn = yarn_frequencies(1e6, 128, 4.0, 32768, 32, 1)
    numpy.save(folder / "yarn_inv_freq.npy", yarn)
    ratio = 10000 / 4096  # a text of 10000 tokens, a model of 4096
    theta = 10000.0 * (2.0 * ratio - (2.0 - 1)) ** (128 / 126)
    numpy.save(folder / "dynamic_inv_freq.npy", frequencies(theta, 128))
    factors = 1 + numpy.arange(64) / 16
    numpy.save(folder / "longrope_inv_freq.npy", frequencies(10000.0, 128) / factors)


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "families"
    torch.set_num_threads(1)
    for name, (make, settings) in MODELS.items():
        write_decoder(directory, name, make, settings)
    write_encoder(directory)
    write_frequencies(Path(__file__).parent / "rope")


if __name__ == "__main__":
    main()
