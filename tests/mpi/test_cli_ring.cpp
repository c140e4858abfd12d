// attn_demo ring and attn_bench --ring, as a user types them under mpirun.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "support/program.hpp"

using namespace attn;
using namespace attn::test;

namespace {

Ran mpirun(int ranks, const std::string& program, const std::string& arguments,
           const std::string& before = "") {
  return shell(fmt::format("{} '{}' {} {}", before, ATTN_MPIEXEC, ATTN_MPIEXEC_NUMPROC, ranks),
               program, arguments);
}
Ran ring(int ranks, const std::string& arguments, const std::string& before = "") {
  return mpirun(ranks, ATTN_DEMO_PATH, "ring " + arguments, before);
}

/// The lines of a program on standard error; mpirun adds its own, which says who has ended.
std::vector<std::string> lines_of_program(const std::string& err) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < err.size();) {
    const std::size_t end = std::min(err.find('\n', begin), err.size());
    const std::string line = err.substr(begin, end - begin);
    if (line.find("attn_") == 0) lines.push_back(line);
    begin = end + 1;
  }
  return lines;
}

void check_ring_refused(const Ran& ran, const std::string& fault,
                        const std::string& program = "attn_demo") {
  CAPTURE(ran.err);
  CAPTURE(fault);
  CHECK(ran.code == 2);
  CHECK(ran.out == "");
  const std::vector<std::string> lines = lines_of_program(ran.err);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].find(program + ": error: ") == 0);
  CHECK(lines[0].find(fault) != std::string::npos);
}

double largest(const Tensor& tensor) {
  double most = 0;
  const Tensor values = copy_as(tensor.view(), DType::f64);
  for (std::int64_t n = 0; n < values.size(); ++n)
    most = std::max(most, std::abs(values.data<double>()[n]));
  return most;
}

/// Empty if the files have the same shape and type, and their elements differ by no more than this.
std::string difference(const std::string& file, const std::string& other, double tolerance) {
  const Tensor a = read_tensor(file), b = read_tensor(other);
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return "another shape or type";
  const Tensor left = copy_as(a.view(), DType::f64), right = copy_as(b.view(), DType::f64);
  double most = 0;
  for (std::int64_t n = 0; n < left.size(); ++n) {
    const double x = left.data<double>()[n], y = right.data<double>()[n];
    if (x == y) continue;
    const double distance = std::abs(x - y);
    if (!(distance <= tolerance)) most = std::max(most, std::isfinite(distance) ? distance : 1e300);
  }
  return most == 0 ? "" : fmt::format("off by {}, allowed {}", most, tolerance);
}

/// The files of a call of 2 x 4/2 heads, 19 queries and 23 keys.
struct RingSample {
  Folder folder;
  std::string inputs, gradient_inputs, gradient_outputs;

  RingSample() {
    const auto file = [&](const std::string& name, const Dims& shape, std::uint64_t seed) {
      write_tensor(folder / name, random_tensor(shape, seed).view());
    };
    file("q.npy", {2, 4, 19, 8}, 1);
    file("k.npy", {2, 2, 23, 8}, 2);
    file("v.npy", {2, 2, 23, 6}, 3);
    file("dout.npy", {2, 4, 19, 6}, 4);
    file("dlse.npy", {2, 4, 19}, 5);
    file("mask.npy", {4, 19, 23}, 6);
    file("row.npy", {4, 1, 23}, 7);
    file("alibi.npy", {4}, 8);
    file("sinks.npy", {4}, 9);
    Tensor lens(DType::i64, {2});
    lens.data<std::int64_t>()[0] = 23;
    lens.data<std::int64_t>()[1] = 9;
    write_tensor(folder / "lens.npy", lens.view());
    inputs =
        fmt::format("--q {} --k {} --v {} ", folder / "q.npy", folder / "k.npy", folder / "v.npy");
    gradient_inputs = fmt::format("--dout {} --dlse {} ", folder / "dout.npy", folder / "dlse.npy");
  }
  std::string option(const std::string& name, const std::string& file) const {
    return fmt::format("--{} {} ", name, folder / file);
  }
  /// Options that name outputs with a prefix.
  std::string outputs(const std::string& prefix, const std::vector<std::string>& names,
                      const std::string& suffix = ".npy") const {
    std::string text;
    for (const std::string& name : names)
      text += fmt::format("--{} {} ", name, folder / (prefix + name + suffix));
    return text;
  }
  /// Runs both and compares. The tolerance is that of a few roundings of sums of the magnitudes
  /// here.
  void check(int ranks, const std::string& options, double eps = 0x1p-24,
             const std::string& suffix = ".npy") const {
    CAPTURE(ranks);
    CAPTURE(options);
    check_done("run " + inputs + outputs("one_", {"out", "lse"}, suffix) + options);
    const Ran ran = ring(ranks, inputs + outputs("ring_", {"out", "lse"}, suffix) + options);
    CHECK(ran.err == "");
    CHECK(ran.out == "");
    CHECK(ran.code == 0);
    const double scores = 10, largest_value = largest(read_tensor(folder / "v.npy"));
    const double allowed =
        (24 + 4 * scores) * 0x1p-24 * largest_value + (eps > 0x1p-24 ? 6 * eps * largest_value : 0);
    for (const std::string name : {"out", "lse"})
      CHECK(difference(folder / ("ring_" + name + suffix), folder / ("one_" + name + suffix),
                       allowed) == "");
  }
};

}  // namespace

