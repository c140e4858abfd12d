// The readers take names of files: an input becomes a file, in memory where that is possible.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

namespace attn::test {

class ScratchFile {
 public:
  explicit ScratchFile(const std::string& suffix) {
    namespace fs = std::filesystem;
    const fs::path memory = "/dev/shm";
    const fs::path folder =
        ::access(memory.c_str(), W_OK) == 0 ? memory : fs::temp_directory_path();
    name_ = (folder / ("attn-fuzz-" + std::to_string(::getpid()) + suffix)).string();
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() { std::remove(name_.c_str()); }

  const std::string& name() const { return name_; }
  void write(const std::uint8_t* data, std::size_t size) const {
    std::remove(name_.c_str());
    const std::unique_ptr<std::FILE, decltype(&std::fclose)> file(std::fopen(name_.c_str(), "wb"),
                                                                  &std::fclose);
    if (!file || std::fwrite(data, 1, size, file.get()) != size)
      throw std::filesystem::filesystem_error("scratch file", name_,
                                              std::make_error_code(std::errc::io_error));
  }

 private:
  std::string name_;
};

}  // namespace attn::test
