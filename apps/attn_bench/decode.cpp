#include "decode.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "apps/support/memory.hpp"
#include "apps/support/program.hpp"

namespace attn::apps::bench {
namespace {

struct Heads {
  const char* name;
  std::int64_t num_q_heads, num_kv_heads;
};
constexpr std::array all_heads = {Heads{"MHA 32/32", 32, 32}, Heads{"GQA 32/8", 32, 8},
                                  Heads{"MQA 32/1", 32, 1}};

Case decode_case(const Case& model, std::string name, const Heads& heads, std::int64_t batch,
                 std::int64_t kv_len) {
  Case result = model;
  result.name = std::move(name);
  result.batch = batch;
  result.num_q_heads = heads.num_q_heads;
  result.num_kv_heads = heads.num_kv_heads;
  result.kv_len = kv_len;
  result.q_len = 1;
  result.head_dim = result.v_head_dim = 128;
  return result;
}

std::vector<Case> decode_cases(const Case& model) {
  std::vector<Case> cases;
  for (const Heads& heads : all_heads) {
    for (const std::int64_t batch : {1, 8}) {
      for (const std::int64_t keys : {1024, 8192, 32768}) {
        cases.push_back(decode_case(model, fmt::format("{}, {} x {} keys", heads.name, batch, keys),
                                    heads, batch, keys));
      }
    }
  }
  // The same total number of keys, distributed evenly and unevenly.
  const std::vector<std::int64_t> mixed = {512, 1024, 1536, 2048, 3072, 4096, 6144, 8192};
  cases.push_back(decode_case(model, "GQA 32/8, 8 x 3328 keys", all_heads[1], 8, 3328));
  cases.push_back(decode_case(model, "GQA 32/8, 512 to 8192 keys", all_heads[1], 8, 8192));
  cases.back().lengths = mixed;
  return cases;
}

double cache_size(const Case& shape) { return shape.bytes_of_keys(shape.batch * shape.kv_len); }

/// Whether keys and values are read from a cache of the processor: they fit into the level-2
/// caches of all threads, or were read faster than memory allows.
bool in_cache(const Case& shape, const Result& result, int num_threads, const Peak& peak) {
  const double read = shape.bytes_of_keys(shape.total_length());
  const auto second_level =
      static_cast<double>(std::max(0L, sysconf(_SC_LEVEL2_CACHE_SIZE))) * num_threads;
  return read <= second_level ||
         (result.gbps > peak.read_gbps && read <= static_cast<double>(read_size));
}

void print_row(const Case& shape, const Result& result, const Settings& settings,
               const Peak& peak) {
  fmt::print("{:28}{:>10.3f}{:>9.1f}{:>11.1f} %{:>11.1f} %{}\n", shape.name, result.median_ms,
             result.gbps, 100 * result.gbps / peak.read_gbps, 100 * result.fraction_of_peak,
             in_cache(shape, result, settings.num_threads, peak) ? "  in cache" : "");
}

}  // namespace

void measure_decode(const Case& model, const Settings& settings, const Peak& peak,
                    const std::function<void(const Case&, const Result&)>& each) {
  if (!each)
    fmt::print("{:28}{:>10}{:>9}{:>13}{:>13}\n", "shape", "median ms", "GB/s", "of memory",
               "of the roof");
  for (const Case& shape : decode_cases(model)) {
    const double limit = available_memory() / 3;
    if (cache_size(shape) > limit) {
      const std::string skipped = fmt::format(
          "{:28}  skipped: K and V take {:.1f} GB, more than a third of the memory available\n",
          shape.name, cache_size(shape) / 1e9);
      each ? print_notice(skipped) : fmt::print("{}", skipped);
      continue;
    }
    const Result result = measure(shape, settings, peak);
    if (each) {
      each(shape, result);
    } else {
      print_row(shape, result, settings, peak);
    }
  }
}

}  // namespace attn::apps::bench
