// What no tensor may be in any call. The fields of views are public, so that they may hold what no
// constructor takes; every function has to refuse it before it writes anything.
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "support/check_fails.hpp"
#include "support/entries.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
constexpr std::byte untouched{0x33};

/// Aligned memory for each argument of an entry.
class Memory {
 public:
  explicit Memory(const Entry& entry) : entry_(entry) {
    for (const Argument& argument : entry.arguments) {
      Tensor& tensor = tensors_.emplace_back(argument.dtype, argument.shape);
      if (argument.output) std::memset(tensor.data(), 0x33, tensor.size_in_bytes());
      if (argument.values.empty()) continue;
      copy_into({argument.values.data(), argument.shape}, tensor.view());
    }
  }
  Views views() {
    Views views;
    for (Tensor& tensor : tensors_) views.push_back(tensor.view());
    return views;
  }
  bool outputs_untouched() const {
    bool same = true;
    for (std::size_t n = 0; n < tensors_.size(); ++n) {
      if (!entry_.arguments[n].output) continue;
      const auto* bytes = static_cast<const std::byte*>(tensors_[n].data());
      same = same && std::all_of(bytes, bytes + tensors_[n].size_in_bytes(),
                                 [](std::byte byte) { return byte == untouched; });
    }
    return same;
  }

 private:
  const Entry& entry_;
  std::vector<Tensor> tensors_;
};

std::vector<Entry> all_entries() {
  std::vector<Entry> all;
  for (const auto entries : {attention_entries, softmax_entries, layer_entries}) {
    for (Entry& entry : entries()) all.push_back(std::move(entry));
  }
  return all;
}

using Change = std::function<void(MutableTensorView& view)>;

/// Makes the change to one argument of a valid call.
void check_refused(const Entry& entry, std::size_t argument, const std::string& what,
                   const Change& change) {
  const std::string name = entry.arguments[argument].name;
  const std::string place = entry.name + ": " + name + ": " + what;
  CAPTURE(place);
  Memory memory(entry);
  Views views = memory.views();
  change(views[argument]);
  const std::string message = refusal([&] { entry.run(views); }, ErrorCode::invalid_argument);
  CHECK_FALSE(message.empty());
  CHECK(memory.outputs_untouched());
}

/// Calls f(entry, n) for each argument n of each entry.
template <class F>
void for_each_argument(F&& f) {
  for (const Entry& entry : all_entries()) {
    for (std::size_t n = 0; n < entry.arguments.size(); ++n) f(entry, n);
  }
}

}  // namespace

TEST_CASE("the calls themselves are right") {
  for (const Entry& entry : all_entries()) {
    CAPTURE(entry.name);
    Memory memory(entry);
    CHECK_NOTHROW(entry.run(memory.views()));
  }
}

TEST_CASE("extents that are negative, or more than any memory has") {
  for_each_argument([](const Entry& entry, std::size_t n) {
    for (int dim = 0; dim < entry.arguments[n].shape.rank(); ++dim) {
      for (const std::int64_t extent : {std::int64_t{-1}, std::int64_t{-4}, least, largest,
                                        largest / 2 + 1, (std::int64_t{1} << 48) + 1}) {
        check_refused(entry, n, "extent " + std::to_string(extent),
                      [&](MutableTensorView& view) { view.shape[dim] = extent; });
      }
    }
  });
}

TEST_CASE("element types that do not exist") {
  for_each_argument([](const Entry& entry, std::size_t n) {
    for (const int type : {8, 77, 255}) {
      check_refused(entry, n, "type " + std::to_string(type),
                    [&](MutableTensorView& view) { view.dtype = static_cast<DType>(type); });
    }
  });
}

TEST_CASE("no data, and data at addresses between two elements") {
  for_each_argument([](const Entry& entry, std::size_t n) {
    check_refused(entry, n, "null", [](MutableTensorView& view) { view.data = nullptr; });
    if (entry.arguments[n].any_address || size_of(entry.arguments[n].dtype) == 1) return;
    check_refused(entry, n, "unaligned", [](MutableTensorView& view) {
      view.data = static_cast<std::byte*>(view.data) + 1;
    });
  });
}

