// Execution and options: their handles, and the user's functions as the library calls them.
#include <attn/info.hpp>
#include <attn/normalizer.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "capi/handles.hpp"
#include "capi/status.hpp"

namespace attn::capi {
namespace {

constexpr std::array isas{Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_bf16};
static_assert(ATTN_ISA_BASELINE == 1 && ATTN_ISA_AVX512_BF16 == isas.size());

attn_key_run key_run_of(const KeyRun& run) {
  return {.batch = run.batch,
          .q_head = run.q_head,
          .kv_head = run.kv_head,
          .q_index = run.q_index,
          .q_position = run.q_position,
          .key_begin = run.key_begin,
          .count = run.count};
}

// A task is the bytes of the C++ task, and then what tells it from memory that holds none.
using Task = Executor::Task;
static_assert(std::is_trivially_copyable_v<Task> && sizeof(Task) == 2 * sizeof(std::uint64_t));
using TaskWords = std::array<std::uint64_t, 2>;
constexpr std::uint64_t task_mark = 0x6b73'6174'6e74'7461;

class CallbackExecutor final : public Executor {
 public:
  CallbackExecutor(attn_offer function, void* user) : offer_(function), user_(user) {}

  void offer(int num_threads, const Task& task) override {
    const auto words = std::bit_cast<TaskWords>(task);
    const attn_task copy{.opaque = {words[0], words[1], task_mark, 0}};
    if (const std::int32_t returned = offer_(user_, num_threads, &copy); returned != 0)
      end_call("offer", returned);
  }

 private:
  attn_offer offer_;
  void* user_;
};

}  // namespace

Isa isa_of(attn_isa isa) {
  if (isa < ATTN_ISA_BASELINE || isa > ATTN_ISA_AVX512_BF16) reject_enumerator("isa", isa);
  return isas[static_cast<std::size_t>(isa - ATTN_ISA_BASELINE)];
}

attn_isa number_of(Isa isa) noexcept {
  std::size_t n = 0;
  while (isas[n] != isa) ++n;
  return ATTN_ISA_BASELINE + static_cast<attn_isa>(n);
}

MaskMod mask_mod_of(attn_mask_mod function, void* user) {
  if (function == nullptr) return {};
  return [function, user](const KeyRun& run, bool* visible) {
    // The user's bytes may have any value; those of a bool may not.
    auto* bytes = reinterpret_cast<std::uint8_t*>(visible);
    const attn_key_run keys = key_run_of(run);
    if (const std::int32_t returned = function(user, &keys, bytes); returned != 0)
      end_call("mask_mod", returned);
    for (std::int64_t n = 0; n < run.count; ++n) bytes[n] = bytes[n] != 0;
  };
}

}  // namespace attn::capi

using namespace attn;
using namespace attn::capi;

namespace {

/// Runs a setter on what is behind the handle.
template <class Set>
attn_status set_execution(attn_execution* execution, const Set& set) noexcept {
  return guarded([&] { set(required(execution, "execution")); });
}
template <class Set>
attn_status set_option(attn_options* options, const Set& set) noexcept {
  return guarded([&] { set(required(options, "options").options); });
}

std::optional<std::int64_t> distance_of(std::int64_t distance) {
  if (distance == ATTN_UNLIMITED) return {};
  return distance;
}

}  // namespace

attn_status attn_execution_create(attn_execution** execution) {
  return create(execution, "execution", [] { return new attn_execution{}; });
}
attn_status attn_execution_destroy(attn_execution* execution) { return destroy(execution); }

attn_status attn_execution_set_num_threads(attn_execution* execution, std::int32_t num_threads) {
  return set_execution(execution,
                       [&](attn_execution& to) { to.execution.num_threads = num_threads; });
}

attn_status attn_execution_set_isa(attn_execution* execution, attn_isa isa) {
  return set_execution(execution, [&](attn_execution& to) { to.execution.isa = isa_of(isa); });
}

attn_status attn_execution_set_executor(attn_execution* execution, attn_offer offer, void* user) {
  return set_execution(execution, [&](attn_execution& to) {
    if (offer == nullptr)
      to.executor = nullptr;
    else
      to.executor = std::make_shared<CallbackExecutor>(offer, user);
    to.execution.executor = to.executor.get();
  });
}

attn_status attn_execution_set_openmp_executor(attn_execution* execution) {
  return set_execution(execution, [](attn_execution& to) {
    to.executor = nullptr;
    to.execution.executor = &openmp_executor();
  });
}

attn_status attn_task_run(const attn_task* task) {
  return guarded([&] {
    const std::uint64_t* words = required(task, "task").opaque;
    if (words[2] != task_mark) reject("task is none that an attn_offer has received");
    std::bit_cast<Task>(TaskWords{words[0], words[1]})();
  });
}

attn_status attn_default_num_threads(std::int32_t* num_threads) {
  return guarded([&] { required(num_threads, "num_threads") = build_info().num_threads; });
}

attn_status attn_default_isa(attn_isa* isa) {
  return guarded([&] { required(isa, "isa") = number_of(default_isa()); });
}

attn_status attn_isa_available(attn_isa isa, std::int32_t* available) {
  return guarded([&] {
    required(available, "available");
    const Isa wanted = isa_of(isa);
    std::int32_t found = 0;
    for (const Isa each : available_isas()) found |= each == wanted ? 1 : 0;
    *available = found;
  });
}

attn_status attn_isa_name(attn_isa isa, const char** name) {
  return guarded([&] { required(name, "name") = name_of(isa_of(isa)).data(); });
}

