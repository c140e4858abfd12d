#include "support/sequences.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace attn::test {
namespace {

std::int64_t longest(const std::vector<std::int64_t>& lens) {
  return lens.empty() ? 0 : *std::max_element(lens.begin(), lens.end());
}
std::int64_t sum(const std::vector<std::int64_t>& lens, std::int64_t count) {
  return std::accumulate(lens.begin(), lens.begin() + count, std::int64_t{0});
}
std::int64_t divide_up(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

/// [tokens, heads, ...] as [1, heads, tokens, ...].
template <class Void>
BasicTensorView<Void> as_entry(const BasicTensorView<Void>& tokens) {
  const Dims &shape = tokens.shape, &strides = tokens.strides;
  if (tokens.rank() == 2)
    return {tokens.data, tokens.dtype, {1, shape[1], shape[0]}, {0, strides[1], strides[0]}};
  return {tokens.data,
          tokens.dtype,
          {1, shape[1], shape[0], shape[2]},
          {0, strides[1], strides[0], strides[2]}};
}

StridedTensor copy_of(const TensorView& view) {
  StridedTensor copy(view.dtype, view.shape);
  copy_into(view, copy.view());
  return copy;
}

/// A mask of the last keys as one of all keys of a sequence.
StridedTensor mask_of_all_keys(const TensorView& mask, std::int64_t kv_len) {
  const int last = mask.rank() - 1;
  const std::int64_t columns = mask.shape[last],
                     before = std::max<std::int64_t>(kv_len - columns, 0);
  Dims shape = mask.shape;
  shape[last] = kv_len;
  StridedTensor all(mask.dtype, shape);
  all.assign(std::vector<double>(static_cast<std::size_t>(shape.product()),
                                 mask.dtype == DType::boolean ? 1 : 0));
  copy_into(mask.sliced(last, columns - (kv_len - before), columns),
            all.view().sliced(last, before, kv_len));
  return all;
}

/// The mask of a sequence alone, with columns from its first key on.
StridedTensor mask_alone(const StridedTensor& mask, const Sequences& sequences,
                         std::int64_t sequence) {
  if (mask.view_if_made().absent()) return {};
  const auto index = static_cast<std::size_t>(sequence);
  const std::int64_t kv_len = sequences.kv_lens[index];
  TensorView view = mask.view();
  const int last = view.rank() - 1;
  if (view.rank() == 4 && view.shape[0] > 1) view = view.sliced(0, sequence, sequence + 1);
  if (sequences.ragged_queries && last > 0 && view.shape[last - 1] > 1) {
    const std::int64_t begin = sum(sequences.q_lens, sequence);
    view = view.sliced(last - 1, begin, begin + sequences.q_lens[index]);
  }
  if (sequences.common.options.mask_keys == MaskKeys::last) return mask_of_all_keys(view, kv_len);
  if (view.shape[last] > 1) view = view.sliced(last, 0, std::min(view.shape[last], kv_len));
  return copy_of(view);
}

AttentionOptions told_batch(AttentionOptions options, std::int64_t batch) {
  const auto wrap = [batch](auto function) {
    return [batch, function](KeyRun run, auto*... values) {
      run.batch = batch;
      function(run, values...);
    };
  };
  if (options.score_mod) options.score_mod = wrap(options.score_mod);
  if (options.score_mod_gradient) options.score_mod_gradient = wrap(options.score_mod_gradient);
  if (options.mask_mod) options.mask_mod = wrap(options.mask_mod);
  return options;
}

StridedTensor integers(DType dtype, const std::vector<std::int64_t>& values, Layout layout) {
  StridedTensor tensor(dtype, {static_cast<std::int64_t>(values.size())}, layout);
  tensor.assign({values.begin(), values.end()});
  return tensor;
}

StridedTensor offsets_of(DType dtype, const std::vector<std::int64_t>& lens, Layout layout) {
  std::vector<std::int64_t> offsets{0};
  for (const std::int64_t len : lens) offsets.push_back(offsets.back() + len);
  return integers(dtype, offsets, layout);
}

std::vector<std::int64_t> shuffled(Random& random, std::int64_t count) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  for (std::int64_t n = count - 1; n > 0; --n)
    std::swap(numbers[static_cast<std::size_t>(n)],
              numbers[static_cast<std::size_t>(random.integer(0, n))]);
  return numbers;
}

}  // namespace

template <class Void>
BasicTensorView<Void> tokens_of(const BasicTensorView<Void>& tensor,
                                const std::vector<std::int64_t>& lens, std::int64_t sequence) {
  const std::int64_t begin = sum(lens, sequence);
  return as_entry(tensor.sliced(0, begin, begin + lens[static_cast<std::size_t>(sequence)]));
}
template TensorView tokens_of(const TensorView&, const std::vector<std::int64_t>&, std::int64_t);
template MutableTensorView tokens_of(const MutableTensorView&, const std::vector<std::int64_t>&,
                                     std::int64_t);

