// What the files of this folder share: the engine, the number of threads, and errors. Included
// nowhere else.
#pragma once

#include <attn/error.hpp>

#include <fmt/format.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

#include <utility>

namespace attn::onednn {

/// The processor, as oneDNN's handle. Shared by all threads.
inline const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

/// OpenMP's number of threads for what this thread starts, put back at the end. It stands here and
/// not with our own threads: oneDNN cuts a primitive's work for OpenMP's number at creation, and
/// some implementations ask again at execution, so the number must hold during both. It is a
/// setting of the calling thread alone.
class ThreadCount {
 public:
  explicit ThreadCount(int num_threads) : before_(omp_get_max_threads()) {
    omp_set_num_threads(num_threads);
  }
  ~ThreadCount() { omp_set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

/// Runs f; what oneDNN throws becomes an Error that says, in the words of describe(), what was
/// being done.
template <class Describe, class F>
void translating_errors(Describe&& describe, F&& f) {
  try {
    std::forward<F>(f)();
  } catch (const dnnl::error& error) {
    throw Error(
        ErrorCode::unsupported,
        fmt::format("oneDNN cannot run {}: {}", std::forward<Describe>(describe)(), error.what()));
  }
}

}  // namespace attn::onednn
