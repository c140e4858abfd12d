// Names of files that exist only until an output is complete.
#pragma once

#include <filesystem>
#include <string>

namespace attn::io {

/// A new name in a folder, for a file that the owner of this object creates and renames. What has
/// the name in the end is removed. The name is random, so that no other file has it, and it is on
/// the list of remove_listed_files() before there is a file.
class TemporaryName {
 public:
  explicit TemporaryName(const std::filesystem::path& folder);
  TemporaryName(const TemporaryName&) = delete;
  TemporaryName& operator=(const TemporaryName&) = delete;
  ~TemporaryName();

  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
  int place_;  // on the list
};

/// Removes what has a name on the list. A signal handler may call it, in any thread.
void remove_listed_files() noexcept;

}  // namespace attn::io
