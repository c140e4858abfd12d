// Runs attn_demo and attn_bench as a user types them, and has the files of a small call.
#pragma once

#include <attn/attn.hpp>
#include <attn/io.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "support/files.hpp"
#include "support/random.hpp"

namespace attn::test {

struct Ran {
  int code = 0;
  std::string out, err;
};

/// Runs a program in a shell; `before` may set environment variables. Redirections in `arguments`
/// take precedence.
inline Ran shell(const std::string& before, const std::string& program,
                 const std::string& arguments) {
  const Folder logs;
  const std::string command = fmt::format("{} '{}' >{} 2>{} </dev/null {}", before, program,
                                          logs / "out", logs / "err", arguments);
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, bytes_of(logs / "out"),
          bytes_of(logs / "err")};
}

inline Ran attn_demo(const std::string& arguments) { return shell("", ATTN_DEMO_PATH, arguments); }
inline Ran attn_bench(const std::string& arguments) {
  return shell("", ATTN_BENCH_PATH, arguments);
}

inline void check_done(const std::string& arguments) {
  CAPTURE(arguments);
  const Ran ran = attn_demo(arguments);
  CHECK(ran.err == "");
  CHECK(ran.code == 0);
}

/// Checks that wrong usage or input gives exit code 2 and one line that names the fault.
inline void check_refused_with(const Ran& ran, const std::string& fault,
                               const std::string& program = "attn_demo") {
  CAPTURE(ran.err);
  CAPTURE(fault);
  CHECK(ran.code == 2);
  CHECK(ran.out == "");
  CHECK(ran.err.starts_with(program + ": error: "));
  CHECK(ran.err.find('\n') == ran.err.size() - 1);
  CHECK(ran.err.find(fault) != std::string::npos);
}

inline Tensor random_tensor(const Dims& shape, std::uint64_t seed) {
  Random random(seed);
  Tensor tensor(DType::f32, shape);
  for (std::int64_t n = 0; n < tensor.size(); ++n)
    tensor.data<float>()[n] = static_cast<float>(random.normal());
  return tensor;
}

/// Files of a small call, and the options that name them.
struct Sample {
  Folder folder;
  Tensor q = random_tensor({2, 4, 3, 8}, 1), k = random_tensor({2, 2, 5, 8}, 2),
         v = random_tensor({2, 2, 5, 6}, 3);
  std::string inputs =
      fmt::format("--q {} --k {} --v {}", folder / "q.npy", folder / "k.npy", folder / "v.npy");
  std::string out = folder / "out.npy";
  Names names;  // before anything ran

  Sample() {
    write_tensor(folder / "q.npy", q.view());
    write_tensor(folder / "k.npy", k.view());
    write_tensor(folder / "v.npy", v.view());
    names = folder.names();
  }

  std::string run(const std::string& options) const {
    return fmt::format("run {} --out {} {}", inputs, out, options);
  }
  std::string file(const std::string& name, const TensorView& tensor) const {
    write_tensor(folder / name, tensor, "tensor");
    return folder / name;
  }
  /// O, [2, 4, 3, 6], as the library computes it.
  Tensor expected(const AttentionOptions& options = {},
                  TensorView AttentionTensors::*side = &AttentionTensors::mask,
                  const TensorView& given = {}) const {
    Tensor result(DType::f32, {2, 4, 3, 6});
    AttentionTensors tensors;
    tensors.*side = given;
    tensors.q = q.view();
    tensors.k = k.view();
    tensors.v = v.view();
    tensors.out = result.view();
    attention(tensors, options);
    return result;
  }
};

}  // namespace attn::test
