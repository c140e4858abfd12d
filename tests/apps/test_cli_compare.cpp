// attn_demo compare and info, and attn_demo without arguments: what they print.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "support/onednn.hpp"
#include "support/program.hpp"

using namespace attn;
using namespace attn::test;

namespace {

std::size_t widest_line(const std::string& text) {
  std::istringstream lines(text);
  std::size_t widest = 0;
  for (std::string line; std::getline(lines, line);) widest = std::max(widest, line.size());
  return widest;
}

}  // namespace

TEST_CASE("help, version and info end with 0") {
  for (const char* arguments :
       {"--help", "run --help", "compare --help", "info --help", "--version", "info"}) {
    CAPTURE(arguments);
    const Ran ran = attn_demo(arguments);
    CHECK(ran.code == 0);
    CHECK(ran.err == "");
    CHECK(ran.out != "");
  }
  CHECK(attn_demo("--version").out.starts_with("attn_demo 0.1.0 ("));
  CHECK(attn_demo("run --help").out.find("--scores-stage") != std::string::npos);
}

TEST_CASE("help lists options in their groups") {
  using Texts = std::vector<std::string>;
  for (const auto& [command, texts] :
       {std::pair{"run", Texts{"Inputs:", "--q FILE REQUIRED", "--v FILE REQUIRED", "--heads H",
                               "--past-k FILE", "Outputs:", "--out FILE REQUIRED"}},
        std::pair{"compare", Texts{"Inputs:", "--seed N", "--q FILE", "Gradients:", "--backward",
                                   "Masks:", "--causal", "Result:", "--tolerance", "--json"}},
        std::pair{"heatmap", Texts{"Inputs:", "--q FILE", "--model DIR", "--layer N", "Picture:",
                                   "--out FILE", "--scale-colors", "Masks:", "--causal"}}}) {
    const std::string help = attn_demo(fmt::format("{} --help", command)).out;
    std::size_t place = 0;
    for (const std::string& text : texts) {
      CAPTURE(text);
      place = help.find(text[0] == '-' ? "\n  " + text : "\n" + text, place);
      REQUIRE(place != std::string::npos);
    }
  }
}

TEST_CASE("info lists what can be forced, and what bounds the default") {
  const std::string info = attn_demo("info").out;
  for (const Isa isa : available_isas()) CHECK(info.find(name_of(isa)) != std::string::npos);
  // OpenMP binds the first thread to one processor; the others are still there.
  CHECK(shell("OMP_PROC_BIND=true", ATTN_DEMO_PATH, "info").out == info);
  if (!has_onednn()) {
    CHECK(info.find("ATTN_WITH_ONEDNN=OFF") != std::string::npos);
    CHECK(attn_demo("--version").out.find("without oneDNN") != std::string::npos);
    return;
  }
  const Ran bounded = shell("ONEDNN_MAX_CPU_ISA=SSE41", ATTN_DEMO_PATH, "info");
  CHECK(bounded.out.find("baseline (") != std::string::npos);
  CHECK(bounded.out.find("ONEDNN_MAX_CPU_ISA is SSE41") != std::string::npos);
}

TEST_CASE("alone it compares the samples, in lines that fit") {
  const Ran ran = attn_demo("");
  CAPTURE(ran.out);
  CHECK(ran.code == 0);
  CHECK(ran.err == "");
  CHECK(ran.out.find("All agree") != std::string::npos);
  CHECK(widest_line(ran.out) <= 100);
  CHECK(ran.out.find('\033') == std::string::npos);
}