TEST_CASE("strides that are too few, or lead out of any memory") {
  for_each_argument([](const Entry& entry, std::size_t n) {
    const int rank = entry.arguments[n].shape.rank();
    check_refused(entry, n, "one stride more", [&](MutableTensorView& view) {
      std::vector<std::int64_t> strides(view.strides.begin(), view.strides.end());
      strides.push_back(1);
      view.strides = Dims(strides.data(), rank + 1);
    });
    check_refused(entry, n, "strides of the greatest rank",
                  [](MutableTensorView& view) { view.strides = {1, 1, 1, 1, 1, 1, 1, 1}; });
    if (rank == 0) return;
    check_refused(entry, n, "one stride less", [&](MutableTensorView& view) {
      view.strides = Dims(view.strides.begin(), rank - 1);
    });
    for (const std::int64_t stride :
         {least, least + 1, largest, largest / 2 + 1, largest / 3, -(std::int64_t{1} << 50)}) {
      const std::string what = "stride " + std::to_string(stride);
      for (int dim = 0; dim < rank; ++dim) {
        check_refused(entry, n, what + " of dim " + std::to_string(dim),
                      [&](MutableTensorView& view) { view.strides[dim] = stride; });
      }
      check_refused(entry, n, what + " of all dims", [&](MutableTensorView& view) {
        for (int dim = 0; dim < rank; ++dim) view.strides[dim] = stride;
      });
    }
  });
}

TEST_CASE("outputs that put two elements in the same place") {
  for_each_argument([](const Entry& entry, std::size_t n) {
    const Argument& argument = entry.arguments[n];
    if (!argument.output) return;
    const Dims& shape = argument.shape;
    for (int dim = 0; dim < shape.rank(); ++dim) {
      if (shape[dim] == 1) continue;
      check_refused(entry, n, "stride 0", [&](MutableTensorView& view) { view.strides[dim] = 0; });
      for (int other = 0; other < dim; ++other) {
        if (shape[other] == 1) continue;
        check_refused(entry, n, "equal strides",
                      [&](MutableTensorView& view) { view.strides[other] = view.strides[dim]; });
      }
    }
  });
}

TEST_CASE("a stride of 0 is right for inputs, and for outputs where the extent is 1") {
  float x[4] = {1, 2, 3, 4}, y[4] = {};
  softmax(TensorView(x, {3, 4}, {0, 1}).sliced(0, 0, 1), {y, {1, 4}, {0, 1}});
  CHECK(y[3] > y[0]);
  float out[8] = {};
  const TensorView keys(x, {1, 1, 4, 4}, {0, 0, 0, 1});
  attention(keys.sliced(2, 0, 2), keys, keys, {out, {1, 1, 2, 4}, {0, 0, 4, 1}});
  CHECK(out[0] == 1);
  CHECK(out[7] == 4);
}

TEST_CASE("enumerators that do not exist") {
  float x[8] = {}, y[8] = {};
  const std::int64_t target[2] = {};
  const TensorView in(x, {2, 4}), classes(target, {2}), heads(x, {1, 1, 2, 4});
  const MutableTensorView loss(y, {2}), out(y, {1, 1, 2, 4});
  const auto check = [](const char* name, const std::function<void()>& run) {
    check_fails(ErrorCode::invalid_argument, {name, "99"}, run);
  };
  check("score_matmul", [&] {
    attention(heads, heads, heads, out, {.score_matmul = static_cast<ScoreMatmul>(99)});
  });
  check("isa", [&] { softmax(in, {y, {2, 4}}, -1, 1, {.isa = static_cast<Isa>(99)}); });
  check("isa", [&] { attention(heads, heads, heads, out, {}, {.isa = static_cast<Isa>(99)}); });
  check("reduction",
        [&] { cross_entropy(in, classes, loss, {.reduction = static_cast<Reduction>(99)}); });
  check("form", [&] { gelu(in, {y, {2, 4}}, static_cast<GeluForm>(99)); });
  check("stage", [&] {
    reference_scores({.q = heads, .k = heads}, {}, static_cast<ScoreStage>(99), {y, {1, 1, 2, 2}});
  });
  check("dtype", [] { Tensor(static_cast<DType>(99), {2}); });
  check("dtype", [&] { copy_as(in, static_cast<DType>(99)); });
  KvCache::Settings settings{.num_kv_heads = 1, .capacity = 4, .head_dim = 4};
  settings.layout = static_cast<CacheLayout>(99);
  check("layout", [&] { KvCache cache(settings); });
  check("layout", [&] {
    PagedKvCache cache(
        {.num_pages = 1, .num_kv_heads = 1, .head_dim = 4, .layout = static_cast<CacheLayout>(99)});
  });
}
