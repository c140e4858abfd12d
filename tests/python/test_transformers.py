"""attn_implementation="attn": eager's logits and gradients on small models with random weights."""

import warnings

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import attn.transformers  # noqa: E402

attn.transformers.register()

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "Llama": {},
    "Qwen3": {"head_dim": 8},
    "Mistral": {"sliding_window": 5},
    "Gemma2": {"head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 2.0},
    "Gemma3Text": {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8},
    "GptOss": {
        "head_dim": 8,
        "sliding_window": 5,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
}


def model_of(name, implementation, **settings):
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **MODELS[name], **settings})
    kind = "Gemma3" if name == "Gemma3Text" else name
    torch.manual_seed(43)
    model = getattr(transformers, f"{kind}ForCausalLM")._from_config(
        config, attn_implementation=implementation
    )
    for parameter in model.parameters():  # scores of order one, and sinks that are not 0
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def pair(name, **settings):
    return model_of(name, "eager", **settings), model_of(name, "attn", **settings)


def ids_of(*shape):
    return torch.randint(3, 97, shape, generator=torch.Generator().manual_seed(47))


def masks():
    left, right = torch.ones(2, 12, dtype=torch.long), torch.ones(2, 12, dtype=torch.long)
    left[0, :4] = 0
    right[1, 7:] = 0
    return {"none": None, "left": left, "right": right}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_logits_and_gradients(name, padding):
    ids, mask = ids_of(2, 12), masks()[padding]
    tokens = torch.ones(2, 12, dtype=torch.bool) if mask is None else mask.bool()
    results = []
    for implementation, model in zip(("eager", "attn"), pair(name)):
        assert model.config._attn_implementation == implementation
        logits = model(ids, attention_mask=mask).logits[tokens]
        logits.square().mean().backward()
        results.append(
            (logits, {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        )
    (expected, wanted), (got, gradients) = results
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)
    assert set(gradients) == set(wanted) and any("self_attn" in n for n in wanted)
    assert name != "GptOss" or any("sinks" in n for n in gradients)
    for n, gradient in wanted.items():
        scale = gradient.abs().max().item() + 1e-3
        torch.testing.assert_close(gradients[n], gradient, atol=2e-3 * scale, rtol=1e-3, msg=n)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate(name, cache):
    ids, mask = ids_of(2, 7), torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    settings = {"cache_implementation": "static"} if cache == "static" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts = [
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=8,
                do_sample=False,
                disable_compile=True,
                **settings,
            )
            for model in pair(name)
        ]
    assert torch.equal(*texts)


def test_pieces_with_a_cache():
    """Several tokens at a time after others, alone and padded."""
    ids = ids_of(2, 12)
    for mask in (None, masks()["left"]):
        results = []
        for model in pair("Mistral"):
            with torch.no_grad():
                first = model(ids[:, :5], attention_mask=None if mask is None else mask[:, :5])
                rest = model(ids[:, 5:], past_key_values=first.past_key_values, attention_mask=mask)
            results.append(rest.logits)
        torch.testing.assert_close(*results, atol=2e-4, rtol=1e-4)


def test_static_first_pass_without_a_mask():
    q = torch.randn(1, 2, 4, 8)
    k, v = torch.randn(2, 1, 2, 9, 8)
    module = torch.nn.Module()
    out, weights = attn.transformers.attention_forward(module, q, k, v, None)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(out, expected.transpose(1, 2), atol=1e-6, rtol=1e-5)
    assert weights is None and out.is_contiguous()
    one, _ = attn.transformers.attention_forward(module, q[:, :, :1], k, v, None)
    expected = torch.nn.functional.scaled_dot_product_attention(q[:, :, :1], k, v)
    torch.testing.assert_close(one, expected.transpose(1, 2), atol=1e-6, rtol=1e-5)


def test_bert():
    if not hasattr(transformers.models.bert.modeling_bert, "eager_attention_forward"):
        pytest.skip("BERT of this version has no attention interface")
    config = transformers.BertConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
    )
    ids, mask = ids_of(2, 12), masks()["right"]
    results = []
    for implementation in ("eager", "attn"):
        torch.manual_seed(43)
        model = transformers.BertModel._from_config(
            config, attn_implementation=implementation
        ).eval()
        out = model(ids, attention_mask=mask).last_hidden_state[mask.bool()]
        out.square().sum().backward()
        results.append((out, model.embeddings.word_embeddings.weight.grad))
    for got, wanted in zip(*results):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-3)
    with pytest.raises(NotImplementedError, match="dropout"):
        model.train()(ids, attention_mask=mask)


