#include "mpi/ring.hpp"

#include <algorithm>

#include "mpi/overlap.hpp"
#include "mpi/reduce.hpp"

namespace attn::mpi {
namespace {

constexpr int tag_of_blocks = 2, tag_of_gradients = 3, tag_home = 4;

std::int64_t bytes_of(const TensorView& tensor) noexcept {
  return tensor.size() * static_cast<std::int64_t>(size_of(tensor.dtype));
}

/// Values begin at a multiple of this in a buffer.
constexpr std::int64_t alignment = 64;

std::int64_t aligned(std::int64_t bytes) noexcept {
  return (bytes + alignment - 1) / alignment * alignment;
}

bool dense(const TensorView& tensor) { return tensor.strides == dense_strides(tensor.shape); }

TensorView with_keys(TensorView tensor, std::int64_t count) {
  tensor.shape[2] = count;
  tensor.strides = dense_strides(tensor.shape);
  return tensor;
}

/// Computes pieces, if there are any, and polls meanwhile.
template <class Compute, class Poll>
void compute_while(RingRun& run, std::span<const Piece> pieces, Compute&& compute, Poll&& poll) {
  if (pieces.empty()) return;
  const Stopwatch stopwatch(run.statistics.compute_seconds);
  std::optional<Failure> failure;
  const auto attempted = [&] { failure = attempt(compute); };
  if (run.size == 1)
    attempted();
  else
    compute_while_polling(attempted, [&] {
      poll();
      run.alarm.poll();
    });
  if (failure) run.alarm.raise(std::move(*failure));
}

void count_block(RingRun& run, std::span<const Piece> pieces) {
  ++(pieces.empty() ? run.statistics.blocks_skipped : run.statistics.blocks_computed);
}

/// sum = before + sum.
void add_before(const float* before, std::int64_t count, float* sum) {
  for (std::int64_t n = 0; n < count; ++n) sum[n] = before[n] + sum[n];
}

void wait_for(RingRun& run, Messages& messages) {
  const Stopwatch stopwatch(run.statistics.wait_seconds);
  messages.wait();
  if (messages.missed()) run.alarm.note_missing();
}

}  // namespace

RingRun::RingRun(MPI_Comm communicator, const RingCut& whole, const CutCall& checked,
                 std::vector<std::int64_t> lengths)
    : comm(communicator),
      rank(rank_of(communicator)),
      size(mpi::size_of(communicator)),
      cut(whole),
      call(checked),
      geometry(checked.geometry),
      alarm(communicator) {
  geometry.kv_lens = std::move(lengths);
  last = last_steps(geometry, cut);
}

Tensor& RingMemory::block(std::size_t number, std::int64_t bytes) {
  if (blocks[number].size() < bytes) blocks[number] = Tensor(DType::i8, {bytes});
  return blocks[number];
}

Tensor& RingMemory::gradient(std::size_t number, std::int64_t count) {
  if (gradients[number].size() < count) gradients[number] = Tensor(DType::f32, {count});
  return gradients[number];
}

BlockRing::BlockRing(RingRun& run, RingMemory& memory, const TensorView& k, const TensorView& v)
    : run_(run), memory_(memory), k_(k), v_(v), block_{.k = k, .v = v} {
  if (run.size == 1) return;
  std::int64_t most = 0;
  for (int rank = 0; rank < run.size; ++rank) {
    const std::int64_t keys = run.cut.keys.num_tokens(rank);
    most = std::max(most, aligned(bytes_of(with_keys(k, keys))) + bytes_of(with_keys(v, keys)));
  }
  for (const std::size_t buffer : {0, 1}) memory.block(buffer, most);
  if (run.last_of(0) == 0 || (dense(k) && dense(v))) return;
  // Messages are dense.
  const KeyBlock copies = block_in(0, run.rank);
  const auto fill = [](const TensorView& from, const TensorView& to) {
    copy_into(from, {const_cast<void*>(to.data), to.dtype, to.shape});
  };
  fill(k, copies.k);
  fill(v, copies.v);
  block_ = copies;
  in_buffer_ = true;
  hold(true);
}

KeyBlock BlockRing::block_in(std::size_t buffer, int owner) const {
  const std::int64_t keys = run_.cut.keys.num_tokens(owner);
  KeyBlock block{.k = with_keys(k_, keys), .v = with_keys(v_, keys)};
  const auto* const memory = static_cast<const std::byte*>(memory_.blocks[buffer].data());
  block.k.data = memory;
  block.v.data = memory + aligned(bytes_of(block.k));
  return block;
}

void BlockRing::hold(bool more) {
  held_ += more ? 1 : -1;
  run_.statistics.most_blocks_held = std::max(run_.statistics.most_blocks_held, held_);
}

void BlockRing::start(int step, Messages& messages) {
  const bool empty = run_.alarm.stop();
  if (run_.has_block(step + 1)) {
    const KeyBlock next = block_in(static_cast<std::size_t>(step + 1) % 2, run_.owner(step + 1));
    hold(true);
    for (const TensorView& part : {next.k, next.v})
      messages.receive(run_.previous(), tag_of_blocks, const_cast<void*>(part.data),
                       bytes_of(part));
  }
  if (run_.has_block(step) && step < run_.last_of(step)) {
    for (const TensorView& part : {block_.k, block_.v})
      messages.send(run_.next(), tag_of_blocks, part.data, bytes_of(part), empty);
  }
}

void BlockRing::advance(int step) {
  if (in_buffer_) hold(false);
  in_buffer_ = run_.has_block(step + 1);
  if (in_buffer_) block_ = block_in(static_cast<std::size_t>(step + 1) % 2, run_.owner(step + 1));
}

ForwardRun::ForwardRun(RingRun& run, RingMemory& memory, const AttentionTensors& tensors)
    : run_(run),
      tensors_(tensors),
      ring_(run, memory, tensors.k, tensors.v),
      sum_(run.call, tensors) {}

void ForwardRun::steps() {
  for (int step = 0; step < run_.size; ++step) {
    Messages messages(run_.comm, run_.statistics);
    ring_.start(step, messages);
    const std::vector<Piece> pieces = run_.pieces(step);
    count_block(run_, pieces);
    compute_while(
        run_, pieces, [&] { sum_.add(pieces, ring_.block(), run_.alarm.stop()); },
        [&] { messages.test(); });
    wait_for(run_, messages);
    ring_.advance(step);
  }
  if (!run_.alarm.stop()) {
    run_.guarded([&] { merge_with_sinks({sum_.state()}, tensors_, run_.call.execution); });
  }
}

GradientRing::GradientRing(RingRun& run, RingMemory& memory, bool dk, bool dv)
    : run_(run),
      memory_(memory),
      dk_(dk),
      dv_(dv),
      incoming_(run.comm, run.statistics, false),
      outgoing_(run.comm, run.statistics),
      homecoming_(run.comm, run.statistics, false) {
  if (!dk && !dv) return;
  std::int64_t most = 0;
  for (int rank = 0; rank < run.size; ++rank) most = std::max(most, count_of(rank));
  if (run.size > 1)
    for (const std::size_t place : {even_step, odd_step, from_before}) memory.gradient(place, most);
  if (run.last_of(0) > 0) memory.gradient(from_others, count_of(run.rank));
  memory.gradient(at_home, count_of(run.rank));
  std::fill_n(values(at_home), count_of(run.rank), 0.f);
}

std::int64_t GradientRing::count_of(int owner) const {
  const HeadSizes& heads = run_.call.heads;
  const std::int64_t keys = run_.cut.keys.num_tokens(owner);
  return run_.geometry.batch * heads.num_kv_heads * keys *
         ((dk_ ? heads.head_dim : 0) + (dv_ ? heads.v_head_dim : 0));
}

KeyGradients GradientRing::views(const Tensor& memory, int owner) const {
  const HeadSizes& heads = run_.call.heads;
  const std::int64_t keys = run_.cut.keys.num_tokens(owner);
  auto* const data = const_cast<float*>(memory.data<float>());
  KeyGradients gradients;
  if (dk_) gradients.dk = {data, {run_.geometry.batch, heads.num_kv_heads, keys, heads.head_dim}};
  if (dv_) {
    gradients.dv = {data + gradients.dk.size() * (dk_ ? 1 : 0),
                    {run_.geometry.batch, heads.num_kv_heads, keys, heads.v_head_dim}};
  }
  return gradients;
}

KeyGradients GradientRing::own() {
  if (!dk_ && !dv_) return {};
  if (run_.last_of(0) > 0) {
    homecoming_.receive((run_.rank + run_.last_of(0)) % run_.size, tag_home, values(from_others),
                        count_of(run_.rank) * 4);
  }
  return views(memory_.gradients[at_home], run_.rank);
}

KeyGradients GradientRing::start(int step) {
  if (!run_.has_block(step) || (!dk_ && !dv_)) return {};
  const std::int64_t count = count_of(run_.owner(step));
  if (step > 1)
    incoming_.receive(run_.previous(), tag_of_gradients, values(from_before), count * 4);
  // What was sent from this memory two steps ago has been waited for in the last step.
  Tensor& share = memory_.gradients[step % 2 == 0 ? even_step : odd_step];
  std::fill_n(share.data<float>(), count, 0.f);
  return views(share, run_.owner(step));
}

void GradientRing::finish(int step) {
  if (!dk_ && !dv_) return;
  wait_for(run_, outgoing_);
  if (!run_.has_block(step)) return;
  wait_for(run_, incoming_);
  const std::int64_t count = count_of(run_.owner(step));
  float* const share = values(step % 2 == 0 ? even_step : odd_step);
  // In the order of the ring: what earlier ranks have added comes first.
  if (step > 1 && !run_.alarm.stop()) add_before(values(from_before), count, share);
  const bool last = step == run_.last_of(step);
  outgoing_.send(last ? run_.owner(step) : run_.next(), last ? tag_home : tag_of_gradients, share,
                 count * 4, run_.alarm.stop());
}

void GradientRing::come_home() {
  wait_for(run_, outgoing_);
  wait_for(run_, homecoming_);
  if ((dk_ || dv_) && run_.last_of(0) > 0 && !run_.alarm.stop())
    add_before(values(from_others), count_of(run_.rank), values(at_home));
}

void GradientRing::poll() {
  incoming_.test();
  outgoing_.test();
  homecoming_.test();
}

BackwardRun::BackwardRun(RingRun& run, RingMemory& memory, const AttentionTensors& tensors,
                         const AttentionGradients& gradients, bool mask_has_own_rows)
    : run_(run),
      gradients_(gradients),
      mask_has_own_rows_(mask_has_own_rows),
      own_block_{.k = tensors.k, .v = tensors.v},
      ring_(run, memory, tensors.k, tensors.v),
      key_gradients_(run, memory, !gradients.dk.absent(), !gradients.dv.absent()),
      sum_(run.call, tensors, gradients) {}

void BackwardRun::compute(std::span<const Piece> pieces, const KeyBlock& block,
                          const KeyGradients& share, Messages& messages) {
  compute_while(
      run_, pieces, [&] { sum_.add(pieces, block, share, run_.alarm.stop()); },
      [&] {
        messages.test();
        key_gradients_.poll();
      });
}

void BackwardRun::step(int step, std::span<const Piece> pieces, const KeyGradients& share) {
  Messages messages(run_.comm, run_.statistics);
  ring_.start(step, messages);
  compute(pieces, ring_.block(), share, messages);
  if (step > 0) key_gradients_.finish(step);
  wait_for(run_, messages);
  ring_.advance(step);
}

void BackwardRun::steps() {
  const bool divided = run_.last_of(0) > 0;  // something comes home
  const std::vector<Piece> of_own = run_.pieces(0, divided ? 2 : 1);
  const std::span pieces(of_own);
  const std::size_t half = divided ? (pieces.size() + 1) / 2 : pieces.size();
  const KeyGradients own = key_gradients_.own();
  count_block(run_, pieces);
  step(0, pieces.first(half), own);
  for (int step = 1; step < run_.size; ++step) {
    const KeyGradients share = key_gradients_.start(step);
    const std::vector<Piece> of_step = run_.pieces(step);
    count_block(run_, of_step);
    this->step(step, of_step, share);
  }
  Messages none(run_.comm, run_.statistics);
  compute(pieces.subspan(half), own_block_, own, none);
  key_gradients_.come_home();
  if (!run_.alarm.stop()) {
    run_.guarded([&] {
      if (!gradients_.dq.absent()) copy_into(sum_.dq(), gradients_.dq);
      if (!gradients_.dk.absent()) copy_into(own.dk, gradients_.dk);
      if (!gradients_.dv.absent()) copy_into(own.dv, gradients_.dv);
      if (!gradients_.dsinks.absent()) dsinks_ = sum_.dsinks();
    });
  }
}

void BackwardRun::reduce() {
  Tensor& dmask = sum_.dmask();
  const bool shared_dmask = !gradients_.dmask.absent() && !mask_has_own_rows_;
  // All sums come first, since all ranks take part in them.
  sum_over_ranks(run_.comm, sum_.dalibi());
  sum_over_ranks(run_.comm, dsinks_);
  if (shared_dmask) {
    sum_over_ranks(run_.comm,
                   std::span(dmask.data<float>(), static_cast<std::size_t>(dmask.size())));
  }
  const auto write = [](const std::vector<double>& sums, const MutableTensorView& gradient) {
    if (!gradient.absent()) copy_into({sums.data(), gradient.shape}, gradient);
  };
  write(sum_.dalibi(), gradients_.dalibi);
  write(dsinks_, gradients_.dsinks);
  if (!gradients_.dmask.absent()) copy_into(dmask.view(), gradients_.dmask);
}

}  // namespace attn::mpi
