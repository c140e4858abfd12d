// The readers take names of files, so an input is written to a file before it is read.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

namespace attn::test {

/// A file in a folder of its own, in memory where the system has a file system there. Both are
/// removed at the end.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& name) {
    namespace fs = std::filesystem;
    const fs::path memory = "/dev/shm";
    const fs::path parent =
        ::access(memory.c_str(), W_OK) == 0 ? memory : fs::temp_directory_path();
    folder_ = parent / ("attn-fuzz-" + std::to_string(::getpid()));
    fs::create_directory(folder_);
    file_ = (folder_ / name).string();
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  const std::filesystem::path& folder() const { return folder_; }
  const std::string& name() const { return file_; }
  void write(const std::uint8_t* data, std::size_t size) const {
    // A mapping of the file before may still be read, so a new file takes its place.
    std::remove(file_.c_str());
    const std::unique_ptr<std::FILE, Close> file(std::fopen(file_.c_str(), "wb"));
    if (!file || std::fwrite(data, 1, size, file.get()) != size)
      throw std::filesystem::filesystem_error("scratch file", file_,
                                              std::make_error_code(std::errc::io_error));
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };

  std::filesystem::path folder_;
  std::string file_;
};

}  // namespace attn::test