def test_position_bias():
    config = transformers.T5Config(
        vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    ids, mask = ids_of(2, 12), masks()["right"]
    results = []
    for implementation in ("eager", "attn"):
        torch.manual_seed(43)
        model = transformers.T5Model._from_config(config, attn_implementation=implementation).eval()
        if model.config._attn_implementation != implementation:
            pytest.skip("T5 of this version has no attention interface")
        out = model(ids, attention_mask=mask, decoder_input_ids=ids).last_hidden_state
        out.square().sum().backward()
        bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad
        results.append((out, bias))
    for got, wanted in zip(*results):
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)


def test_packed_sequences():
    ids = ids_of(1, 9)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    with torch.no_grad():
        expected, got = (
            m(ids, position_ids=positions, use_cache=False).logits for m in pair("Llama")
        )
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)
    q, k, v = torch.randn(3, 1, 2, 9, 8)
    ends = torch.tensor([0, 4, 9], dtype=torch.int32)
    out, _ = attn.transformers.attention_forward(
        torch.nn.Module(),
        q,
        k,
        v,
        None,
        sliding_window=3,
        cu_seq_lens_q=ends,
        cu_seq_lens_k=ends,
        max_length_q=5,
        max_length_k=5,
    )
    for begin, end in [(0, 4), (4, 9)]:
        part, _ = attn.transformers.attention_forward(
            torch.nn.Module(), *(x[:, :, begin:end] for x in (q, k, v)), None, sliding_window=3
        )
        torch.testing.assert_close(out[:, begin:end], part, atol=1e-6, rtol=1e-5)


def test_nothing_is_ignored():
    q, k, v = torch.randn(3, 1, 2, 4, 8)
    call = attn.transformers.attention_forward
    for arguments in (
        {"dropout": 0.1},
        {"output_attentions": True},
        {"head_mask": torch.ones(2)},
        {"indices": torch.zeros(1)},
    ):
        with pytest.raises(NotImplementedError):
            call(torch.nn.Module(), q, k, v, None, **arguments)
    padding = torch.tensor([[0, 1, 1, 1]])
    out, _ = call(torch.nn.Module(), q, k, v, padding)
    expected = attn.attention(q, k, v, causal=True, mask=padding.bool()[:, None, None])
    torch.testing.assert_close(out, expected.transpose(1, 2), atol=0, rtol=0)
    out, _ = call(torch.nn.Module(), q, k, v, None, sliding_window=2)
    expected = attn.attention(q, k, v, causal="top_left", window=(1, None))
    torch.testing.assert_close(out, expected.transpose(1, 2), atol=0, rtol=0)
    module = torch.nn.Module()
    module.is_causal = False
    out, _ = call(module, q, k, v, None, sliding_window=1)
    torch.testing.assert_close(out, attn.attention(q, k, v, window=(1, 1)).transpose(1, 2))
    for short in (torch.ones(1, 3), torch.ones(1, 1, 4, 3, dtype=torch.bool)):
        with pytest.raises(attn.Error, match="attention_mask .* needs 4 or more"):
            call(module, q, k, v, short)
    with pytest.raises(TypeError, match="name is"):
        attn.transformers.register(3)


def test_autocast_and_checkpointing():
    ids = ids_of(1, 9)
    model = model_of("Llama", "attn", attention_dropout=0.0).train()
    plain = torch.autograd.grad(model(ids).logits.square().mean(), model.lm_head.weight)[0]
    model.gradient_checkpointing_enable()
    again = torch.autograd.grad(
        model(ids, use_cache=False).logits.square().mean(), model.lm_head.weight
    )[0]
    torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(ids).logits.dtype == torch.bfloat16


def test_models_without_the_interface():
    if not hasattr(transformers.models.mpnet.modeling_mpnet, "create_bidirectional_mask"):
        pytest.skip("MPNet of this version makes its own masks")
    config = transformers.MPNetConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=4
    )
    model = transformers.MPNetModel._from_config(config, attn_implementation="attn").eval()
    ids = ids_of(2, 7)
    with pytest.raises(NotImplementedError, match="MPNetConfig compute attention themselves"):
        model(ids, attention_mask=torch.ones_like(ids).tril())
