// attn_demo ring: one call, and its gradients, over a sequence that is cut over the ranks of MPI.
#include <attn/mpi.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "apps/attn_demo/call/call.hpp"
#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/outputs.hpp"
#include "gather.hpp"
#include "ring_call.hpp"

namespace attn::apps::demo {
namespace {

/// Rank 0 writes what all ranks have.
class RingOutputs {
 public:
  /// Checks that a file can be written.
  void add(const char* option, const std::optional<std::string>& file, DType dtype) {
    if (file && rank_of_ring() == 0) outputs_.add(option, *file, dtype);
  }
  /// Writes a tensor whose dim `rows` is cut. A collective call.
  void write(const char* option, const std::optional<std::string>& file, const SequenceCut& cut,
             const TensorView& own, int rows, DType dtype) {
    if (!file) return;
    RowGather gather(ring_comm, cut, own, rows, dtype);
    run_collectively(ring_comm, [&] {
      std::exception_ptr failure;
      try {
        if (rank_of_ring() == 0)
          outputs_.write(option, *file, dtype, gather.shape(), [&] { return gather.next(); });
      } catch (...) {
        failure = std::current_exception();
      }
      while (!gather.done()) gather.next();
      if (failure) std::rethrow_exception(failure);
    });
  }
  /// Writes a tensor that is the same on all ranks. A collective call.
  void write(const char* option, const std::optional<std::string>& file, const TensorView& whole) {
    if (!file) return;
    run_collectively(ring_comm, [&] {
      if (rank_of_ring() == 0)
        outputs_.write(option, *file, whole.dtype, whole.shape, [&] { return whole; });
    });
  }
  void commit() {
    run_collectively(ring_comm, [&] {
      if (rank_of_ring() == 0) outputs_.commit();
    });
  }

