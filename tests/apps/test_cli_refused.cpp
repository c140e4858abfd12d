// attn_demo: wrong usage and bad input end with code 2, one line that says why, and no file.
#include <attn/io.hpp>

#include <string>
#include <vector>

#include "support/program.hpp"

using namespace attn;
using namespace attn::test;

TEST_CASE("wrong usage is refused in one line, and nothing is left behind") {
  const Sample sample;
  const auto check = [&](const std::string& arguments, const std::string& fault) {
    CAPTURE(arguments);
    check_refused_with(attn_demo(arguments), fault);
    CHECK(sample.folder.names() == sample.names);
  };
  check("bogus", "bogus");
  check("--json", "--json");
  check("run", "--q is required");
  check("run --q x --k x --v x", "--out is required");
  check("compare", "--q is required");
  for (const char* value : {"nan", "inf", "-inf", "1x", "''", "1e99"})
    check(sample.run(fmt::format("--scale {}", value)), "a finite number");
  check(sample.run("--softcap 0"), "a number above 0");
  check(sample.run("--softcap -1"), "a number above 0");
  check(sample.run("--causal sideways"), "one of bottom-right, top-left");
  check(sample.run("--causal --causal-offset 1"), "excludes");
  check(sample.run("--causal bottom-right --q-position 0"), "--q-position is 0");
  check(sample.run("--causal-offset 1 --q-position 0"), "--q-position is 0");
  check(sample.run("--causal --q-position sideways"), "an integer");
  check(sample.run("--causal-offset 1.5"), "an integer");
  check(sample.run("--causal-offset 99999999999999999999"), "an integer");
  for (const char* value : {"1", "1,2,3", "-2,0", "a,b", "1,", "''"})
    check(sample.run(fmt::format("--window {}", value)), "L,R");
  for (const char* value : {"0", "-1", "1000000", "two"})
    check(sample.run(fmt::format("--threads {}", value)), "an integer");
  check(sample.run("--isa sse9"), "baseline");
  check(sample.run("--normalizer hardmax"), "one of softmax, sigmoid, sparsemax, entmax15, entmax");
  check(sample.run("--normalizer entmax"), "needs --alpha");
  check(sample.run("--normalizer entmax --alpha 0.5"), "at least 1");
  check(sample.run("--normalizer entmax --alpha nan"), "a finite number");
  check(sample.run("--normalizer entmax15 --alpha 2"), "belongs to entmax");
  check(sample.run("--alpha 2"), "belongs to entmax");
  check(sample.run("--normalizer sparsemax --sigmoid-bias 1"), "belongs to sigmoid");
  check(sample.run("--normalizer sparsemax --lse x.npy"), "--lse is given with sparsemax");
  check(sample.run("--dtype f8"), "one of f32, bf16, f16");
  check(sample.run("--kv-dtype i4"), "one of f32, bf16, f16, i8");
  for (const char* size : {"-1", "2000000", "x"})
    check(sample.run(fmt::format("--page-size {}", size)), "--page-size");
  check(sample.run("--kernel fastest"), "one of tiled, naive, unfused");
  check(sample.run("--score-matmul mkl"), "one of auto, attn, onednn");
  for (const char* kernel : {"naive", "unfused"}) {
    check(sample.run(fmt::format("--score-matmul attn --kernel {}", kernel)),
          "--score-matmul is for --kernel tiled");
  }
  check(sample.run("--layout sbhd"), "one of bhsd, bshd");
  check(sample.run("--scores-stage raw --scores x.npy"), "one of scaled");
  check(sample.run("--mask ''"), "--mask is empty");
  check(sample.run("--mask"), "--mask");
  check(sample.run("--scale 1 --scale 2"), "--scale");
  check(sample.run("--tolerance 1"), "--tolerance");
}