std::string to_string(const Sequences& s) {
  constexpr const char* forms[] = {"padded", "ragged", "paged", "ring"};
  return fmt::format(
      "q_lens {} kv_lens {}, {} queries, {} keys, page_size {}, offsets {}, each: {}",
      fmt::join(s.q_lens, ","), fmt::join(s.kv_lens, ","), s.ragged_queries ? "ragged" : "padded",
      forms[static_cast<int>(s.key_form)], s.page_size, name_of(s.offsets_type),
      to_string(s.common));
}

Together::Together(const Sequences& sequences) : sequences_(sequences) {
  Case& common = sequences_.common;
  common.batch = sequences_.count();
  common.q_len = longest(sequences_.q_lens);
  common.kv_len = longest(sequences_.kv_lens);
  shared_ = make_inputs(common);
  if (!sequences_.mask.empty()) shared_.mask.assign(sequences_.mask);
  make_alone(shared_);
  Random random(common.seed);
  place_queries();
  choose_places(random);
  place_keys(&Inputs::k, k_);
  place_keys(&Inputs::v, v_);
  if (common.kv_type == DType::i8) {
    place_keys(&Inputs::k_scales, k_scales_);
    place_keys(&Inputs::v_scales, v_scales_);
  }
}

void Together::make_alone(const Inputs& shared) {
  for (std::int64_t b = 0; b < sequences_.count(); ++b) {
    Case c = sequences_.common;
    c.batch = 1;
    c.q_len = sequences_.q_lens[static_cast<std::size_t>(b)];
    c.kv_len = sequences_.kv_lens[static_cast<std::size_t>(b)];
    c.layout = Layout::bhsd;
    c.mask.reset();
    c.seed = 1000 * c.seed + static_cast<std::uint64_t>(b);
    c.options = told_batch(c.options, b);
    c.options.mask_keys = MaskKeys::first;
    Inputs inputs = make_inputs(c);
    inputs.mask = mask_alone(shared.mask, sequences_, b);
    if (sequences_.common.mask)
      c.mask = DenseMask{.dtype = inputs.mask.dtype(), .shape = inputs.mask.shape()};
    inputs.alibi_slopes = shared.alibi_slopes;
    inputs.sinks = shared.sinks;
    alone_.push_back({c, inputs});
  }
}

void Together::place_queries() {
  const Case& c = sequences_.common;
  if (!sequences_.ragged_queries) {
    q_ = StridedTensor(c.q_type, {c.batch, c.num_q_heads, c.q_len, c.head_dim}, c.layout);
  } else {
    q_ = StridedTensor(c.q_type, {sum(sequences_.q_lens, c.batch), c.num_q_heads, c.head_dim},
                       c.layout);
    q_offsets_ = offsets_of(sequences_.offsets_type, sequences_.q_lens, c.layout);
  }
  for (std::int64_t b = 0; b < c.batch; ++b) {
    const MutableTensorView to = sequences_.ragged_queries
                                     ? tokens_of(q_.view(), sequences_.q_lens, b)
                                     : q_.view().sliced(0, b, b + 1);
    copy_into(alone_[static_cast<std::size_t>(b)].inputs.q.view(), to);
  }
}

void Together::choose_places(Random& random) {
  const Case& c = sequences_.common;
  const std::vector<std::int64_t>& lens = sequences_.kv_lens;
  if (sequences_.key_form == KeyForm::ragged) {
    kv_offsets_ = offsets_of(sequences_.offsets_type, lens, c.layout);
    return;
  }
  kv_lens_ = integers(sequences_.offsets_type, lens, c.layout);
  if (sequences_.key_form == KeyForm::ring) {
    for (std::int64_t b = 0; b < c.batch; ++b)
      starts_.push_back(random.integer(0, std::max<std::int64_t>(c.kv_len - 1, 0)));
    kv_starts_ = integers(sequences_.offsets_type, starts_, c.layout);
  }
  if (sequences_.key_form != KeyForm::paged) return;
  page_table_ =
      StridedTensor(DType::i32, {c.batch, divide_up(c.kv_len, sequences_.page_size) + 1}, c.layout);
  for (const std::int64_t len : lens) num_pages_ += divide_up(len, sequences_.page_size);
  num_pages_ += 2;
  const std::vector<std::int64_t> numbers = shuffled(random, num_pages_);
  std::size_t next = 0;
  for (std::int64_t b = 0; b < c.batch; ++b) {
    pages_.emplace_back();
    for (std::int64_t n = 0; n < divide_up(lens[static_cast<std::size_t>(b)], sequences_.page_size);
         ++n) {
      pages_.back().push_back(numbers[next++]);
      page_table_.set({b, n}, static_cast<double>(pages_.back().back()));
    }
  }
}

