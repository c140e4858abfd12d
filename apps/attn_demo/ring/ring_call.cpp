#include "ring_call.hpp"

#include <utility>
#include <vector>

#include "apps/attn_demo/call/call.hpp"

namespace attn::apps::demo {
namespace {

/// A tensor of floating-point numbers in a file, mapped.
class FloatFile {
 public:
  FloatFile(const char* option, const std::string& file) : file_(file) {
    require_floats(option, file, file_.view().dtype);
  }
  const TensorView& view() const noexcept { return file_.view(); }

 private:
  MappedTensor file_;
};

/// The files that a rank reads its rows of.
class RingFiles {
 public:
  explicit RingFiles(const RingArguments& arguments)
      : layout_(arguments.call.layout.value_or(Layout::bhsd)),
        q_("--q", *arguments.call.q),
        k_("--k", *arguments.call.k),
        v_("--v", *arguments.call.v) {
    if (arguments.dout) dout_.emplace("--dout", *arguments.dout);
    if (arguments.dlse) dlse_.emplace("--dlse", *arguments.dlse);
    if (!arguments.call.mask) return;
    mask_.emplace(*arguments.call.mask);
    if (mask_->view().dtype != DType::boolean)
      require_mask_floats(*arguments.call.mask, mask_->view().dtype);
  }

  TensorView q() const { return in_heads("--q", q_); }
  TensorView k() const { return in_heads("--k", k_); }
  TensorView v() const { return in_heads("--v", v_); }
  TensorView dout() const { return dout_ ? in_heads("--dout", *dout_) : TensorView{}; }
  TensorView dlse() const { return dlse_ ? dlse_->view() : TensorView{}; }
  TensorView mask() const { return mask_ ? mask_->view() : TensorView{}; }

 private:
  TensorView in_heads(const char* option, const FloatFile& file) const {
    const TensorView& view = file.view();
    if (view.rank() != 4)
      reject("{} has shape {}; ring needs rank 4, as --layout says", option,
             view.shape.to_string());
    return heads_first(view, layout_, 0);
  }

