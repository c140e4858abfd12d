// Files for tests: a temporary folder, bytes as other programs write them, and checks that reading
// is refused.
#pragma once

#include <attn/error.hpp>
#include <attn/io.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "support/check_fails.hpp"

namespace attn::test {

namespace fs = std::filesystem;

/// A temporary folder, which the destructor removes.
class Folder {
 public:
  Folder() {
    std::random_device random;
    do path_ = fs::temp_directory_path() / ("attn-test-" + std::to_string(random()));
    while (!fs::create_directory(path_));
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string write(const std::string& name, const std::string& bytes) const {
    fs::remove(path_ / name);  // ext4 waits for the disk when a file is overwritten
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return *this / name;
  }
  /// The names of all files in it, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(path_))
      found.push_back(entry.path().filename().string());
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  fs::path path_;
};

using Names = std::vector<std::string>;

inline std::string bytes_of(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline std::string little_endian(std::uint64_t value, int bytes) {
  std::string result;
  for (int n = 0; n < bytes; ++n) result.push_back(static_cast<char>(value >> (8 * n) & 0xff));
  return result;
}

template <class T>
inline std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

inline std::string npy(const std::string& header, const std::string& data, int major = 1) {
  return std::string("\x93NUMPY") + static_cast<char>(major) + '\0' +
         little_endian(header.size(), major == 1 ? 2 : 4) + header + data;
}

/// The bytes that NumPy writes for `descr` and `shape`, both in Python's syntax.
inline std::string numpy_header(const std::string& descr, const std::string& shape,
                                bool fortran_order = false) {
  return "{'descr': '" + descr + "', 'fortran_order': " + (fortran_order ? "True" : "False") +
         ", 'shape': " + shape + ", }  \n";
}

inline std::string safetensors(const std::string& header, const std::string& data) {
  return little_endian(header.size(), 8) + header + data;
}

/// A safetensors header of these entries, joined by commas.
inline std::string table(const std::string& entries) {
  std::string header = "{";
  header += entries;
  return header += "}";
}

inline std::string entry(const std::string& name, const std::string& dtype,
                         const std::string& shape, int begin, int end) {
  return '"' + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":[)" +
         std::to_string(begin) + ',' + std::to_string(end) + "]}";
}

/// Checks that reading is refused, and that the line names the file and the fault.
inline void check_refused(const std::string& tensor, const std::string& fault) {
  CAPTURE(tensor);
  const std::string message = refusal([&] { read_tensor(tensor); });
  const std::string file =
      fs::path(tensor.substr(0, tensor.find(".safetensors:"))).filename().string();
  CAPTURE(message);
  CAPTURE(fault);
  CHECK(message.find(file) != std::string::npos);
  CHECK(message.find(fault) != std::string::npos);
}

inline bool equal(const Tensor& a, const TensorView& other) {
  if (a.dtype() != other.dtype || a.shape() != other.shape) return false;
  const Tensor b = copy_as(other, other.dtype);
  return std::memcmp(a.data(), b.data(), a.size_in_bytes()) == 0;
}

/// Element n is n; booleans alternate.
inline Tensor counted(DType dtype, const Dims& shape) {
  Tensor numbers(DType::i64, shape);
  std::iota(numbers.data<std::int64_t>(), numbers.data<std::int64_t>() + numbers.size(), 0);
  if (dtype == DType::boolean) {
    for (std::int64_t n = 0; n < numbers.size(); ++n) numbers.data<std::int64_t>()[n] %= 2;
  }
  return copy_as(numbers.view(), dtype);
}

}  // namespace attn::test
