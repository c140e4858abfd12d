// attn_bench: caches of every kind are verified and timed; wrong arguments are refused.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <string>

#include "support/onednn.hpp"
#include "support/program.hpp"

using namespace attn;
using namespace attn::test;

namespace {

nlohmann::json measured(const std::string& options) {
  CAPTURE(options);
  const Ran ran = attn_bench("--shape 2,4,2,1,70,16,24 --min-time 0 --threads 1 --json " + options);
  CHECK(ran.err == "");
  REQUIRE(ran.code == 0);
  return nlohmann::json::parse(ran.out);
}

/// The bytes of Q, K, V and O that the reported bandwidth counts, if a row of K and a row of V have
/// this many bytes together.
void check_traffic(const nlohmann::json& result, double element, double kv_row) {
  const double bytes = 2 * 4 * (16 + 24) * element + 2 * 2 * 70 * kv_row;
  CHECK(result["gbps"].get<double>() * result["median_ms"].get<double>() * 1e6 ==
        doctest::Approx(bytes));
}

}  // namespace

TEST_CASE("a shape is timed on plain tensors or on a cache of any type") {
  const nlohmann::json plain = measured("--dtype bf16");
  for (const char* field : {"name", "threads", "median_ms", "min_ms", "mean_ms", "p99_ms", "gflops",
                            "peak_gflops", "fraction_of_peak", "path"}) {
    CHECK(plain.contains(field));
  }
  CHECK(plain["dtype"] == "bf16");
  CHECK(plain["kv_dtype"] == "bf16");
  CHECK(plain["page_size"] == 0);
  check_traffic(plain, 2, 40 * 2);

  const nlohmann::json quantized = measured("--kv-dtype i8 --page-size 16 --layout bshd");
  CHECK(quantized["dtype"] == "f32");
  CHECK(quantized["kv_dtype"] == "i8");
  CHECK(quantized["page_size"] == 16);
  check_traffic(quantized, 4, 40 + 2 * 4);

  check_traffic(measured("--kv-dtype f16 --causal"), 4, 40 * 2);
  check_traffic(measured("--page-size 100"), 4, 40 * 4);
}

TEST_CASE("--simulate-threads replays the schedule") {
  const nlohmann::json result = measured("--simulate-threads 1,8,64");
  REQUIRE(result["simulated"].size() == 3);
  CHECK(result["simulated"][1]["threads"] == 8);
  for (const auto& each : result["simulated"]) {
    CHECK(each["share_of_ideal"] > 0);
    CHECK(each["ms"] > 0);
  }
  CHECK(!measured("").contains("simulated"));
  for (const char* wrong : {"0", "8,", "two", "1025"}) {
    const Ran ran = attn_bench(fmt::format("--shape 1,1,1,8,8,8 --simulate-threads {}", wrong));
    CHECK(ran.code == 2);
    CHECK(ran.err.find("--simulate-threads") != std::string::npos);
  }
  CHECK(attn_bench("--shape 1,1,1,8,8,8 --backward --simulate-threads 2").code == 2);
  CHECK(attn_bench("--shape 1,1,1,8,8,8 --kernel naive --simulate-threads 2").code == 2);
}

TEST_CASE("--score-matmul says who multiplies, forward and backward") {
  for (const char* direction : {"", "--backward"}) {
    const auto path_with = [&](const char* who) {
      const Ran ran = attn_bench(fmt::format(
          "--shape 1,2,1,130,256,32 --min-time 0 --json {} --score-matmul {}", direction, who));
      CHECK(ran.err == "");
      REQUIRE(ran.code == 0);
      return nlohmann::json::parse(ran.out)["path"].get<std::string>();
    };
    CHECK(path_with("attn").find("oneDNN") == std::string::npos);
    if (has_onednn()) CHECK(path_with("onednn").find("oneDNN") != std::string::npos);
  }
}

TEST_CASE("softmax refuses the options of attention") {
  for (const char* option :
       {"--causal", "--simulate-threads 2", "--documents 2", "--score-matmul attn"}) {
    const Ran ran = attn_bench(fmt::format("{} softmax --min-time 0", option));
    CHECK(ran.code == 2);
    CHECK(ran.err.find("does not go with softmax") != std::string::npos);
  }
}

