#include "model/sentence.hpp"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>

#include "io/json.hpp"
#include "io/message.hpp"

namespace fs = std::filesystem;

namespace attn::model {
namespace {

using io::JsonObject;

bool is_there(const fs::path& file) {
  std::error_code ignored;
  return fs::exists(file, ignored);
}

/// The names that both forms of a pooling's configuration have, in the order in which vectors are
/// joined.
struct PoolingName {
  std::string_view flag, mode;
  Pooling pooling;
};
constexpr std::array<PoolingName, 6> pooling_names{{
    {"pooling_mode_cls_token", "cls", Pooling::first},
    {"pooling_mode_max_tokens", "max", Pooling::max},
    {"pooling_mode_mean_tokens", "mean", Pooling::mean},
    {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::mean_sqrt_length},
    {"pooling_mode_weightedmean_tokens", "weightedmean", Pooling::weighted_mean},
    {"pooling_mode_lasttoken", "lasttoken", Pooling::last},
}};

void add_mode(const JsonObject& json, std::string_view mode, std::vector<Pooling>& pooling) {
  for (const PoolingName& name : pooling_names) {
    if (name.mode == mode) return pooling.push_back(name.pooling);
  }
  json.unsupported("pooling_mode",
                   "cls, max, mean, mean_sqrt_len_tokens, weightedmean or lasttoken");
}

std::vector<Pooling> read_pooling(const fs::path& file, const std::string& prompt) {
  const JsonObject json(file);
  std::vector<Pooling> pooling;
  if (!prompt.empty() && !json.flag_or("include_prompt", true))
    json.unsupported("include_prompt", "true, or no default prompt");
  if (json.has("pooling_mode")) {
    if (!json.at("pooling_mode").is_array()) {
      add_mode(json, json.text("pooling_mode"), pooling);
    } else {
      for (const auto& mode : json.at("pooling_mode")) {
        if (!mode.is_string()) json.refuse("pooling_mode", "a mode, or a list of modes");
        add_mode(json, mode.get_ref<const std::string&>(), pooling);
      }
    }
  } else {
    for (const PoolingName& name : pooling_names) {
      if (json.flag_or(name.flag, false)) pooling.push_back(name.pooling);
    }
  }
  if (pooling.empty()) json.fail("names no mode of pooling");
  return pooling;
}

/// Throws Error(unsupported) if the key has another value than the one with which it changes
/// nothing.
void refuse_unless(const JsonObject& json, std::string_view key, const nlohmann::json& neutral) {
  if (json.has(key) && json.at(key) != neutral) json.unsupported(key, neutral.dump());
}

/// The last part of a module's type, such as Pooling in sentence_transformers.models.Pooling.
std::string_view class_of(std::string_view type) { return type.substr(type.rfind('.') + 1); }

/// The file of a module, in the folder that it names. A name that leaves the model's folder is
/// refused.
fs::path file_of(const fs::path& folder, const JsonObject& module) {
  const std::string& path = module.text("path");
  if (path.find_first_of("/\\") != std::string::npos || path == ".." ||
      path.find('\0') != std::string::npos)
    module.refuse("path", "the name of a folder in the model's folder");
  return folder / path / "config.json";
}

void check_normalize(const fs::path& file) {
  if (!is_there(file)) return;
  const JsonObject json(file);
  refuse_unless(json, "module_input_name", "sentence_embedding");
  refuse_unless(json, "module_output_name", "sentence_embedding");
}

void read_modules(const fs::path& folder, const std::vector<JsonObject>& modules,
                  SentenceSettings& config) {
  constexpr std::string_view supported = "Transformer, then Pooling, then perhaps Normalize";
  constexpr std::array<std::string_view, 3> order{"Transformer", "Pooling", "Normalize"};
  for (std::size_t n = 0; n < modules.size(); ++n) {
    const std::string& type = modules[n].text("type");
    if (n >= order.size() || class_of(type) != order[n])
      modules[n].unsupported("type", std::string(supported));
    if (n == 0 && modules[n].has("path") && !modules[n].text("path").empty())
      modules[n].unsupported("path", "\"\", which is the model's folder");
    if (n == 1) config.pooling = read_pooling(file_of(folder, modules[n]), config.prompt);
    if (n == 2) check_normalize(file_of(folder, modules[n]));
  }
  if (modules.size() < 2) {
    io::fail((folder / "modules.json").string(),
             fmt::format("has {} modules; it needs {}", modules.size(), supported));
  }
  config.normalize = modules.size() == order.size();
}

std::optional<std::int64_t> read_max_tokens(const fs::path& file) {
  constexpr std::string_view key = "max_seq_length";
  if (!is_there(file)) return std::nullopt;
  const JsonObject json(file);
  refuse_unless(json, "do_lower_case", false);
  refuse_unless(json, "transformer_task", "feature-extraction");
  refuse_unless(json, "module_output_name", "token_embeddings");
  refuse_unless(json, "processing_kwargs", nlohmann::json::object());
  for (const char* const other : {"query_length", "document_length", "query_expansion"})
    refuse_unless(json, other, nullptr);
  if (!json.has(key)) return std::nullopt;
  return json.integer(key, 1, 1 << 24);
}

std::string read_prompt(const fs::path& file) {
  constexpr std::string_view key = "default_prompt_name";
  if (!is_there(file)) return {};
  const JsonObject json(file);
  refuse_unless(json, "truncate_dim", nullptr);
  refuse_unless(json, "model_type", "SentenceTransformer");
  if (!json.has(key)) return {};
  if (!json.has("prompts")) json.refuse(key, "a name of prompts");
  return json.object("prompts").text(json.text(key));
}

}  // namespace

SentenceSettings read_sentence_config(const fs::path& folder) {
  SentenceSettings config;
  config.max_tokens = read_max_tokens(folder / "sentence_bert_config.json");
  config.prompt = read_prompt(folder / "config_sentence_transformers.json");
  const fs::path modules = folder / "modules.json";
  if (is_there(modules)) read_modules(folder, JsonObject::list(modules), config);
  return config;
}

}  // namespace attn::model
