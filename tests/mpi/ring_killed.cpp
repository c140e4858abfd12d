// A rank is killed in the middle of a run, while the others compute and wait.
#include <attn/mpi.hpp>

#include <csignal>
#include <vector>

int main() {
  int provided = 0, rank = 0, size = 1;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const attn::SequenceCut cut = attn::SequenceCut::even(96, size);
  const std::int64_t tokens = cut.num_tokens(rank);
  attn::Tensor q(attn::DType::f32, {1, 2, tokens, 16}), out(attn::DType::f32, {1, 2, tokens, 16});
  const attn::AttentionTensors tensors{
      .q = q.view(), .k = q.view(), .v = q.view(), .out = out.view()};
  attn::AttentionOptions options;
  options.mask_mod = [&](const attn::KeyRun& run, bool* visible) {
    if (rank == 1) std::raise(SIGKILL);
    for (std::int64_t n = 0; n < run.count; ++n) visible[n] = true;
  };
  attn::ring_attention(MPI_COMM_WORLD, {cut, cut}, tensors, options);
  MPI_Finalize();
  return 0;
}
