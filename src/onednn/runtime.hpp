// The engine, the number of threads and the errors of oneDNN, for the source files of this folder.
#pragma once

#include <attn/error.hpp>

#include <fmt/format.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

#include <utility>

namespace attn::onednn {

/// oneDNN's handle of the processor. All threads share it.
inline const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

/// Sets the number of threads of the OpenMP regions that the calling thread opens, and restores it
/// in the destructor. oneDNN divides a primitive's work by this number when the primitive is
/// created, and some implementations read it again at execution, so that it has to be set during
/// both. It is not in src/threads because the library's own regions name their number of threads
/// themselves.
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

/// Runs f. If oneDNN throws, this throws Error(unsupported) with a message that contains
/// describe(), the name of the operation.
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
