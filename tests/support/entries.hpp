// Public functions that take tensors, each with arguments that fit: for tests that change one of
// them to what no call may have.
#pragma once

#include <attn/tensor.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace attn::test {

struct Argument {
  std::string name;
  DType dtype;
  Dims shape;
  bool output = false;
  std::vector<std::int64_t> values{};  // of integers; all are 0 if there are none
  bool any_address = false;            // elements may lie at any address
};

/// Views of the arguments, in their order.
using Views = std::vector<MutableTensorView>;

struct Entry {
  std::string name;
  std::vector<Argument> arguments;
  std::function<void(const Views& views)> run;
};

/// Calls of attention() and of what has the same arguments, in every layout of keys; of the merge
/// of states; of appending to caches.
std::vector<Entry> attention_entries();
/// Calls of the softmax family, losses and draws.
std::vector<Entry> softmax_entries();
/// Calls of norms, activations, RoPE, transformer blocks and copies.
std::vector<Entry> layer_entries();

}  // namespace attn::test
