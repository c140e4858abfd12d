// The small models of tests/data as attn_demo takes them.
#pragma once

#include <attn/io.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "support/program.hpp"

namespace attn::test {

inline const std::vector<std::string> models = {"llama_tiny", "gpt2_tiny", "qwen2_tiny",
                                                "qwen3_tiny"};
inline const std::string toy = " --hidden 64 --layers 2 --heads 4 ";

inline std::string path_of(const std::string& model) {
  return std::string(ATTN_TEST_DATA_PATH) + '/' + model;
}

inline std::string joined(const Tensor& ids) {
  return fmt::format(
      "{}", fmt::join(ids.data<std::int64_t>(), ids.data<std::int64_t>() + ids.size(), ","));
}

inline std::string prompt_of(const std::string& model) {
  return joined(read_tensor(path_of(model) + "/prompt.npy"));
}

/// The ids of a prompt's greedy continuation, as `generate --print-ids` prints them.
inline std::string greedy_of(const std::string& model) {
  return joined(read_tensor(path_of(model) + "/greedy.npy")) + '\n';
}

inline std::string generate(const std::string& model, const std::string& options) {
  return fmt::format("generate --model '{}' --prompt-ids {} --dtype f32 --quiet {}", path_of(model),
                     prompt_of(model), options);
}

inline std::string text_of(const std::string& arguments) {
  CAPTURE(arguments);
  const Ran ran = attn_demo(arguments);
  CHECK(ran.err == "");
  REQUIRE(ran.code == 0);
  return ran.out;
}

/// A copy of a model's folder, whose files tests replace.
struct ModelCopy {
  Folder folder;

  explicit ModelCopy(const std::string& model) {
    for (const auto& entry : fs::directory_iterator(path_of(model)))
      fs::copy_file(entry.path(), folder / entry.path().filename().string());
  }
  const ModelCopy& change(const std::string& file,
                          const std::function<std::string(std::string)>& f) const {
    folder.write(file, f(bytes_of(folder / file)));
    return *this;
  }
  const ModelCopy& change_config(const std::function<void(nlohmann::json&)>& f) const {
    return change("config.json", [&](const std::string& text) {
      nlohmann::json config = nlohmann::json::parse(text);
      f(config);
      return config.dump();
    });
  }
};

inline std::uint64_t header_size(const std::string& file) {
  std::uint64_t size = 0;
  for (std::size_t n = 8; n-- > 0;) size = size << 8 | static_cast<unsigned char>(file[n]);
  return size;
}

}  // namespace attn::test