TEST_CASE("gradients are verified and timed without the forward") {
  const auto timed = [](const std::string& options) {
    CAPTURE(options);
    const Ran ran = attn_bench("--backward --min-time 0 --json " + options);
    CHECK(ran.err == "");
    REQUIRE(ran.code == 0);
    return nlohmann::json::parse(ran.out);
  };
  const nlohmann::json plain = timed("--shape 2,4,2,30,70,16,24");
  const double seconds = plain["median_ms"].get<double>() / 1e3;
  // 10 operations where the forward has 4.
  CHECK(plain["gflops"].get<double>() * seconds * 1e9 ==
        doctest::Approx(2.5 * 2 * (16 + 24) * 2 * 4 * 30 * 70));
  CHECK(plain["gbps"].get<double>() * seconds * 1e9 ==
        doctest::Approx(2 * 4 * (2 * 4 * 30 * (16 + 24) + 2 * 2 * 70 * (16 + 24))));
  CHECK(plain["scratch_bytes"] > 0);
  CHECK(plain["path"].get<std::string>() != "");
  timed("--shape 1,2,1,60,40,32 --causal --dtype bf16");
  timed("--shape 1,2,1,40,60,32 --normalizer sparsemax");
  CHECK(timed("--shape 1,2,1,40,60,32 --kernel naive")["scratch_bytes"] == 0);
}

TEST_CASE("windows and documents: visible pairs are counted, and results verified") {
  const auto operations_of_pairs = [](const std::string& options) {
    CAPTURE(options);
    const Ran ran = attn_bench("--shape 1,2,1,50,90,16 --min-time 0 --json " + options);
    CHECK(ran.err == "");
    REQUIRE(ran.code == 0);
    const nlohmann::json result = nlohmann::json::parse(ran.out);
    return result["gflops"].get<double>() * result["median_ms"].get<double>() * 1e6 / (2 * 64);
  };
  // 3 documents of 30 keys; the queries are 20 of the second and 30 of the third.
  CHECK(operations_of_pairs("--documents 3") == doctest::Approx(50 * 30));
  CHECK(operations_of_pairs("--documents 3 --page-size 16") == doctest::Approx(50 * 30));
  // Queries of the second document stand at its positions 10 to 29.
  CHECK(operations_of_pairs("--documents 3 --causal") == doctest::Approx(410 + 465));
  CHECK(operations_of_pairs("--window 3,0") == doctest::Approx(50 * 4));
  CHECK(operations_of_pairs("--window 3,2 --documents 1") == doctest::Approx(50 * 6 - 3));
  CHECK(operations_of_pairs("--window -1,-1") == doctest::Approx(50 * 90));
  CHECK(operations_of_pairs("--backward --documents 3 --causal") ==
        doctest::Approx(2.5 * (410 + 465)));
  CHECK(operations_of_pairs("--backward --window 4,1") == doctest::Approx(2.5 * (50 * 6 - 1)));
  CHECK(operations_of_pairs("--kernel unfused --documents 7 --window 9,-1") > 0);
}

TEST_CASE("attn_bench refuses what makes no sense in one line") {
  const auto check = [](const std::string& options, const std::string& fault) {
    CAPTURE(options);
    check_refused_with(attn_bench(options), fault, "attn_bench");
  };
  const std::string shape = "--shape 1,1,1,1,1,1 ";
  check(shape + "--backward --kv-dtype f16", "--kv-dtype");
  check(shape + "--backward --page-size 16", "--page-size");
  check(shape + "--backward --kernel unfused", "--kernel");
  check("--backward --decode", "--decode");
  check(shape + "--kv-dtype i4", "one of f32, bf16, f16, i8");
  check(shape + "--score-matmul attn --kernel unfused", "--score-matmul");
  check(shape + "--dtype i8", "one of f32, bf16, f16");
  for (const char* size : {"-1", "2000000"})
    check(shape + "--page-size " + size, "an integer in 0..");
  check(shape + "--page-size many", "--page-size");
  check(shape + "--layout sbhd", "one of bhsd, bshd");
  check(shape + "--kernel fast", "one of tiled, naive, unfused");
  for (const char* sizes : {"1,1,1,1,1", "1,1,1,1,1,0", "1,1,1,1,1,1,1,1", "1,1,1,1,1,x"})
    check(fmt::format("--shape {}", sizes), "six or seven integers of at least 1");
  check(shape + "--kv-dtype f32 --kernel naive", "--kernel tiled");
  check("--decode --kernel unfused", "--kernel tiled");
  check(shape + "--normalizer hardmax", "one of softmax, sigmoid");
  check(shape + "--normalizer entmax", "--alpha");
  check("--decode " + shape, "excludes");
  check("--decode --causal", "excludes");
  check("--decode --documents 4", "excludes");
  check("--decode --window 4,0", "excludes");
  check(shape + "--documents 0", "an integer in 1..");
  check(shape + "--window 4", "L,R: two integers");
}
