// The core library. Files, models and tokenizers have headers and libraries of their own: io.hpp,
// model.hpp, tokenizer.hpp.
#pragma once

#include <attn/attention.hpp>
#include <attn/attention_backward.hpp>
#include <attn/block_mask.hpp>
#include <attn/encoder.hpp>
#include <attn/error.hpp>
#include <attn/execution.hpp>
#include <attn/functional.hpp>
#include <attn/info.hpp>
#include <attn/isa.hpp>
#include <attn/kv_cache.hpp>
#include <attn/kv_storage.hpp>
#include <attn/loss.hpp>
#include <attn/mask.hpp>
#include <attn/normalizer.hpp>
#include <attn/reference.hpp>
#include <attn/regression.hpp>
#include <attn/rope.hpp>
#include <attn/sample.hpp>
#include <attn/softmax.hpp>
#include <attn/state.hpp>
#include <attn/tensor.hpp>
#include <attn/transformer.hpp>