attn_status attn_info(attn_info_key key, const char** text) {
  return guarded([&] {
    required(text, "text");
    static const BuildInfo info = build_info();
    switch (key) {
      case ATTN_INFO_COMPILER: *text = info.compiler.c_str(); break;
      case ATTN_INFO_ONEDNN_VERSION: *text = info.onednn_version.c_str(); break;
      default: reject_enumerator("key", key);
    }
  });
}

std::int32_t attn_version() { return ATTN_VERSION; }

#define ATTN_TEXT(number) #number
#define ATTN_VERSION_TEXT(major, minor, patch) \
  ATTN_TEXT(major) "." ATTN_TEXT(minor) "." ATTN_TEXT(patch)
const char* attn_version_string() {
  return ATTN_VERSION_TEXT(ATTN_VERSION_MAJOR, ATTN_VERSION_MINOR, ATTN_VERSION_PATCH);
}

attn_status attn_options_create(attn_options** options) {
  return create(options, "options", [] { return new attn_options{}; });
}
attn_status attn_options_destroy(attn_options* options) { return destroy(options); }

attn_status attn_options_set_softmax_scale(attn_options* options, float scale) {
  return set_option(options, [&](AttentionOptions& to) { to.softmax_scale = scale; });
}

attn_status attn_options_set_softcap(attn_options* options, float softcap) {
  return set_option(options, [&](AttentionOptions& to) { to.softcap = softcap; });
}

attn_status attn_options_set_causal(attn_options* options, std::int32_t causal) {
  return set_option(options, [&](AttentionOptions& to) {
    to.causal.reset();
    if (causal != 0) to.causal.emplace();  // q_position says where queries stand
  });
}

attn_status attn_options_set_q_position(attn_options* options, std::int64_t position) {
  return set_option(options, [&](AttentionOptions& to) { to.q_position = position_of(position); });
}

attn_status attn_options_set_window(attn_options* options, std::int64_t left, std::int64_t right) {
  return set_option(options, [&](AttentionOptions& to) {
    to.window = Window{distance_of(left), distance_of(right)};
  });
}

attn_status attn_options_set_softmax(attn_options* options) {
  return set_option(options, [](AttentionOptions& to) { to.normalizer = Normalizer::softmax(); });
}

attn_status attn_options_set_sigmoid(attn_options* options, const float* bias) {
  return set_option(options, [&](AttentionOptions& to) {
    to.normalizer = bias == nullptr ? Normalizer::sigmoid() : Normalizer::sigmoid(*bias);
  });
}

attn_status attn_options_set_entmax(attn_options* options, float alpha) {
  return set_option(options,
                    [&](AttentionOptions& to) { to.normalizer = Normalizer::entmax(alpha); });
}

attn_status attn_options_set_mask_keys(attn_options* options, attn_mask_keys keys) {
  return set_option(options, [&](AttentionOptions& to) {
    switch (keys) {
      case ATTN_MASK_KEYS_FIRST: to.mask_keys = MaskKeys::first; break;
      case ATTN_MASK_KEYS_LAST: to.mask_keys = MaskKeys::last; break;
      default: reject_enumerator("keys", keys);
    }
  });
}

attn_status attn_options_set_block_mask(attn_options* options, const attn_block_mask* mask) {
  return set_option(options, [&](AttentionOptions& to) {
    if (mask == nullptr)
      to.block_mask.reset();
    else
      to.block_mask.emplace(mask->mask);
  });
}

attn_status attn_options_set_score_matmul(attn_options* options, attn_score_matmul matmul) {
  return set_option(options, [&](AttentionOptions& to) {
    switch (matmul) {
      case ATTN_SCORE_MATMUL_AUTOMATIC: to.score_matmul = ScoreMatmul::automatic; break;
      case ATTN_SCORE_MATMUL_BUILT_IN: to.score_matmul = ScoreMatmul::built_in; break;
      case ATTN_SCORE_MATMUL_ONEDNN: to.score_matmul = ScoreMatmul::onednn; break;
      default: reject_enumerator("matmul", matmul);
    }
  });
}

attn_status attn_options_set_max_q_len(attn_options* options, std::int64_t max_q_len) {
  return guarded([&] { required(options, "options").limits.max_q_len = max_q_len; });
}

attn_status attn_options_set_max_kv_len(attn_options* options, std::int64_t max_kv_len) {
  return guarded([&] { required(options, "options").limits.max_kv_len = max_kv_len; });
}

attn_status attn_options_set_score_mod(attn_options* options, attn_score_mod function, void* user) {
  return set_option(options, [&](AttentionOptions& to) {
    to.score_mod = nullptr;
    if (function == nullptr) return;
    to.score_mod = [function, user](const KeyRun& run, float* scores) {
      const attn_key_run keys = key_run_of(run);
      if (const std::int32_t returned = function(user, &keys, scores); returned != 0)
        end_call("score_mod", returned);
    };
  });
}

attn_status attn_options_set_score_mod_gradient(attn_options* options,
                                                attn_score_mod_gradient function, void* user) {
  return set_option(options, [&](AttentionOptions& to) {
    to.score_mod_gradient = nullptr;
    if (function == nullptr) return;
    to.score_mod_gradient = [function, user](const KeyRun& run, const float* scores,
                                             float* gradient) {
      const attn_key_run keys = key_run_of(run);
      if (const std::int32_t returned = function(user, &keys, scores, gradient); returned != 0)
        end_call("score_mod_gradient", returned);
    };
  });
}

attn_status attn_options_set_mask_mod(attn_options* options, attn_mask_mod function, void* user) {
  return set_option(options,
                    [&](AttentionOptions& to) { to.mask_mod = mask_mod_of(function, user); });
}
