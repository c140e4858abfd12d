#include <attn/encoder.hpp>

#include <cmath>
#include <utility>

#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"
#include "transformer/stack.hpp"

namespace attn {
using namespace detail;
namespace {

std::optional<Norm> make_norm(const char* name, const std::optional<NormSettings>& settings,
                              const NormWeights& weights, std::int64_t hidden) {
  if (!settings) {
    if (!weights.scale.absent() || !weights.bias.absent())
      reject(
          fmt::format("{} is given; it needs to be absent where settings have no such norm", name));
    return std::nullopt;
  }
  check_norm(name, *settings);
  return Norm(name, *settings, weights, hidden);
}

void check_token_types(const TensorView& types, const TensorView& ids, std::int64_t count) {
  if (types.absent()) return;
  require_rank("token_types", types, 1, "[tokens]");
  require_integers("token_types", types);
  require_extent("token_types", types, 0, ids.shape[0], "tokens of ids");
  require_data("token_types", types);
  for (std::int64_t n = 0; n < types.shape[0]; ++n) {
    const std::int64_t type = integer_at(types, n);
    if (type >= 0 && type < count) continue;
    reject(
        fmt::format("token_types[{}] is {}; it needs to be 0 or more and less than {} "
                    "(num_token_types)",
                    n, type, count));
  }
}

/// A vector as a matrix of one row, [1, n].
TensorView as_row(const TensorView& vector) {
  return {vector.data, vector.dtype, {1, vector.shape[0]}, {0, vector.strides[0]}};
}

/// The rows first..last-1 of one text, each `stride` floats after the one before.
struct TextRows {
  const float* first;
  std::int64_t stride;
  std::int64_t count;

  double at(std::int64_t row, std::int64_t column) const { return first[row * stride + column]; }
};

double pooled(const TextRows& rows, std::int64_t column, Pooling pooling) {
  const auto count = static_cast<double>(rows.count);
  double sum = 0, greatest = rows.at(0, column);
  switch (pooling) {
    case Pooling::first: return rows.at(0, column);
    case Pooling::last: return rows.at(rows.count - 1, column);
    case Pooling::max:
      for (std::int64_t n = 1; n < rows.count; ++n) {
        const double value = rows.at(n, column);
        if (value > greatest || std::isnan(value)) greatest = value;
      }
      return greatest;
    case Pooling::weighted_mean:
      for (std::int64_t n = 0; n < rows.count; ++n)
        sum += static_cast<double>(n + 1) * rows.at(n, column);
      return sum / (count * (count + 1) / 2);
    case Pooling::mean:
    case Pooling::mean_sqrt_length: break;
  }
  for (std::int64_t n = 0; n < rows.count; ++n) sum += rows.at(n, column);
  return sum / (pooling == Pooling::mean ? count : std::sqrt(count));
}

}  // namespace

struct Encoder::Impl {
  Impl(const EncoderSettings& given, const EncoderWeights& weights, const Execution& execution)
      : settings(given),
        stack({.layers = settings.layers,
               .vocab_size = settings.vocab_size,
               .num_token_types = settings.num_token_types,
               .embedding_scale = settings.embedding_scale},
              {weights.embedding, weights.positions, weights.token_types, weights.layers},
              execution),
        embedding_norm(make_norm("embedding_norm", settings.embedding_norm, weights.embedding_norm,
                                 stack.hidden())),
        final_norm(
            make_norm("final_norm", settings.final_norm, weights.final_norm, stack.hidden())),
        no_caches(settings.layers.size()) {}

  void normalize(const std::optional<Norm>& norm, const TensorView& x, const MutableTensorView& y,
                 ForwardTimes* times) const {
    if (!norm) return;
    const Timed timed(times, &ForwardTimes::norms);
    norm->apply(x, y, stack.execution());
  }

