// Messages of attn_demo and attn_bench name the option that is wrong, and what it needs.
#include <attn/io.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "support/demo_models.hpp"
#include "support/op_sample.hpp"

using namespace attn;
using namespace attn::test;

namespace {

void check_bench(const std::string& arguments, const std::string& fault) {
  CAPTURE(arguments);
  check_refused_with(attn_bench(arguments), fault, "attn_bench");
}
void check_demo(const std::string& arguments, const std::string& fault) {
  CAPTURE(arguments);
  check_refused_with(attn_demo(arguments), fault);
}

const std::string int64_range = "-9223372036854775808..9223372036854775807";

}  // namespace

TEST_CASE("an empty value after = takes no other argument's place") {
  check_demo("compare --shape= --threads 1", "--shape is empty; it needs B,H,HKV");
  check_demo("compare --shape 1,1,1,2,2,2 --threads= --json",
             "--threads is empty; it needs an int");
  for (const char* option :
       {"--scale",    "--softcap",   "--causal-offset", "--q-position", "--window",     "--mask",
        "--kv-lens",  "--alibi",     "--sinks",         "--alpha",      "--normalizer", "--dtype",
        "--kv-dtype", "--page-size", "--isa",           "--q",          "--layout",     "--heads",
        "--seed",     "--tolerance", "--causal"}) {
    for (const char* empty : {"=", " ''"})
      check_demo(fmt::format("compare {}{} --threads 1", option, empty),
                 fmt::format("{} is empty", option));
  }
  check_demo("run --out= --q a.npy", "--out is empty; it needs a name");
  check_demo("op softmax --input= --out o.npy", "--input is empty");
  check_demo("plot temperature --out=", "--out is empty");
  check_demo("heatmap --model= --prompt a", "--model is empty");
  check_demo("heatmap --head= --out o.png", "--head is empty");
  check_demo("generate --prompt= --quiet", "--prompt is empty");
  check_demo("generate --prompt-ids= --quiet", "--prompt-ids is empty");
  check_demo("layers --min-time= --json", "--min-time is empty");
  for (const char* flag : {"--json=", "--json=yes", "--json=false"})
    check_demo(fmt::format("compare --shape 1,1,1,2,2,2 {}", flag), "--json takes no value");
  check_bench("--shape= --threads 1", "--shape is empty");
  check_bench("--threads= --json", "--threads is empty");
  check_bench("--min-time= --json", "--min-time is empty");
}

TEST_CASE("a value may look like an option, and have brackets") {
  const Sample sample;
  check_demo("compare --shape --threads", "--shape is \"--threads\"");
  check_demo("compare --shape --threads 1", "\"1\"; --shape has taken \"--threads\" as its value");
  check_demo("compare --shape=--threads", "--shape is \"--threads\"");
  check_demo(sample.run("--normalizer [softmax]"), "--normalizer is \"[softmax]\"");
  check_demo(sample.run("--normalizer =softmax"), "--normalizer is \"=softmax\"");
  const std::string bytes = "generate" + toy + "--max-new 0 --quiet --prompt ";
  for (const char* text :
       {"'[INST] a, b [/INST]'", "'--json'", "'-1'", "'=a'", "'{a}'", "'\"a\"'"}) {
    CAPTURE(text);
    const std::string logits = sample.folder / "logits.npy";
    const Ran ran = attn_demo(bytes + text + " --logits " + logits);
    CHECK(ran.code == 0);
    // A byte is a token.
    CHECK(read_tensor(logits).shape()[1] + 2 ==
          static_cast<std::int64_t>(std::string(text).size()));
  }
}