TEST_CASE("ring writes what run writes, to rounding") {
  const RingSample sample;
  sample.check(1, "--causal");
  sample.check(3, "");
  sample.check(4, "--causal --window 5,0 " + sample.option("alibi", "alibi.npy"));
  sample.check(2, "--causal-offset -3 --softcap 2 " + sample.option("sinks", "sinks.npy") +
                      sample.option("kv-lens", "lens.npy"));
  sample.check(3, "--q-position 2 --window 7,7 " + sample.option("mask", "mask.npy"));
  sample.check(2, sample.option("mask", "row.npy"));
  sample.check(3, "--dtype bf16 --causal", 0x1p-8, ".safetensors");
  sample.check(2, "--dtype f16", 0x1p-11);
}

TEST_CASE("ring takes the other layout, and more ranks than tokens") {
  const RingSample sample;
  const Folder& folder = sample.folder;
  for (const std::string name : {"q", "k", "v"}) {
    const Tensor tensor = read_tensor(folder / (name + ".npy"));
    write_tensor(folder / (name + "_bshd.npy"), tensor.view().permuted({0, 2, 1, 3}));
    write_tensor(folder / (name + "_two.npy"), tensor.view().sliced(2, 0, 2));
  }
  for (const std::string kind : {"_bshd", "_two"}) {
    const std::string options =
        fmt::format("--q {} --k {} --v {} --causal {}", folder / ("q" + kind + ".npy"),
                    folder / ("k" + kind + ".npy"), folder / ("v" + kind + ".npy"),
                    kind == "_bshd" ? "--layout bshd " : "");
    check_done(fmt::format("run {} --out {}", options, folder / "one.npy"));
    CHECK(ring(4, fmt::format("{} --out {}", options, folder / "ring.npy")).err == "");
    CHECK(difference(folder / "ring.npy", folder / "one.npy", 1e-5) == "");
  }
}

TEST_CASE("ring writes what backward writes, to rounding") {
  const RingSample sample;
  for (const std::string mask : {"mask.npy", "row.npy"}) {
    const std::vector<std::string> names{"dq",     "dk",     "dv",  "dmask",
                                         "dalibi", "dsinks", "out", "lse"};
    const std::string options = sample.inputs + sample.gradient_inputs + "--causal " +
                                sample.option("mask", mask) + sample.option("alibi", "alibi.npy") +
                                sample.option("sinks", "sinks.npy");
    check_done("backward " + options + sample.outputs("one_", names));
    const Ran ran = ring(3, options + sample.outputs("ring_", names));
    CHECK(ran.err == "");
    CHECK(ran.code == 0);
    for (const std::string& name : names) {
      CAPTURE(name);
      const std::string file = sample.folder / ("one_" + name + ".npy");
      CHECK(difference(sample.folder / ("ring_" + name + ".npy"), file,
                       2e-5 * (1 + largest(read_tensor(file)))) == "");
    }
  }
}

TEST_CASE("ring has the same bits for any number of threads") {
  const RingSample sample;
  const auto bits = [&](int threads) {
    CHECK(ring(3, fmt::format("{} --causal --threads {} --out {}", sample.inputs, threads,
                              sample.folder / "out.npy"))
              .code == 0);
    return bytes_of(sample.folder / "out.npy");
  };
  CHECK(bits(1) == bits(3));
}