TEST_CASE("compare ends with 0 within the tolerance and with 1 past it") {
  const Sample sample;
  const Ran table = attn_demo("compare --causal " + sample.inputs);
  CAPTURE(table.out);
  CHECK(table.code == 0);
  CHECK(table.err == "");
  for (const char* word : {"tiled", "unfused", "naive", "max abs", "RMS", "worst", "scratch",
                           "2 e + b + 4 eps max|V|", "within tolerance"}) {
    CHECK(table.out.find(word) != std::string::npos);
  }
  CHECK(attn_demo("compare --tolerance 1 " + sample.inputs).code == 0);
  const Ran different = attn_demo("compare --tolerance 0 " + sample.inputs);
  CHECK(different.code == 1);
  CHECK(different.err == "");
  CHECK(different.out.find("past the tolerance") != std::string::npos);
  check_refused_with(attn_demo("compare --tolerance -1 " + sample.inputs), "--tolerance");
  CHECK(sample.folder.names() == sample.names);
}

TEST_CASE("compare shows who else can multiply, unless it is told whose matmul to take") {
  const auto compare = [](const std::string& options) {
    const Ran ran = attn_demo("compare --shape 1,4,2,200,300,40 --causal --json " + options);
    CAPTURE(ran.out);
    REQUIRE(ran.code == 0);
    return nlohmann::json::parse(ran.out);
  };
  CHECK(compare("--score-matmul attn")["tiled_onednn"].is_null());
  CHECK(compare("--score-matmul attn")["path"].get<std::string>().find("oneDNN") ==
        std::string::npos);
  if (!has_onednn()) {
    CHECK(compare("")["tiled_onednn"].is_null());
    return check_refused_with(attn_demo("compare --shape 1,1,1,9,9,9 --score-matmul onednn"),
                              "ATTN_WITH_ONEDNN=OFF");
  }
  for (const char* options : {"", "--dtype bf16", "--dtype f16 --page-size 16", "--kv-dtype i8",
                              "--normalizer sigmoid"}) {
    CAPTURE(options);
    const nlohmann::json both = compare(options);
    CHECK(both["tiled_onednn"]["out"]["max_abs"] <= both["tolerance"]);
    const nlohmann::json onednn = compare(fmt::format("{} --score-matmul onednn", options));
    CHECK(onednn["path"].get<std::string>().find("oneDNN") != std::string::npos);
    CHECK(onednn["tiled"]["out"] == both["tiled_onednn"]["out"]);
    CHECK(onednn["tiled_onednn"].is_null());
  }
  CHECK(attn_demo("compare --backward --shape 1,4,2,200,300,40 --score-matmul onednn").code == 0);
}

TEST_CASE("compare takes a shape in place of files") {
  const Ran ran = attn_demo(
      "compare --shape 2,6,3,33,70,24,40 --seed 7 --causal --softcap 20 --window 30,-1 --json");
  CAPTURE(ran.out);
  REQUIRE(ran.code == 0);
  CHECK(ran.err == "");
  const auto result = nlohmann::json::parse(ran.out);
  CHECK(result["shape"] == nlohmann::json({2, 6, 3, 33, 70, 24, 40}));
  CHECK(result["path"].get<std::string>() != "");
  CHECK(result["within_tolerance"] == true);
  for (const char* kernel : {"tiled", "unfused"}) {
    const auto& out = result[kernel]["out"];
    CHECK(out["max_abs"] > 0);
    CHECK(out["max_abs"] <= result["tolerance"]);
    CHECK(out["rms"] <= out["max_abs"]);
    CHECK(out["worst"].size() == 4);
    CHECK(result[kernel]["lse"]["max_abs"] <= result["lse_tolerance"]);
    CHECK(result[kernel]["time_ms"] > 0);
    CHECK(result[kernel]["scratch_bytes"] > 0);
  }
  CHECK(result["score_matrix_bytes"] == 2 * 6 * 33 * 70 * 4);

  const std::string errors = result["tiled"]["out"].dump();
  const Ran again = attn_demo(
      "compare --shape 2,6,3,33,70,24,40 --seed 7 --causal --softcap 20 --window 30,-1 --json "
      "--threads 1");
  CHECK(nlohmann::json::parse(again.out)["tiled"]["out"].dump() == errors);
  for (const char* dtype : {"bf16", "f16"})
    CHECK(attn_demo(fmt::format("compare --shape 1,2,2,20,20,16 --dtype {}", dtype)).code == 0);
  for (const char* empty : {"0,2,1,4,4,8", "1,2,1,0,4,8", "1,2,1,4,0,8"})
    CHECK(attn_demo(fmt::format("compare --shape {}", empty)).code == 0);
}