TEST_CASE("unknown names get the known ones") {
  check_demo("op relu --input a.npy --out o.npy",
             "attn_demo op does not know \"relu\"; it needs a name, one of softmax, log_softmax");
  check_demo("op --input a.npy relu",
             "attn_demo op does not know \"--input\"; it needs a name first");
  check_demo("op", "attn_demo op needs a name after it, one of softmax");
  check_demo("plot tempreature --out a.svg", "one of temperature, sparsity");
  check_demo("ruun --q a.npy --out o.npy", "\"ruun\"; it needs a name, one of run, backward, ");
  check_demo("--q a.npy", "\"--q\"; it needs a name first, one of run, backward, ");
  check_demo("run --qq a.npy --out o.npy",
             "attn_demo run has no option --qq; attn_demo run --help");
  check_demo("run --qq=a.npy", "no option --qq;");
  check_demo("info --verbose", "attn_demo info has no option --verbose");
  check_demo("info more", "more");
  check_demo("compare --scale 1 --scale=2", "--scale is given twice");
  check_demo("run --q a.npy b.npy", "attn_demo run does not know \"b.npy\"; values follow");
  check_demo("compare --isa=sse9", "--isa is \"sse9\"; it needs one of baseline");
  check_demo("compare --q-position left", "bottom-right, top-left or an integer in " + int64_range);
  check_demo("heatmap --head some", "--head is \"some\"; it needs all or an integer in 0..");
  check_bench("softmaxx", "attn_bench does not know \"softmaxx\"; it needs a name, one of softmax");
  check_bench("--qq", "attn_bench has no option --qq");
  check_bench("--isa sse9", "--isa is \"sse9\"; it needs one of baseline");
  for (const char* help : {"--help", "op --help", "op softmax --help", "plot -h", "--version"})
    CHECK(attn_demo(help).code == 0);
}

TEST_CASE("numbers that a type cannot hold are called too small or too large") {
  const Sample sample;
  for (const char* option : {"--scale", "--softcap"}) {
    for (const char* number : {"1e-50", "-1e-46", "1e-99999"})
      check_demo(sample.run(fmt::format("{} {}", option, number)),
                 "too small for a float (1.4e-45");
    for (const char* number : {"1e50", "-1e39", "1e99999"})
      check_demo(sample.run(fmt::format("{} {}", option, number)),
                 "too large for a float (1.4e-45");
  }
  check_demo(sample.run("--normalizer sigmoid --sigmoid-bias 1e-50"), "too small for a float");
  check_demo("compare --shape 1,1,1,2,2,2 --tolerance 1e-400", "too small for a double");
  check_demo("layers --min-time 1e400", "too large for a double");
  const OpSample op;
  for (const char* call : {"softmax --temperature", "entmax --alpha", "sample --top-p",
                           "sample --min-p", "rms_norm --epsilon"}) {
    check_demo(op.op(fmt::format("{} 1e-50", call)), "too small for a float");
  }
  for (const char* number : {"1e-45", "-1.5e-40", "0", "-0.0", "+0.5", "+1e-3", ".5"}) {
    CAPTURE(number);
    check_done(sample.run(fmt::format("--scale {}", number)));
  }
  for (const char* number : {"+-1", "++1", "+", "1e", "0x1p-3"})
    check_demo(sample.run(fmt::format("--scale {}", number)), "a finite number");
}

TEST_CASE("integers say their range, and seeds have 64 bits") {
  const Sample sample;
  for (const char* number : {"x", "1.5", "9223372036854775808"})
    check_demo(sample.run(fmt::format("--causal-offset {}", number)),
               "an integer in " + int64_range);
  check_demo(sample.run("--threads 1025"), "--threads is \"1025\"; it needs an integer in 1..1024");
  check_demo(sample.run("--window 1,99999999999999999999"), "0..9223372036854775807, or -1");
  check_demo("compare --shape 1,1,1,1,1,99999999999999999999", "at most 9223372036854775807");
  check_bench("--threads 4097", "an integer in 1..1024");
  check_bench("--threads two", "an integer in 1..1024");
  check_bench("--min-time soon", "a finite number");
  check_done(sample.run("--causal-offset +1"));
  const OpSample op;
  check_demo(op.op("softmax --axis x"), "an integer in -2147483648..2147483647");
  check_demo(op.op("sample --top-k x"), "an integer in ");
  for (const char* seed : {"18446744073709551616", "-1", "x"})
    check_demo(op.op(fmt::format("sample --seed {}", seed)), "in 0..18446744073709551615");
  check_done(op.op("sample --num-samples 50 --seed 18446744073709551615"));
  Tensor drawn(DType::i64, {2, 3, 50});
  attn::sample(op.x.view(), drawn.view(), {.seed = ~std::uint64_t{0}});
  CHECK(equal(read_tensor(op.out), drawn.view()));
  for (const char* command : {"compare --shape 1,1,1,2,2,2 --seed 18446744073709551615 --json",
                              "generate --hidden 16 --layers 1 --heads 2 --prompt a --max-new 1 "
                              "--quiet --seed 18446744073709551615"})
    CHECK(attn_demo(command).code == 0);
}

