#include "peak.hpp"

#include <attn/tensor.hpp>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <functional>
#include <thread>

#include "threads.hpp"
#include "timing.hpp"

namespace attn::apps {
namespace {

constexpr int chains = 12;         // independent chains hide the latency of a multiply-add
constexpr long steps = 8'000'000;  // long enough for the clock frequency to settle
constexpr int rounds = 5;

/// Repeats x = x * a + b in `chains` vectors. The sum is returned so that the compiler does not
/// remove the loop.
template <int Bytes>
__attribute__((always_inline)) inline float multiply_add_chains() {
  typedef float Vector __attribute__((vector_size(Bytes)));
  Vector x[chains];
  for (int c = 0; c < chains; ++c) x[c] = 0.1f * static_cast<float>(c) - Vector{};
  const Vector a = 0.9999f - Vector{}, b = 1e-4f - Vector{};
  for (long step = 0; step < steps; ++step) {
#pragma GCC unroll 16
    for (int c = 0; c < chains; ++c) x[c] = x[c] * a + b;
  }
  for (int c = 1; c < chains; ++c) x[0] += x[c];
  float lanes[Bytes / sizeof(float)];
  std::memcpy(lanes, &x[0], sizeof lanes);
  return lanes[0];
}

float multiply_add_baseline() { return multiply_add_chains<16>(); }

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) float multiply_add_avx2() { return multiply_add_chains<32>(); }
__attribute__((target("avx512f,fma"))) float multiply_add_avx512() {
  return multiply_add_chains<64>();
}

__attribute__((target("avx512f,avx512bf16"))) float dot_products_bf16() {
  __m512 x[chains];
  for (int c = 0; c < chains; ++c) x[c] = _mm512_set1_ps(0.1f * static_cast<float>(c));
  const auto pairs = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3c003c00));
  for (long step = 0; step < steps; ++step) {
#pragma GCC unroll 16
    for (int c = 0; c < chains; ++c) x[c] = _mm512_dpbf16_ps(x[c], pairs, pairs);
  }
  for (int c = 1; c < chains; ++c) x[0] = _mm512_add_ps(x[0], x[c]);
  return _mm512_cvtss_f32(x[0]);
}
#endif

struct TimedTeam {
  int team;
  double seconds;
};

/// Runs work on threads, but not on more than there are processors, and times it from when all
/// threads run until all have ended.
TimedTeam timed_on_threads(int num_threads, const std::function<void(int, int)>& work) {
  const unsigned processors = std::max(1u, std::thread::hardware_concurrency());
  Clock::time_point start;
  const int team = run_on_threads(std::min(num_threads, static_cast<int>(processors)),
                                  [&](int thread, int size) {
                                    if (thread == 0) start = Clock::now();
                                    work(thread, size);
                                  });
  return {team, seconds_since(start)};
}

/// Calls f(n) for each n < count that is this thread's, in one contiguous share for each thread.
template <class F>
void for_each_of_share(std::size_t count, int thread, int team, F&& f) {
  const auto bound = [&](int share) {
    return count * static_cast<std::size_t>(share) / static_cast<std::size_t>(team);
  };
  const std::size_t end = bound(thread + 1);
  for (std::size_t n = bound(thread); n < end; ++n) f(n);
}

/// The best of a few rounds in which all threads compute at the same time. `flops` is the number of
/// operations of one step of one chain.
double gflops(float (*loop)(), int num_threads, double flops) {
  double best = 0;
  std::atomic<float> sink{0};
  for (int round = 0; round < rounds; ++round) {
    const auto [team, seconds] = timed_on_threads(num_threads, [&](int, int) { sink = loop(); });
    best = std::max(best, team * static_cast<double>(steps) * chains * flops / seconds / 1e9);
  }
  return best;
}

/// Memory in huge pages, like that of a Tensor.
double read_gbps(int num_threads) {
  constexpr std::size_t count = read_size / sizeof(std::int64_t);
  Tensor memory(DType::i64, {static_cast<std::int64_t>(count)});
  std::int64_t* const numbers = memory.data<std::int64_t>();
  std::fill(numbers, numbers + count, 1);
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    std::atomic<std::int64_t> sum{0};
    const auto read = [&](int thread, int team) {
      std::int64_t own = 0;
      for_each_of_share(count, thread, team, [&](std::size_t n) { own += numbers[n]; });
      sum += own;
    };
    const double took = timed_on_threads(num_threads, read).seconds;
    if (sum == static_cast<std::int64_t>(count))
      best = std::max(best, static_cast<double>(read_size) / took / 1e9);
  }
  return best;
}

/// `count` is a multiple of the elements of a cache line, and both pointers are aligned to lines.
void copy_past_caches(const float* from, float* to, std::size_t count) {
#if defined(__x86_64__)
  for (std::size_t n = 0; n < count; n += 4) _mm_stream_ps(to + n, _mm_load_ps(from + n));
  _mm_sfence();
#else
  std::memcpy(to, from, count * sizeof(float));
#endif
}

}  // namespace

double measure_copy_gbps(int num_threads) {
  constexpr std::size_t count = read_size / sizeof(float), piece = std::size_t{1} << 16;
  const Tensor from(DType::f32, {static_cast<std::int64_t>(count)});
  Tensor to(DType::f32, {static_cast<std::int64_t>(count)});
  const float* const source = from.data<float>();
  float* const destination = to.data<float>();
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    const auto copy = [&](int thread, int team) {
      for_each_of_share(count / piece, thread, team, [&](std::size_t n) {
        copy_past_caches(source + n * piece, destination + n * piece, piece);
      });
    };
    const double took = timed_on_threads(num_threads, copy).seconds;
    best = std::max(best, 2 * static_cast<double>(read_size) / took / 1e9);
  }
  return best;
}

Peak measure_peak([[maybe_unused]] Isa isa, int num_threads) {
  Peak peak{};
#if defined(__x86_64__)
  if (isa == Isa::avx512 || isa == Isa::avx512_bf16)
    peak.multiply_add_gflops = gflops(multiply_add_avx512, num_threads, 2 * 16);
  else if (isa == Isa::avx2)
    peak.multiply_add_gflops = gflops(multiply_add_avx2, num_threads, 2 * 8);
  if (isa == Isa::avx512_bf16) peak.bf16_gflops = gflops(dot_products_bf16, num_threads, 4 * 16);
#endif
  if (peak.multiply_add_gflops == 0)
    peak.multiply_add_gflops = gflops(multiply_add_baseline, num_threads, 2 * 4);
  if (peak.bf16_gflops == 0) peak.bf16_gflops = peak.multiply_add_gflops;
  peak.read_gbps = read_gbps(num_threads);
  return peak;
}

}  // namespace attn::apps