  Layout layout_;
  FloatFile q_, k_, v_;
  std::optional<FloatFile> dout_, dlse_;
  std::optional<MappedTensor> mask_;
};

DType type_of_mask(const TensorView& mask) {
  return mask.dtype == DType::boolean ? DType::boolean : DType::f32;
}

/// The shape and the type of a tensor alone.
TensorView form_of(const TensorView& tensor, DType dtype) {
  return tensor.absent() ? tensor : TensorView(nullptr, dtype, tensor.shape);
}
MutableTensorView form(DType dtype, const Dims& shape) { return {nullptr, dtype, shape}; }

/// Checks the whole call as one process would, so that the messages are those of `run`.
void check_whole(const RingFiles& files, const RingCall& call, const RingArguments& arguments) {
  const TensorView q = files.q(), k = files.k(), v = files.v();
  AttentionTensors tensors{.q = form_of(q, call.dtype),
                           .k = form_of(k, call.dtype),
                           .v = form_of(v, call.dtype),
                           .mask = form_of(files.mask(), type_of_mask(files.mask()))};
  tensors.alibi_slopes = arguments.call.alibi ? call.alibi_slopes.view() : TensorView{};
  tensors.sinks = arguments.call.sinks ? call.sinks.view() : TensorView{};
  tensors.kv_lens = arguments.call.kv_lens ? call.kv_lens.view() : TensorView{};
  tensors.out = form(DType::f32, output_shape(tensors));
  if (call.options.normalizer == Normalizer::softmax())
    tensors.lse = form(DType::f32, Dims(q.shape.begin(), 3));
  const AttentionPlan checks_the_call(tensors, call.options, call.execution);
  if (!arguments.dout) return;
  AttentionGradients gradients{.dout = form_of(files.dout(), call.dtype),
                               .dlse = form_of(files.dlse(), DType::f32),
                               .dq = form(call.dtype, q.shape)};
  if (arguments.dmask) gradients.dmask = form(DType::f32, tensors.mask.shape);
  if (arguments.dalibi) gradients.dalibi = form(DType::f32, {q.shape[1]});
  if (arguments.dsinks) gradients.dsinks = form(DType::f32, {q.shape[1]});
  const AttentionBackwardPlan checks_the_gradients(tensors, gradients, call.options,
                                                   call.execution);
}

SequenceCut cut_of(std::int64_t length, bool causal) {
  return causal ? SequenceCut::zigzag(length, size_of_ring())
                : SequenceCut::even(length, size_of_ring());
}

/// One row of a mask beside one query on every rank could be either the query's or that of all. To
/// tell them apart where it is that of all, the first rank takes another query from the last one.
void tell_mask_rows_apart(SequenceCut& queries) {
  const int size = queries.num_ranks();
  for (int rank = 0; rank < size; ++rank)
    if (size == 1 || queries.num_tokens(rank) != 1) return;
  queries.truncate(0);
  for (int rank = 0; rank < size - 1; ++rank) queries.append(rank, rank == 0 ? 2 : 1);
}

/// Rows of a dim, dense, in a type.
Tensor copy_rows(const TensorView& whole, int dim, const std::vector<TokenRange>& ranges,
                 DType dtype) {
  if (whole.absent()) return {};
  Dims shape = whole.shape;
  shape[dim] = 0;
  for (const TokenRange& range : ranges) shape[dim] += range.size();
  Tensor rows(dtype, shape);
  std::int64_t row = 0;
  for (const TokenRange& range : ranges) {
    copy_into(whole.sliced(dim, range.begin, range.end),
              rows.view().sliced(dim, row, row + range.size()));
    row += range.size();
  }
  return rows;
}

void require_gradient_files(const RingArguments& arguments) {
  if (!arguments.dout) return;
  for (const auto& [option, file] :
       {std::pair{"--dq", &arguments.dq}, std::pair{"--dk", &arguments.dk},
        std::pair{"--dv", &arguments.dv}}) {
    if (!*file) reject("{} is required with --dout", option);
  }
}

}  // namespace

int rank_of_ring() {
  int rank = 0;
  MPI_Comm_rank(ring_comm, &rank);
  return rank;
}
int size_of_ring() {
  int size = 1;
  MPI_Comm_size(ring_comm, &size);
  return size;
}

void RingCall::load(const RingArguments& arguments) {
  require_gradient_files(arguments);
  options = arguments.call.options;
  options.normalizer = arguments.call.normalizer.value();
  execution = arguments.call.execution;
  dtype = arguments.call.types.dtype;
  layout = arguments.call.layout.value_or(Layout::bhsd);
  const RingFiles files(arguments);
  if (arguments.call.alibi)
    alibi_slopes = read_floats("--alibi", *arguments.call.alibi, DType::f32);
  if (arguments.call.sinks) sinks = read_floats("--sinks", *arguments.call.sinks, DType::f32);
  if (arguments.call.kv_lens) kv_lens = read_tensor(*arguments.call.kv_lens);
  check_whole(files, *this, arguments);

  const bool causal = options.causal.has_value();
  cut = RingCut{cut_of(files.q().shape[2], causal), cut_of(files.k().shape[2], causal)};
  const TensorView whole_mask = files.mask();
  mask_has_rows = whole_mask.rank() >= 2 && whole_mask.shape[whole_mask.rank() - 2] != 1;
  if (whole_mask.rank() >= 2 && !mask_has_rows) tell_mask_rows_apart(cut->queries);
  const auto &queries = cut->queries.ranges(rank_of_ring()),
             &keys = cut->keys.ranges(rank_of_ring());
  q = copy_rows(files.q(), 2, queries, dtype);
  k = copy_rows(files.k(), 2, keys, dtype);
  v = copy_rows(files.v(), 2, keys, dtype);
  dout = copy_rows(files.dout(), 2, queries, dtype);
  dlse = copy_rows(files.dlse(), 2, queries, DType::f32);
  if (mask_has_rows)
    mask = copy_rows(whole_mask, whole_mask.rank() - 2, queries, type_of_mask(whole_mask));
  else if (!whole_mask.absent())
    mask = copy_as(whole_mask, type_of_mask(whole_mask));

  out = Tensor(DType::f32, {q.shape()[0], q.shape()[1], q.shape()[2], v.shape()[3]});
  lse = Tensor(DType::f32, {q.shape()[0], q.shape()[1], q.shape()[2]});
  if (!arguments.dout) return;
  dq = Tensor(dtype, q.shape());
  dk = Tensor(dtype, k.shape());
  dv = Tensor(dtype, v.shape());
  if (arguments.dmask) dmask = Tensor(DType::f32, mask.shape());
  if (arguments.dalibi) dalibi = Tensor(DType::f32, {q.shape()[1]});
  if (arguments.dsinks) dsinks = Tensor(DType::f32, {q.shape()[1]});
}

AttentionTensors RingCall::tensors() {
  const auto given = [](const Tensor& tensor) {
    return tensor.data() == nullptr && tensor.shape() == Dims{0} ? TensorView{} : tensor.view();
  };
  return {.q = std::as_const(q).view(),
          .k = std::as_const(k).view(),
          .v = std::as_const(v).view(),
          .out = out.view(),
          .mask = given(mask),
          .alibi_slopes = given(alibi_slopes),
          .sinks = given(sinks),
          .kv_lens = given(kv_lens),
          .lse = lse.view()};
}

AttentionGradients RingCall::gradients(const RingArguments& arguments) {
  AttentionGradients gradients{
      .dout = std::as_const(dout).view(), .dq = dq.view(), .dk = dk.view(), .dv = dv.view()};
  if (arguments.dlse) gradients.dlse = std::as_const(dlse).view();
  if (arguments.dmask) gradients.dmask = dmask.view();
  if (arguments.dalibi) gradients.dalibi = dalibi.view();
  if (arguments.dsinks) gradients.dsinks = dsinks.view();
  return gradients;
}

}  // namespace attn::apps::demo
