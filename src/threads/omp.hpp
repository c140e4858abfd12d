// OpenMP's functions. In a build without OpenMP (ATTN_WITH_OPENMP=OFF), they say what OpenMP says
// of a program that has no parallel regions. OMP_NUM_THREADS is read there, too.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#else
#include <attn/execution.hpp>

#include <charconv>
#include <cstdlib>
#include <string_view>
#include <thread>

namespace attn::detail {

inline int omp_get_num_procs() noexcept {
  return static_cast<int>(std::thread::hardware_concurrency());
}
/// The first number of OMP_NUM_THREADS when the library was loaded, else the processors.
inline int omp_get_max_threads() noexcept {
  static const int threads = [] {
    const char* const variable = std::getenv("OMP_NUM_THREADS");
    const std::string_view text = variable != nullptr ? variable : "";
    int number = 0;
    std::from_chars(text.data(), text.data() + text.size(), number);
    return number > 0 ? number : omp_get_num_procs();
  }();
  return threads;
}
inline int omp_get_thread_limit() noexcept { return max_num_threads; }
inline int omp_get_max_active_levels() noexcept { return 1; }
inline int omp_in_parallel() noexcept { return 0; }
inline int omp_get_dynamic() noexcept { return 0; }
inline int omp_get_thread_num() noexcept { return 0; }
inline int omp_get_num_threads() noexcept { return 1; }
enum omp_proc_bind_t { omp_proc_bind_false };
inline omp_proc_bind_t omp_get_proc_bind() noexcept { return omp_proc_bind_false; }
inline int omp_get_num_places() noexcept { return 0; }
inline int omp_get_place_num_procs(int) noexcept { return 0; }
inline void omp_get_place_proc_ids(int, int*) noexcept {}
inline void omp_set_num_threads(int) noexcept {}
inline void omp_set_dynamic(int) noexcept {}

}  // namespace attn::detail
#endif
