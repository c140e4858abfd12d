// The tensors of a model's folder, from model.safetensors or from the shards that
// model.safetensors.index.json lists.
#pragma once

#include <attn/io.hpp>

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace attn::model {

class Checkpoint {
 public:
  /// Maps the files. Throws Error(io), which names file and tensor, if there are none, if a shard
  /// is missing or broken, and if index and shards disagree.
  explicit Checkpoint(const std::filesystem::path& folder);

  const std::string& folder() const noexcept { return folder_; }
  /// Sorted.
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return shard_of_.contains(name); }
  /// The tensor has to exist. Throws Error(io) if the library does not read its element type.
  TensorView tensor(const std::string& name) const {
    return shards_[shard_of_.at(name)].tensor(name);
  }
  /// The file that holds the tensor.
  const std::string& file_of(const std::string& name) const {
    return shards_[shard_of_.at(name)].file();
  }

 private:
  void open_shards(const std::filesystem::path& index);
  void open(const std::filesystem::path& file);

  std::string folder_;
  std::vector<MappedTensors> shards_;
  std::map<std::string, std::size_t> shard_of_;
};

}  // namespace attn::model
