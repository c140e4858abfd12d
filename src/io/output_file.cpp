#include "io/output_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <string_view>
#include <system_error>
#include <utility>

#include "io/message.hpp"

namespace fs = std::filesystem;

namespace attn::io {
namespace {

constexpr mode_t owner_alone = S_IRUSR | S_IWUSR;
constexpr mode_t as_umask_says = 0666;

[[noreturn]] void fail_to_write(const std::string& name, const std::string& why) {
  fail(name, fmt::format("cannot be written: {}", why));
}

/// The descriptor that a name such as /dev/stdout or /dev/fd/3 stands for.
std::optional<int> descriptor_of(std::string_view name) {
  if (name == "/dev/stdout") return STDOUT_FILENO;
  if (name == "/dev/stderr") return STDERR_FILENO;
  for (const std::string_view folder : {"/dev/fd/", "/proc/self/fd/"}) {
    if (!name.starts_with(folder)) continue;
    const std::string_view number = name.substr(folder.size());
    int descriptor = 0;
    const auto [end, error] =
        std::from_chars(number.data(), number.data() + number.size(), descriptor);
    if (error == std::errc() && end == number.data() + number.size()) return descriptor;
  }
  return std::nullopt;
}

/// Follows links, also to a file that does not exist. Throws filesystem_error.
fs::path followed(fs::path path) {
  constexpr int max_links = 40;
  for (int n = 0; n < max_links; ++n) {
    path = fs::weakly_canonical(fs::absolute(path));
    if (!fs::is_symlink(path)) return path;
    path = path.parent_path() / fs::read_symlink(path);
  }
  throw fs::filesystem_error("links", path,
                             std::make_error_code(std::errc::too_many_symbolic_link_levels));
}

/// Gives a new file the permissions of the one that it will replace, and its owner and group where
/// the system allows that. If the group is another, it may do no more than all others might.
bool take_over_attributes(int descriptor, const fs::path& replaced) {
  struct stat old {};
  struct stat now {};
  if (stat(replaced.c_str(), &old) != 0) return true;
  if (fstat(descriptor, &now) != 0) return false;
  constexpr mode_t permissions = S_IRWXU | S_IRWXG | S_IRWXO;
  mode_t mode = old.st_mode & permissions;
  constexpr mode_t group_and_others_alike = 010;
  const bool same = old.st_uid == now.st_uid && old.st_gid == now.st_gid;
  if (!same && fchown(descriptor, old.st_uid, old.st_gid) != 0 &&
      fchown(descriptor, static_cast<uid_t>(-1), old.st_gid) != 0)
    mode &= ~mode_t{S_IRWXG} | (mode & S_IRWXO) * group_and_others_alike;
  return mode == (now.st_mode & permissions) || fchmod(descriptor, mode) == 0;
}

}  // namespace

bool is_special(const fs::path& path) {
  std::error_code ignored;
  const fs::file_status status = fs::status(path, ignored);
  return descriptor_of(path.string()) ||
         (fs::exists(status) && !fs::is_regular_file(status) && !fs::is_directory(status));
}

fs::path place_of(const fs::path& path) try {
  return is_special(path) ? fs::absolute(path) : followed(path);
} catch (const fs::filesystem_error& error) {
  fail_to_write(path.string(), error.code().message());
}

OutputFile::OutputFile(const fs::path& path)
    : name_(path.string()), target_(place_of(path)), special_(is_special(path)) {
  check();
}

void OutputFile::check() const {
  if (special_) {
    if (!descriptor_of(name_) && faccessat(AT_FDCWD, name_.c_str(), W_OK, AT_EACCESS) != 0)
      fail_by_errno();
    return;
  }
  if (fs::is_directory(target_)) fail_to_write(name_, "it is a directory");
  // Renaming needs no right to write the file that is replaced, so this asks for it.
  const bool replaces = fs::exists(target_);
  if (replaces) {
    const int descriptor = ::open(target_.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor == -1) fail_by_errno();
    ::close(descriptor);
  }
  const TemporaryName probe(target_.parent_path());
  const int descriptor =
      ::open(probe.path().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, owner_alone);
  if (descriptor == -1 && replaces)
    fail_to_write(name_, fmt::format("its folder admits no new file: {}", errno_message()));
  if (descriptor == -1) fail_by_errno();
  ::close(descriptor);
}

void OutputFile::fail_by_errno() const { fail_to_write(name_, errno_message()); }

int OutputFile::open_special() const {
  if (const std::optional<int> descriptor = descriptor_of(name_))
    return fcntl(*descriptor, F_DUPFD_CLOEXEC, 0);
  return ::open(name_.c_str(), O_WRONLY | O_CLOEXEC);
}

/// A file that replaces another is open to nobody else until it has that one's permissions.
int OutputFile::open_temporary() {
  temporary_.emplace(target_.parent_path());
  return ::open(temporary_->path().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                fs::exists(target_) ? owner_alone : as_umask_says);
}

void OutputFile::open() {
  complete_ = false;
  const int descriptor = special_ ? open_special() : open_temporary();
  if (descriptor == -1) fail_by_errno();
  handle_.reset(fdopen(descriptor, "wb"));
  if (handle_) return;
  ::close(descriptor);
  fail_by_errno();
}

void OutputFile::write(const void* from, std::size_t count) {
  if (std::fwrite(from, 1, count, handle_.get()) != count) fail_by_errno();
}

void OutputFile::write(const TensorView& tensor) {
  if (tensor.size() == 0) return;
  // Booleans are always copied: in memory any byte but 0 is true, in a file only 1 is.
  if (tensor.data != nullptr && tensor.dtype != DType::boolean &&
      tensor.strides == dense_strides(tensor.shape)) {
    return write(tensor.data, static_cast<std::size_t>(tensor.size()) * size_of(tensor.dtype));
  }
  const Tensor dense = copy_as(tensor, tensor.dtype);
  write(dense.data(), dense.size_in_bytes());
}

void OutputFile::close() {
  if (!special_ && !take_over_attributes(fileno(handle_.get()), target_)) fail_by_errno();
  if (std::fclose(handle_.release()) != 0) fail_by_errno();
  complete_ = true;
}

void OutputFile::commit(bool undoable) {
  if (special_) return;
  if (undoable) {
    replaced_.emplace(target_.parent_path());
    if (link(target_.c_str(), replaced_->path().c_str()) != 0) replaced_.reset();
  }
  if (std::rename(temporary_->path().c_str(), target_.c_str()) != 0) fail_by_errno();
}

void OutputFile::undo() noexcept {
  if (special_) return;
  if (replaced_)
    std::rename(replaced_->path().c_str(), target_.c_str());
  else
    unlink(target_.c_str());
}

}  // namespace attn::io
