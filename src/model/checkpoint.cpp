#include "model/checkpoint.hpp"

#include <fmt/format.h>

#include <set>
#include <string_view>
#include <system_error>

#include "io/json.hpp"
#include "io/message.hpp"

namespace fs = std::filesystem;

namespace attn::model {
namespace {

constexpr std::string_view single_file = "model.safetensors";
constexpr std::string_view index_file = "model.safetensors.index.json";

bool file_exists(const fs::path& file) {
  std::error_code ignored;
  return fs::exists(file, ignored);
}

/// Whether a shard's name stays in the folder of the index. An index may be hostile, so that names
/// with a path are refused.
bool is_plain_name(const std::string& name) {
  return name.ends_with(".safetensors") && name.find_first_of("/\\") == std::string::npos &&
         name.find('\0') == std::string::npos;
}

/// The shard of each tensor, as the index has it.
std::map<std::string, std::string> read_weight_map(const fs::path& file) {
  const io::JsonObject entries = io::JsonObject(file).object("weight_map");
  std::map<std::string, std::string> shards;
  for (const std::string_view tensor : entries.keys()) {
    const std::string& shard = entries.text(tensor);
    if (!is_plain_name(shard))
      entries.refuse(tensor, "the name of a .safetensors file in the same folder");
    shards.emplace(tensor, shard);
  }
  return shards;
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& folder) : folder_(folder.string()) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) io::fail(folder_, "is no folder of a model");
  if (file_exists(folder / single_file)) {
    open(folder / single_file);
  } else if (file_exists(folder / index_file)) {
    open_shards(folder / index_file);
  } else {
    io::fail(folder_, fmt::format("holds neither {} nor {}", single_file, index_file));
  }
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> result;
  for (const auto& [name, shard] : shard_of_) result.push_back(name);
  return result;
}

void Checkpoint::open_shards(const fs::path& index) {
  const std::map<std::string, std::string> shards = read_weight_map(index);
  std::set<std::string> files;
  for (const auto& [name, shard] : shards) files.insert(shard);
  for (const std::string& file : files) open(index.parent_path() / file);

  for (const auto& [name, shard] : shards) {
    const std::string wanted = (index.parent_path() / shard).string();
    if (!contains(name))
      io::fail(wanted, fmt::format("lacks tensor {}, which {} says is there", io::in_quotes(name),
                                   index_file));
    if (file_of(name) != wanted) {
      io::fail(wanted, fmt::format("lacks tensor {}, which {} says is there; {} holds it",
                                   io::in_quotes(name), index_file,
                                   fs::path(file_of(name)).filename().string()));
    }
  }
  for (const auto& [name, shard] : shard_of_) {
    if (!shards.contains(name))
      io::fail(file_of(name),
               fmt::format("tensor {} is not in {}", io::in_quotes(name), index_file));
  }
}

void Checkpoint::open(const fs::path& file) {
  const MappedTensors& shard = shards_.emplace_back(file.string());
  for (const std::string& name : shard.names()) {
    if (!shard_of_.emplace(name, shards_.size() - 1).second) {
      io::fail(shard.file(), fmt::format("tensor {} is in {} too", io::in_quotes(name),
                                         fs::path(file_of(name)).filename().string()));
    }
  }
}

}  // namespace attn::model
