// attn_demo layers, generate and heatmap refuse wrong usage and broken model folders in one line,
// and leave no file behind.
#include <attn/io.hpp>

#include <functional>
#include <string>

#include <nlohmann/json.hpp>

#include "support/demo_models.hpp"

using namespace attn;
using namespace attn::test;
using nlohmann::json;

TEST_CASE("wrong usage is refused in one line, and nothing is written") {
  const Folder folder;
  const std::string model = fmt::format(" --model '{}' ", path_of("llama_tiny"));
  const std::string logits = fmt::format(" --logits {} ", folder / "logits.npy");
  const auto check = [&](const std::string& arguments, const std::string& fault) {
    CAPTURE(arguments);
    check_refused_with(attn_demo(arguments), fault);
    CHECK(folder.names() == Names{});
  };
  check("layers --hidden 3", "hidden 3 does not make 8 heads of an even dim");
  check("layers --arch gpt2 --hidden 10 --heads 4", "a whole dim");
  check("layers --heads 0", "--heads is \"0\"");
  check("layers --heads 4 --kv-heads 3 --hidden 64 --layers 1",
        "multiple of --kv-heads, which is 3");
  for (const char* option : {"--seq", "--batch", "--layers", "--hidden", "--kv-heads"}) {
    for (const char* value : {"0", "2000000"})
      check(fmt::format("layers {} {}", option, value), option);
  }
  check("layers --dtype f16", "one of f32, bf16");
  check("layers --arch bert", "one of llama, gpt2");
  check("layers --min-time -1", "a number of at least 0");
  check("layers --min-time nan", "a finite number");
  for (const char* option :
       {"--arch llama", "--layers 1", "--hidden 64", "--heads 4", "--kv-heads 1", "--seed 1"})
    check("layers" + model + option, "exclude");
  check("layers" + model + "--seq 1000", "take 1032 positions; the model has 1024");
  check("layers --hidden 1048576 --layers 1048576", "of memory; ");
  check("layers --hidden 64 --layers 1 --seq 1000000 --batch 1048576", "of memory; ");
  check("layers --hidden 64 --layers 1 --seq 1000000 --heads 16", "of memory; ");
  check("generate --hidden 1048576 --layers 1048576 --prompt a" + logits, "of memory; ");
  check("generate" + model + logits, "--prompt TEXT or --prompt-ids");
  check("generate" + model + logits + "--prompt ''", "--prompt is empty");
  check("generate" + model + logits + "--prompt a --prompt-ids 1", "excludes");
  check("generate" + model + logits + "--prompt a --hidden 64", "excludes");
  for (const char* ids : {"''", "1,", ",1", "1,,2", "1,x", "-1", "1.5"})
    check("generate" + model + logits + "--prompt-ids " + ids, "--prompt-ids");
  check("generate" + model + logits + "--prompt-ids 1,256", "--prompt-ids has id 256 at place 1");
  check("generate" + model + logits + "--prompt-ids 9223372036854775807", "less than 256");
  for (const char* value : {"-1", "nan", "inf", "x"})
    check("generate --prompt a --temperature " + std::string(value), "--temperature");
  for (const char* value : {"-0.5", "-1", "1.1", "nan"})
    check("generate --prompt a --top-p " + std::string(value), "--top-p");
  for (const char* value : {"-0.1", "1.1"})
    check("generate --prompt a --min-p " + std::string(value), "--min-p");
  check("generate --prompt a --top-k -1", "--top-k");
  check("generate --prompt a --max-new -1", "--max-new");
  check(fmt::format("generate {} --prompt a --logits {}", model, folder / "none/logits.npy"),
        "cannot be written");
  check(fmt::format("generate {} --prompt a --logits {}", model, folder / "logits.txt"),
        ".npy or .safetensors");
  const std::string out = fmt::format(" --out {} ", folder / "map.png");
  check("heatmap --prompt a" + out, "--prompt requires --model");
  check("heatmap --layer 1" + out, "--layer requires --model");
  check("heatmap" + model + out, "--prompt TEXT or --prompt-ids");
  check("heatmap" + model + out + "--prompt a --layer 2", "the model has 2 layers");
  check("heatmap" + model + out + "--prompt a --head 4", "the model has 4 query heads");
  for (const char* option : {"--causal", "--scale 2", "--labels a", "--batch 1", "--q x.npy",
                             "--normalizer sparsemax", "--kv-heads 1 --heads 2"})
    check("heatmap" + model + out + "--prompt a " + option, "excludes");
}