TEST_CASE("bad input is refused in one line, and nothing is left behind") {
  const Sample sample;
  const Folder bad;
  const auto check = [&](const std::string& options, const std::string& fault) {
    CAPTURE(options);
    check_refused_with(attn_demo(sample.run(options)), fault);
    CHECK(sample.folder.names() == sample.names);
  };
  const auto write = [&](const char* name, const Tensor& tensor) {
    write_tensor(bad / name, tensor.view());
    return bad / name;
  };
  check("--mask " + bad / "missing.npy", "missing.npy");
  fs::create_directory(bad / "folder.npy");
  check("--mask " + bad / "folder.npy", "directory");
  check("--mask " + bad.write("text.npy", "hello"), "text.npy");
  check("--mask " + bad.write("two\\ lines.npy", "hello"), "lines.npy");
  check("--mask " + write("mask.npy", counted(DType::f32, {2, 3, 5})),
        "--mask has shape [2, 3, 5]");
  check("--alibi " + write("slopes.npy", counted(DType::f32, {3})), "--alibi has shape [3]");
  check("--sinks " + write("sinks.npy", counted(DType::i64, {4})), "floating-point");
  check("--kv-lens " + write("lens.npy", counted(DType::f32, {2})), "i32 or i64");
  check("--kv-lens " + write("too_long.npy",
                             copy_as(TensorView(std::vector<float>{2, 6}.data(), {2}), DType::i64)),
        "--kv-lens[1] is 6");
  // The pages have room for more keys than the sequence has.
  check("--page-size 4 --kv-lens " + bad / "too_long.npy", "--kv-lens[1] is 6");
  check("--page-size 4 --mask " + write("wide.npy", counted(DType::f32, {3, 6})),
        "--mask has shape [3, 6]");
}

TEST_CASE("outputs appear together or not at all") {
  const Sample sample;
  const auto check = [&](const std::string& options, const std::string& fault) {
    CAPTURE(options);
    check_refused_with(attn_demo(sample.run(options)), fault);
    CHECK(sample.folder.names() == sample.names);
  };
  check("--lse " + sample.out, "twice");
  check("--lse " + sample.folder / "./out.npy", "twice");
  check("--lse " + sample.folder / "none/lse.npy", "none/lse.npy");
  check("--lse " + sample.folder / "lse.txt", "lse.txt");
  check("--lse " + sample.folder / "lse.safetensors:lse", "lse.safetensors:lse");
}

TEST_CASE("compare refuses shapes that make no sense or do not fit") {
  for (const char* shape : {"1,2,3", "1,2,1,4,4,8,8,8", "1,2,1,4,4,x", "1,2,1,4,-4,8", "''",
                            "99999999999999999999,1,1,1,1,1"}) {
    check_refused_with(attn_demo(fmt::format("compare --shape {}", shape)),
                       "B,H,HKV,SQ,SKV,D[,DV]");
  }
  check_refused_with(attn_demo("compare --shape 1,3,2,4,4,8"), "multiple of num_kv_heads");
  check_refused_with(attn_demo("compare --shape 1,2,1,4,4,0"), "head_dim is 0");
  check_refused_with(attn_demo("compare --shape 1,1,1,1000000000000,1000000000000,64"),
                     "of memory");
  check_refused_with(attn_demo("compare --shape 9000000000000000000,9000000000000000000,1,1,1,64"),
                     "of memory");
  check_refused_with(attn_demo("compare --shape 64,64,64,1,1,128 --page-size 1000000"),
                     "a cache of K and V needs about");
  check_refused_with(attn_demo("compare --shape 1,2,1,4,4,8 --layout bhsd"), "excludes");
  check_refused_with(attn_demo("compare --seed 1"), "--seed requires --shape");
}

TEST_CASE("standard streams that are closed or full change no exit code") {
  const Sample sample;
  for (const char* streams : {"2>&-", "2>/dev/full", "<&- >&- 2>&-"}) {
    CAPTURE(streams);
    CHECK(attn_demo(fmt::format("bogus {}", streams)).code == 2);
    CHECK(attn_bench(fmt::format("--bogus {}", streams)).code == 2);
    CHECK(attn_demo(sample.run(fmt::format("--scale x {}", streams))).code == 2);
    CHECK(sample.folder.names() == sample.names);
    CHECK(attn_demo(sample.run(streams)).code == 0);
    // The file has none of the closed numbers, so nothing is printed into it.
    CHECK(read_tensor(sample.out).shape() == Dims{2, 4, 3, 6});
    fs::remove(sample.out);
  }
}

TEST_CASE("output that nobody gets is an error") {
  for (const char* streams : {">/dev/full", ">&-"}) {
    CAPTURE(streams);
    for (const char* command :
         {"info ", "--help ", "--version ", "op softmax --help ", "compare --shape 1,1,1,2,2,2 "})
      check_refused_with(attn_demo(fmt::format("{}{}", command, streams)), "standard output");
    check_refused_with(attn_bench(fmt::format("--help {}", streams)), "standard output",
                       "attn_bench");
  }
  // A shell whose reader has ended before the program writes; it ends with the program's code.
  const auto unread = [](const std::string& program) {
    return shell("", "bash", fmt::format("-c 'set -o pipefail; (sleep 0.3; {}) | true'", program));
  };
  check_refused_with(unread(std::string(ATTN_DEMO_PATH) + " info"), "standard output");
  check_refused_with(unread(std::string(ATTN_BENCH_PATH) + " --help"), "standard output",
                     "attn_bench");
}