 private:
  Outputs outputs_;
};

void add_outputs(RingOutputs& outputs, const RingArguments& arguments) {
  const DType dtype = arguments.call.types.dtype;
  outputs.add("--out", arguments.out, dtype);
  outputs.add("--lse", arguments.lse, DType::f32);
  outputs.add("--dq", arguments.dq, dtype);
  outputs.add("--dk", arguments.dk, dtype);
  outputs.add("--dv", arguments.dv, dtype);
  outputs.add("--dmask", arguments.dmask, DType::f32);
  outputs.add("--dalibi", arguments.dalibi, DType::f32);
  outputs.add("--dsinks", arguments.dsinks, DType::f32);
}

void write_outputs(RingOutputs& outputs, const RingArguments& arguments, const RingCall& call) {
  const SequenceCut &queries = call.cut->queries, &keys = call.cut->keys;
  const bool bshd = call.layout == Layout::bshd;
  const auto write = [&](const char* option, const std::optional<std::string>& file,
                         const SequenceCut& cut, const Tensor& own) {
    if (!file) return;
    const TensorView view = own.view();
    outputs.write(option, file, cut, bshd ? view.permuted({0, 2, 1, 3}) : view, bshd ? 1 : 2,
                  call.dtype);
  };
  write("--out", arguments.out, queries, call.out);
  outputs.write("--lse", arguments.lse, queries, call.lse.view(), 2, DType::f32);
  write("--dq", arguments.dq, queries, call.dq);
  write("--dk", arguments.dk, keys, call.dk);
  write("--dv", arguments.dv, keys, call.dv);
  if (call.mask_has_rows)
    outputs.write("--dmask", arguments.dmask, queries, call.dmask.view(),
                  call.dmask.shape().rank() - 2, DType::f32);
  else
    outputs.write("--dmask", arguments.dmask, call.dmask.view());
  outputs.write("--dalibi", arguments.dalibi, call.dalibi.view());
  outputs.write("--dsinks", arguments.dsinks, call.dsinks.view());
  outputs.commit();
}

/// Prints what each rank did, in the forward and the backward together. A collective call.
void print_statistics(const std::vector<RingStatistics>& runs) {
  using Numbers = std::array<double, 8>;
  Numbers own{};
  for (const RingStatistics& run : runs) {
    const Numbers numbers{run.compute_seconds,
                          run.wait_seconds,
                          run.communication_seconds,
                          static_cast<double>(run.bytes_sent),
                          static_cast<double>(run.bytes_received),
                          static_cast<double>(run.blocks_computed),
                          static_cast<double>(run.blocks_skipped)};
    for (std::size_t n = 0; n + 1 < own.size(); ++n) own[n] += numbers[n];
    own.back() = std::max(own.back(), static_cast<double>(run.most_blocks_held));
  }
  std::vector<Numbers> all(static_cast<std::size_t>(size_of_ring()));
  MPI_Gather(own.data(), own.size(), MPI_DOUBLE, all.data(), own.size(), MPI_DOUBLE, 0, ring_comm);
  if (rank_of_ring() != 0) return;
  nlohmann::ordered_json ranks = nlohmann::ordered_json::array();
  const auto whole = [](double number) { return static_cast<std::int64_t>(number); };
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const Numbers& n = all[rank];
    ranks.push_back({{"rank", rank},
                     {"compute_seconds", n[0]},
                     {"wait_seconds", n[1]},
                     {"communication_seconds", n[2]},
                     {"bytes_sent", whole(n[3])},
                     {"bytes_received", whole(n[4])},
                     {"blocks_computed", whole(n[5])},
                     {"blocks_skipped", whole(n[6])},
                     {"most_blocks_held", whole(n[7])}});
  }
  fmt::print("{}\n", nlohmann::ordered_json{{"ranks", ranks}}.dump());
}

int ring(const RingArguments& arguments) {
  RingCall call;
  RingOutputs outputs;
  run_collectively(ring_comm, [&] {
    call.load(arguments);
    add_outputs(outputs, arguments);
  });
  RingAttention plan(ring_comm, *call.cut, call.tensors(), call.options, call.execution);
  std::vector<RingStatistics> runs;
  plan.run(call.tensors());
  runs.push_back(plan.statistics());
  if (arguments.dout) {
    plan.run_backward(call.tensors(), call.gradients(arguments));
    runs.push_back(plan.statistics());
  }
  write_outputs(outputs, arguments, call);
  if (arguments.json) print_statistics(runs);
  return 0;
}

/// Options of `run` that the ring does not serve are refused by name.
void add_refused_options(CLI::App& command) {
  for (const char* const name :
       {"--heads", "--kv-heads", "--past-k", "--past-v", "--present-k", "--present-v", "--kv-dtype",
        "--page-size", "--scores", "--scores-stage", "--kernel"}) {
    add_value(command, fmt::format("{} VALUE", name), "", [](auto option, auto) {
      reject("{} is not served by ring", option);
    })->group("");
  }
}

void add_files(CLI::App& command, RingArguments& arguments) {
  CallArguments& call = arguments.call;
  add_file(command, "--q FILE", call.q, "queries: x.npy, or x.safetensors:NAME")->required();
  add_file(command, "--k FILE", call.k, "keys")->required();
  add_file(command, "--v FILE", call.v, "values")->required();
  add_layout_option(command, call.layout);
  auto* const dout = add_file(command, "--dout FILE", arguments.dout,
                              "the gradient of the output, in the layout of Q");
  add_file(command, "--dlse FILE", arguments.dlse,
           "the gradient of lse, [batch, heads, q_len]; default zeros")
      ->needs(dout);
  set_help_group(command, "Inputs");
  add_file(command, "--out FILE", arguments.out,
           "the result, in the layout of Q: .npy, or .safetensors where the name ends so")
      ->required();
  add_file(command, "--lse FILE", arguments.lse,
           "log of the sum of exp of each row's scores, [batch, heads, q_len]");
  for (const auto& [spec, file, description] :
       {std::tuple{"--dq FILE", &arguments.dq, "the gradient of Q, in its layout"},
        std::tuple{"--dk FILE", &arguments.dk, "the gradient of K, in its layout"},
        std::tuple{"--dv FILE", &arguments.dv, "the gradient of V, in its layout"},
        std::tuple{"--dmask FILE", &arguments.dmask,
                   "the gradient of an additive mask, in its shape: summed where it broadcasts"},
        std::tuple{"--dalibi FILE", &arguments.dalibi, "the gradient of the ALiBi slopes, [heads]"},
        std::tuple{"--dsinks FILE", &arguments.dsinks, "the gradient of the sinks, [heads]"}})
    add_file(command, spec, *file, description)->needs(dout);
  command.add_flag("--json", arguments.json,
                   "one JSON object of what each rank did, on the last line");
  set_help_group(command, "Outputs");
}

}  // namespace

void add_ring(CLI::App& app, Command& chosen) {
  const auto [command, arguments] = add_command<RingArguments>(
      app, chosen, "ring",
      "the call and its gradients under mpirun, the sequence cut over the ranks",
      [](const RingArguments& given) {
        return under_option_names(call_option_names, [&] { return ring(given); });
      });
  add_files(command, arguments);
  add_probability_options(command, arguments.call);
  add_engine_options(command, arguments.call);
  set_help_group(command, "Types and execution");
  add_refused_options(command);
}

}  // namespace attn::apps::demo
