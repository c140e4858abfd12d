// The core library. Files (io.hpp), models (model.hpp, tokenizer.hpp) and sequences cut over the
// ranks of MPI (mpi.hpp) have libraries of their own. The C interface is attn.h.
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
