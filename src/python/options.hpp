// The options of a call, as Python gives them.
#pragma once

#include <nanobind/nanobind.h>
#include <attn/attention.hpp>

#include <cstdint>
#include <optional>

#include "array.hpp"

namespace attn::python {

/// The options of a call by name, in the order of a tuple that the package's Python code makes.
enum class Option : std::size_t {
  scale,
  softcap,
  causal,
  q_position,
  window,
  mask,
  alibi_slopes,
  kv_lens,
  sinks,
  normalizer,
  alpha,
  sigmoid_bias,
  block_mask,
  score_matmul,
  num_threads,
  isa,
  count
};

/// Options and the arrays among them.
struct CallOptions {
  AttentionOptions options;
  Execution execution;
  Array mask, alibi_slopes, kv_lens, sinks;

  /// `kind` says whose number of threads is the default.
  CallOptions(const nb::tuple& values, Kind kind);
  /// Names the arrays in a call.
  void add_to(AttentionTensors& tensors) const;
};

/// None is an empty optional. Throws TypeError for what is no number, attn.Error for what float or
/// int64 cannot hold.
std::optional<float> optional_float(const char* name, nb::handle value);
std::optional<std::int64_t> optional_integer(const char* name, nb::handle value);
float required_float(const char* name, nb::handle value);
std::int64_t required_integer(const char* name, nb::handle value);
bool required_bool(const char* name, nb::handle value);
std::string required_text(const char* name, nb::handle value);

/// How a call runs. Without a number of threads: that of set_num_threads(), else PyTorch's where
/// its tensors are computed on, else the library's default. PyTorch's tensors are computed by
/// PyTorch's threads.
Execution execution_of(nb::handle num_threads, nb::handle isa, Kind kind);
Execution default_execution(Kind kind);

void set_num_threads(nb::handle number);
int get_num_threads();

}  // namespace attn::python
