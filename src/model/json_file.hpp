// JSON files of models: parsed with limits, and read key by key with errors that name the file and
// the key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attn::model {

/// Throws Error(io) for what is no JSON in UTF-8, is larger or deeper than any model's file, or
/// names a key twice in one object.
nlohmann::json parse_json_file(const std::filesystem::path& file);

/// An object of a JSON file. Each function throws Error(io) that names the file and the key, what
/// it got and what it needs.
class JsonObject {
 public:
  /// The whole file is the object.
  explicit JsonObject(const std::filesystem::path& file);

  const std::string& file() const noexcept { return file_; }
  /// False too for null.
  bool has(std::string_view key) const;
  bool is_null(std::string_view key) const;
  /// What stands there; the key has to be there.
  const nlohmann::json& at(std::string_view key) const;
  JsonObject object(std::string_view key) const;
  /// Of a list of objects; none if the key is missing or null.
  std::vector<JsonObject> objects(std::string_view key) const;

  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high) const;
  double number(std::string_view key, double low, double high) const;
  bool flag(std::string_view key) const;
  const std::string& text(std::string_view key) const;
  /// With what stands for a missing key.
  std::int64_t integer_or(std::string_view key, std::int64_t missing, std::int64_t low,
                          std::int64_t high) const;
  double number_or(std::string_view key, double missing, double low, double high) const;
  bool flag_or(std::string_view key, bool missing) const;

  [[noreturn]] void fail(const std::string& what) const;
  /// The key's value, and that it is not what is needed.
  [[noreturn]] void refuse(std::string_view key, const std::string& needed) const;
  /// Throws Error(unsupported): the value may be right, but is not for this library.
  [[noreturn]] void unsupported(std::string_view key, const std::string& supported) const;

 private:
  JsonObject(std::string file, std::string prefix, std::shared_ptr<const nlohmann::json> json)
      : file_(std::move(file)), prefix_(std::move(prefix)), json_(std::move(json)) {}
  const nlohmann::json* find(std::string_view key) const;
  std::string got(std::string_view key) const;
  std::string named(std::string_view key) const;

  std::string file_;
  std::string prefix_;  // of keys in messages: "rope_scaling."
  std::shared_ptr<const nlohmann::json>
      json_;  // a part of the file, which it keeps whole: vocabularies are not copied
};

}  // namespace attn::model