TEST_CASE("what the library refuses has the option's name") {
  const OpSample files;
  const std::string four = files.file("four.npy", counted(DType::f32, {4}).view());
  const std::string classes =
      files.file("classes.npy", {2, 4}, std::vector<std::int64_t>{0, 2, 1, 3, 2, 2, 0, 1});
  const auto check = [&](const std::string& op, const std::string& fault) {
    check_demo(files.op(op), fault);
  };
  check("softmax --axis 3", "--axis is 3; it needs to lie in -3..2 (--input has rank 3)");
  check("softmax --temperature -1", "--temperature is -1");
  check("rms_norm --axis 9", "--axis is 9");
  check("rms_norm --epsilon -1", "error: --epsilon is -1");
  check("rms_norm --scale-file " + classes.substr(0, classes.size() - 11) + "x.npy",
        "--scale-file has shape [2, 3, 4]");
  check("layer_norm --bias-file " + files.folder / "x.npy", "--bias-file has shape [2, 3, 4]");
  check("cross_entropy --target " + classes, "--target[0, 3] is 3; it needs to lie in 0..2");
  check("cross_entropy --target " + four,
        "--target has shape [4]; it needs [2, 3, 4] (the shape of --input)");
  check("cross_entropy --ignore-index 2 --target " + files.folder / "x.npy", "--ignore-index is 2");
  check("rope --heads 2 --cos " + four + " --sin " + four, "--cos has shape [4] of rank 1");
  const std::string flags = files.file("flags.npy", counted(DType::boolean, {2, 4}).view());
  check("cross_entropy --target " + flags, "--target has type boolean; it needs i32 or i64");

  files.file("none.npy", Tensor(DType::f32, {2, 0, 4}).view());
  check_demo(files.op("cross_entropy --target " + classes, "none.npy"),
             "--target[0, 0] is 0, but --input has no classes");
  const Sample sample;
  check_demo(sample.run("--causal-offset 9223372036854775807"), "--causal-offset is 92");
  check_demo(sample.run("--q-position 9223372036854775807"), "--q-position is 92");
  check_demo(sample.run("--normalizer entmax --alpha 0.5"),
             "error: --alpha is \"0.5\"; it needs a number of at least 1");
  const std::string q = sample.folder / "q.npy";
  check_demo(fmt::format("heatmap --q {0} --k {0} --alibi {0}", q), "--alibi has shape");
  check_demo(fmt::format("compare --shape 2,4,2,3,5,8 --sinks {}", q), "--sinks has shape");
  check_bench("--shape 1,1,1,1,1,1 --normalizer entmax --alpha 0.5",
              "error: --alpha is \"0.5\"; it needs a number of at least 1");
  check_demo("layers --heads 4 --kv-heads 3",
             "--heads is 4; it needs to be a multiple of --kv-heads");
}

TEST_CASE("bytes that are taken as ids are said to be") {
  const ModelCopy model("llama_tiny");
  fs::remove(model.folder / "tokenizer.json");
  const MappedTensors whole(path_of("llama_tiny") + "/model.safetensors");
  std::vector<NamedTensor> tensors;
  for (const std::string& name : whole.names()) {
    const bool by_token =
        name.find("embed_tokens") != std::string::npos || name == "lm_head.weight";
    const TensorView view = whole.tensor(name);
    tensors.push_back({name, by_token ? view.sliced(0, 0, 50) : view});
  }
  write_safetensors(model.folder / "model.safetensors", tensors);
  model.change_config([](nlohmann::json& all) { all["vocab_size"] = 50; });
  const std::string folder = model.folder / "";
  for (const char* command : {"generate", "heatmap"}) {
    check_demo(fmt::format("{} --model {} --prompt hi", command, folder),
               "--prompt, whose bytes are taken as ids since the model has no tokenizer.json, has "
               "id 104 at place 0; it needs to be less than 50 (vocab_size)");
    check_demo(fmt::format("{} --model {} --prompt-ids 1,50", command, folder),
               "--prompt-ids has id 50 at place 1; it needs to be less than 50");
  }
}