  EncoderSettings settings;
  LayerStack stack;
  std::optional<Norm> embedding_norm, final_norm;
  std::vector<CacheRef> no_caches;
};

Encoder::Encoder(const EncoderSettings& settings, const EncoderWeights& weights,
                 const Execution& execution)
    : impl_(std::make_unique<Impl>(settings, weights, execution)) {}
Encoder::Encoder(Encoder&&) noexcept = default;
Encoder& Encoder::operator=(Encoder&&) noexcept = default;
Encoder::~Encoder() = default;

Encoder::Impl& Encoder::impl() const { return not_moved_from("encoder", impl_); }

const EncoderSettings& Encoder::settings() const { return impl().settings; }
std::size_t Encoder::size_in_bytes() const { return impl().stack.size_in_bytes(); }
std::size_t Encoder::scratch_bytes() const { return impl().stack.scratch().size_in_bytes(); }

void Encoder::forward(const TensorView& ids, const TensorView& offsets,
                      const MutableTensorView& hidden, const EncoderOptions& options) {
  Impl& encoder = impl();
  require_rank("ids", ids, 1, "[tokens]");
  const ForwardOptions forward{.q_offsets = offsets,
                               .kernel = options.kernel,
                               .times = options.times,
                               .hooks = options.hooks};
  if (offsets.absent()) reject("offsets is absent; it needs to say where each text begins");
  TokenShape tokens = encoder.stack.checked(as_row(ids), encoder.no_caches, forward);
  tokens.joined = true;
  check_token_types(options.token_types, ids, encoder.settings.num_token_types);
  require_type("hidden", hidden, DType::f32);
  require_rank("hidden", hidden, 2, "[tokens, hidden]");
  require_extent("hidden", hidden, 0, ids.shape[0], "tokens of ids");
  require_extent("hidden", hidden, 1, encoder.stack.hidden(), "hidden");
  require_data("hidden", hidden);
  if (hidden.strides != dense_strides(hidden.shape)) {
    reject(fmt::format("hidden has strides {} for shape {}; it needs to be dense",
                       hidden.strides.to_string(), hidden.shape.to_string()));
  }
  if (tokens.count() == 0) return;
  const TensorView types =
      options.token_types.absent() ? TensorView{} : as_row(options.token_types);
  const MutableTensorView x =
      encoder.stack.embed(as_row(ids), types, tokens, CacheRef{}, options.times);
  encoder.normalize(encoder.embedding_norm, x, x, options.times);
  encoder.stack.run(x, tokens, encoder.no_caches, forward, [] {});
  if (encoder.final_norm) return encoder.normalize(encoder.final_norm, x, hidden, options.times);
  copy_into(x, hidden);
}

void pool(const TensorView& hidden, const TensorView& offsets, Pooling pooling,
          const MutableTensorView& y) {
  require_enumerator("pooling", pooling, Pooling::last);
  require_rank("hidden", hidden, 2, "[tokens, hidden]");
  require_type("hidden", hidden, DType::f32);
  require_data("hidden", hidden);
  require_rank("offsets", offsets, 1, "[texts + 1]");
  require_integers("offsets", offsets);
  require_data("offsets", offsets);
  require_rank("y", y, 2, "[texts, hidden]");
  require_type("y", y, DType::f32);
  require_extent("y", y, 0, offsets.shape[0] - 1, "texts of offsets");
  require_extent("y", y, 1, hidden.shape[1], "hidden");
  require_data("y", y);
  require_elements_apart("y", y);
  for (std::int64_t n = 0; n + 1 < offsets.shape[0]; ++n) {
    const std::int64_t begin = integer_at(offsets, n), end = integer_at(offsets, n + 1);
    if (begin >= 0 && begin < end && end <= hidden.shape[0]) continue;
    reject(
        fmt::format("text {} has the tokens from {} to before {} (offsets); it needs at least "
                    "one of the {} of hidden",
                    n, begin, end, hidden.shape[0]));
  }
  const Tensor dense = copy_as(hidden, DType::f32);
  for (std::int64_t n = 0; n < y.shape[0]; ++n) {
    const std::int64_t begin = integer_at(offsets, n);
    const TextRows rows{dense.data<float>() + begin * hidden.shape[1], hidden.shape[1],
                        integer_at(offsets, n + 1) - begin};
    auto* const to = static_cast<float*>(y.data) + n * y.strides[0];
    for (std::int64_t d = 0; d < hidden.shape[1]; ++d)
      to[d * y.strides[1]] = static_cast<float>(pooled(rows, d, pooling));
  }
}

void normalize_rows(const MutableTensorView& x) {
  constexpr double least = 1e-12;
  require_rank("x", x, 2, "[rows, width]");
  require_type("x", x, DType::f32);
  require_data("x", x);
  require_elements_apart("x", x);
  for (std::int64_t row = 0; row < x.shape[0]; ++row) {
    auto* const values = static_cast<float*>(x.data) + row * x.strides[0];
    double squares = 0;
    for (std::int64_t d = 0; d < x.shape[1]; ++d) {
      const double value = values[d * x.strides[1]];
      squares += value * value;
    }
    const double norm = std::max(std::sqrt(squares), least);
    for (std::int64_t d = 0; d < x.shape[1]; ++d)
      values[d * x.strides[1]] = static_cast<float>(values[d * x.strides[1]] / norm);
  }
}

}  // namespace attn