TEST_CASE("compare takes other normalizers, which have no lse") {
  for (const char* normalizer : {"sigmoid", "sigmoid --sigmoid-bias 0", "sparsemax", "entmax15",
                                 "entmax --alpha 1.2", "entmax --alpha 3"}) {
    CAPTURE(normalizer);
    const std::string arguments =
        fmt::format("compare --shape 2,6,3,33,70,24,40 --causal --normalizer {}", normalizer);
    const Ran ran = attn_demo(arguments + " --json");
    CAPTURE(ran.out);
    REQUIRE(ran.code == 0);
    const auto result = nlohmann::json::parse(ran.out);
    CHECK(result["lse_tolerance"].is_null());
    for (const char* kernel : {"tiled", "unfused"}) {
      CHECK(result[kernel]["lse"].is_null());
      CHECK(result[kernel]["out"]["max_abs"] > 0);
      CHECK(result[kernel]["out"]["max_abs"] <= result["tolerance"]);
    }
    const Ran table = attn_demo(arguments);
    CHECK(table.code == 0);
    CHECK(table.out.find("probabilities of full rows by " + std::string(normalizer).substr(0, 6)) !=
          std::string::npos);
  }
}

TEST_CASE("compare shows what a cache's type costs, and pages cost nothing") {
  const auto error_with = [](const std::string& options) {
    CAPTURE(options);
    const Ran ran = attn_demo("compare --shape 2,6,3,2,70,24,40 --causal --json " + options);
    REQUIRE(ran.code == 0);
    const auto result = nlohmann::json::parse(ran.out);
    CHECK(result["unfused"]["out"]["max_abs"].get<double>() <= result["tolerance"].get<double>());
    CHECK(result["shape"] == nlohmann::json({2, 6, 3, 2, 70, 24, 40}));
    return std::pair(result["tiled"]["out"]["max_abs"].get<double>(),
                     result["kv_dtype"].dump() + " " + result["page_size"].dump());
  };
  CHECK(error_with("").second == "\"f32\" 0");
  const auto [rounding, paged] = error_with("--page-size 3");
  CHECK(paged == "\"f32\" 3");
  const auto [quantized, contiguous] = error_with("--kv-dtype i8");
  CHECK(contiguous == "\"i8\" 0");
  const double half = error_with("--kv-dtype f16").first;
  CHECK(rounding < 1e-5);
  CHECK(half > 10 * rounding);
  CHECK(quantized > 3 * half);
  CHECK(attn_demo("compare --shape 2,6,3,2,70,24,40 --kv-dtype i8 --page-size 16")
            .out.find("cached in i8 in pages of 16") != std::string::npos);
  for (const char* empty : {"0,2,1,4,4,8", "1,2,1,4,0,8"}) {
    CHECK(attn_demo(fmt::format("compare --kv-dtype i8 --page-size 2 --shape {}", empty)).code ==
          0);
  }
}

TEST_CASE("the sample tensors are those that make_samples makes") {
  const Folder folder;
  const fs::path program = fs::path(ATTN_DEMO_PATH).parent_path() / "make_samples";
  REQUIRE(shell("", program.string(), folder / ".").code == 0);
  CHECK(folder.names().size() == 11);
  for (const std::string& name : folder.names()) {
    CAPTURE(name);
    CHECK(bytes_of(folder / name) == bytes_of((fs::path(ATTN_DATA_PATH) / name).string()));
  }
}
