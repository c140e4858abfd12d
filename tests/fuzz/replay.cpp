// Runs each file of a corpus once through LLVMFuzzerTestOneInput, for builds without libFuzzer:
//   fuzz_NAME FILE_OR_FOLDER...
// A crash, or a report of a sanitizer, fails the run; the input's name is the last line before it.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fs = std::filesystem;

namespace {

std::vector<fs::path> files_of(const fs::path& place) {
  if (!fs::is_directory(place)) return {place};
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(place)) files.push_back(entry);
  std::sort(files.begin(), files.end());
  return files;
}

bool run(const fs::path& path) {
  std::printf("%s\n", path.c_str());
  std::fflush(stdout);
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) return false;
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  int inputs = 0;
  for (const fs::path& place : std::vector<fs::path>(arguments + 1, arguments + count)) {
    for (const fs::path& file : files_of(place)) {
      if (!run(file)) {
        std::fprintf(stderr, "%s cannot be read\n", file.c_str());
        return 2;
      }
      ++inputs;
    }
  }
  std::printf("%d inputs\n", inputs);
  return inputs > 0 ? 0 : 2;
}