TEST_CASE("broken folders are refused in one line, and nothing is written") {
  const Folder folder;
  const auto check = [&](const std::string& model, const std::string& fault) {
    const std::string given = fmt::format("--model '{}' --prompt-ids 1", model);
    check_refused_with(
        attn_demo(fmt::format("generate {} --max-new 1 --logits {}", given, folder / "logits.npy")),
        fault);
    check_refused_with(attn_demo(fmt::format("layers --model '{}'", model)), fault);
    check_refused_with(attn_demo(fmt::format("heatmap {} --out {}", given, folder / "map.png")),
                       fault);
    CHECK(folder.names() == Names{});
  };
  check("/nowhere", "config.json: no such file");
  check(path_of("rope"), "config.json: no such file");
  const auto config = [&](const std::string& text, const std::string& fault) {
    const ModelCopy model("llama_tiny");
    model.folder.write("config.json", text);
    check(model.folder / "", fault);
  };
  config("", "config.json");
  config("{\"model_type\": \"llama\"", "config.json");
  config(std::string(200'000, '['), "config.json");
  config("[]", "config.json");
  check(ModelCopy("llama_tiny")
                .change_config([](json& all) { all["num_attention_heads"] = 0; })
                .folder /
            "",
        "num_attention_heads");
  check(ModelCopy("llama_tiny")
                .change_config([](json& all) { all["hidden_size"] = 1u << 20; })
                .folder /
            "",
        "model.safetensors");
  check(
      ModelCopy("llama_tiny").change_config([](json& all) { all["model_type"] = "t\n5"; }).folder /
          "",
      "model_type");
  const auto cut = [](std::string file) { return file.substr(0, file.size() - 1); };
  check(ModelCopy("qwen3_tiny").change("model-00002-of-00002.safetensors", cut).folder / "",
        "model-00002-of-00002.safetensors");
  const auto endless = [](const std::string& file) {
    return little_endian(1ull << 60, 8) + file.substr(8);
  };
  check(ModelCopy("gpt2_tiny").change("model.safetensors", endless).folder / "",
        "model.safetensors");
  const auto overlapping = [](const std::string& file) {
    const std::uint64_t size = header_size(file);
    json header = json::parse(file.substr(8, size));
    header["model.layers.0.self_attn.k_proj.weight"] =
        header["model.layers.0.self_attn.v_proj.weight"];
    return safetensors(header.dump(), file.substr(8 + size));
  };
  check(ModelCopy("llama_tiny").change("model.safetensors", overlapping).folder / "",
        "model.safetensors");
}

TEST_CASE("a run that fails late leaves no file") {
  const ModelCopy model("llama_tiny");
  const Folder folder;
  const std::string given =
      fmt::format("--prompt-ids 1,2 --max-new 2 --quiet --logits {} ", folder / "logits.npy");
  // Only at the end it is known that what was written to standard output is lost.
  check_refused_with(
      attn_demo(fmt::format("generate --model '{}' {} >/dev/full", path_of("llama_tiny"), given)),
      "standard output");
  CHECK(folder.names() == Names{});
  // With weights of NaN, no token can be drawn.
  model.change("model.safetensors", [](std::string file) {
    const std::size_t header = 8 + header_size(file);
    return file.replace(header, file.size() - header, file.size() - header, '\xff');
  });
  check_refused_with(attn_demo(fmt::format("generate --model {} {}", model.folder / "", given)),
                     "logits");
  CHECK(folder.names() == Names{});
  model.folder.write("tokenizer.json", "{}");
  check_refused_with(attn_demo(fmt::format("generate --model {} {}", model.folder / "", given)),
                     "tokenizer.json");
  CHECK(folder.names() == Names{});
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they reserve address space
TEST_CASE("memory that runs out is an error, whichever thread it runs out in") {
  for (int megabytes = 70; megabytes <= 130; megabytes += 15) {
    CAPTURE(megabytes);
    const Ran ran = shell(fmt::format("ulimit -v {};", megabytes * 1024), ATTN_DEMO_PATH,
                          "layers --layers 2 --hidden 512 --heads 8 --kv-heads 2 --seq 16");
    check_refused_with(ran, "out of memory");
  }
}
#endif