/// Of k, v or scales, from the shape that they have alone.
Dims Together::key_shape(const StridedTensor& alone) const {
  const Case& c = sequences_.common;
  Dims shape = alone.shape();
  switch (sequences_.key_form) {
    case KeyForm::ragged: {
      const std::int64_t tokens = sum(sequences_.kv_lens, c.batch);
      return shape.rank() == 3 ? Dims{tokens, shape[1]} : Dims{tokens, shape[1], shape[3]};
    }
    case KeyForm::paged:
      shape[0] = num_pages_;
      shape[2] = sequences_.page_size;
      return shape;
    default:
      shape[0] = c.batch;
      shape[2] = c.kv_len;
      return shape;
  }
}

MutableTensorView Together::key_place(StridedTensor& to, std::int64_t sequence,
                                      std::int64_t key) const {
  std::int64_t entry = sequence, row = key;
  MutableTensorView view = to.view();
  const auto index = static_cast<std::size_t>(sequence);
  switch (sequences_.key_form) {
    case KeyForm::ragged:
      view = tokens_of(view, sequences_.kv_lens, sequence);
      entry = 0;
      break;
    case KeyForm::paged:
      entry = pages_[index][static_cast<std::size_t>(key / sequences_.page_size)];
      row = key % sequences_.page_size;
      break;
    case KeyForm::ring: row = (starts_[index] + key) % sequences_.common.kv_len; break;
    case KeyForm::padded: break;
  }
  return view.sliced(0, entry, entry + 1).sliced(2, row, row + 1);
}

void Together::place_keys(const StridedTensor Inputs::*member, StridedTensor& to) {
  if (alone_.empty()) return;
  const StridedTensor& first = alone_.front().inputs.*member;
  to = StridedTensor(first.dtype(), key_shape(first), sequences_.common.layout);
  for (std::int64_t b = 0; b < sequences_.count(); ++b) {
    const TensorView from = (alone_[static_cast<std::size_t>(b)].inputs.*member).view();
    for (std::int64_t key = 0; key < from.shape[2]; ++key)
      copy_into(from.sliced(2, key, key + 1), key_place(to, b, key));
  }
}

KvStorage Together::storage() const {
  KvStorage storage{.k_scales = k_scales_.view_if_made(), .v_scales = v_scales_.view_if_made()};
  if (sequences_.key_form == KeyForm::paged) storage.layout = Paged{page_table_.view_if_made()};
  if (sequences_.key_form == KeyForm::ring) storage.layout = Ring{kv_starts_.view_if_made()};
  return storage;
}

AttentionTensors Together::tensors() {
  const Case& c = sequences_.common;
  const std::int64_t tokens = sum(sequences_.q_lens, c.batch), width = c.value_dim();
  const bool ragged = sequences_.ragged_queries;
  outputs_.out = StridedTensor(
      c.out_type,
      ragged ? Dims{tokens, c.num_q_heads, width} : Dims{c.batch, c.num_q_heads, c.q_len, width},
      c.layout);
  const Dims lse_shape =
      ragged ? Dims{tokens, c.num_q_heads} : Dims{c.batch, c.num_q_heads, c.q_len};
  if (c.lse) outputs_.lse = StridedTensor(DType::f32, lse_shape, c.layout);
  return {
      .q = q_.view(),
      .k = k_.view(),
      .v = v_.view(),
      .out = outputs_.out.view(),
      .mask = shared_.mask.view_if_made(),
      .alibi_slopes = shared_.alibi_slopes.view_if_made(),
      .sinks = shared_.sinks.view_if_made(),
      .kv_lens = kv_lens_.view_if_made(),
      .lse = outputs_.lse.view_if_made(),
      .storage = storage(),
      .ragged = {.q_offsets = q_offsets_.view_if_made(), .kv_offsets = kv_offsets_.view_if_made()}};
}

Outputs Together::outputs(std::int64_t sequence) const {
  const auto part_of = [&](const StridedTensor& tensor) {
    const TensorView view = tensor.view_if_made();
    if (view.absent()) return StridedTensor();
    return copy_of(sequences_.ragged_queries ? tokens_of(view, sequences_.q_lens, sequence)
                                             : view.sliced(0, sequence, sequence + 1));
  };
  return {part_of(outputs_.out), part_of(outputs_.lse)};
}

}  // namespace attn::test