TEST_CASE("ring prints what each rank did") {
  const RingSample sample;
  const Ran ran = ring(3, sample.inputs + sample.outputs("x_", {"out"}) + "--json");
  CHECK(ran.code == 0);
  const auto json = nlohmann::json::parse(ran.out);
  REQUIRE(json["ranks"].size() == 3);
  std::int64_t sent = 0;
  for (const auto& rank : json["ranks"]) {
    CHECK(rank["blocks_computed"].get<int>() + rank["blocks_skipped"].get<int>() == 3);
    CHECK(rank["compute_seconds"].get<double>() > 0);
    CHECK(rank["wait_seconds"].get<double>() >= 0);
    CHECK(rank["most_blocks_held"].get<int>() <= 2);
    sent += rank["bytes_sent"].get<std::int64_t>();
  }
  CHECK(sent == 2 * 2 * 2 * 23 * (8 + 6) * 4);  // K and V of all tokens, twice
}

TEST_CASE("an error on the ranks is one line, 2, and no file") {
  const RingSample sample;
  const Names before = sample.folder.names();
  const std::string out = sample.outputs("x_", {"out", "lse"});
  check_ring_refused(ring(3, "--q none.npy --k none.npy --v none.npy " + out), "none.npy");
  check_ring_refused(ring(2, sample.inputs + out + "--softcap 0"), "--softcap");
  check_ring_refused(ring(2, sample.inputs + out + "--kernel naive"),
                     "--kernel is not served by ring");
  check_ring_refused(ring(2, sample.inputs + out + "--heads 4"), "--heads is not served by ring");
  check_ring_refused(ring(2, sample.inputs + out + "--normalizer sparsemax"), "sparsemax");
  check_ring_refused(ring(2, sample.inputs + out + sample.option("mask", "k.npy")), "--mask");
  check_ring_refused(ring(2, sample.inputs + out + "--frobnicate"), "--frobnicate");
  check_ring_refused(ring(2, sample.inputs + "--out /nonexistent/x.npy"), "/nonexistent/x.npy");
  check_ring_refused(ring(2, sample.inputs + out + sample.gradient_inputs), "--dq is required");
  check_ring_refused(ring(2, sample.inputs + out + "--dq x.npy"), "--dout");
  // kv_lens that are too long are found when the call runs.
  Tensor lens(DType::i64, {2});
  lens.data<std::int64_t>()[1] = 24;
  write_tensor(sample.folder / "lens.npy", lens.view());
  check_ring_refused(ring(3, sample.inputs + out + sample.option("kv-lens", "lens.npy")),
                     "--kv-lens[1] is 24");
  CHECK(sample.folder.names() == before);
}

TEST_CASE("ring says what it does, once") {
  const Ran help = ring(2, "--help");
  CHECK(help.code == 0);
  CHECK(help.out.find("--dout FILE") != std::string::npos);
  CHECK(help.out.find("--dout FILE") == help.out.rfind("--dout FILE"));
  CHECK(attn_demo("--help").out.find("ring") != std::string::npos);
}

TEST_CASE("attn_bench --ring prints what each rank did") {
  for (const std::string options : {"--causal", "--backward --window 100,-1"}) {
    const Ran ran =
        mpirun(2, ATTN_BENCH_PATH,
               "--ring --shape 1,4,2,256,256,32 --threads 1 --min-time 0.01 --json " + options);
    CHECK(ran.code == 0);
    const auto json = nlohmann::json::parse(ran.out);
    CHECK(json["ranks"] == 2);
    CHECK(json["median_ms"].get<double>() > 0);
    CHECK(json["gflops"].get<double>() > 0);
    CHECK(json["per_rank"].size() == 2);
    CHECK(json["per_rank"][1]["bytes_sent"].get<std::int64_t>() > 0);
    CHECK(json["per_rank"][1]["most_blocks_held"].get<int>() <= 2);
  }
  const Ran table = mpirun(2, ATTN_BENCH_PATH, "--ring --shape 1,4,2,256,256,32 --min-time 0.01");
  CHECK(table.code == 0);
  CHECK(table.out.find("hidden") != std::string::npos);
  check_ring_refused(mpirun(2, ATTN_BENCH_PATH, "--ring"), "--shape is required", "attn_bench");
  check_ring_refused(mpirun(2, ATTN_BENCH_PATH, "--ring --shape 1,4,2,256,256,32 --kernel naive"),
                     "--kernel", "attn_bench");
}
