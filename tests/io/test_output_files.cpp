// Outputs appear whole or not at all, keep the permissions of what they replace, and follow links.
#include <attn/error.hpp>
#include <attn/io.hpp>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "support/files.hpp"

using namespace attn;
using namespace attn::test;

TEST_CASE("outputs appear together, at commit") {
  const Folder folder;
  const Tensor tensor = counted(DType::f32, {2, 2});
  folder.write("a.npy", "old");
  OutputFiles files;
  files.add(folder / "a.npy");
  files.add(folder / "b.safetensors");
  files.write(folder / "a.npy", tensor.view());
  files.write(folder / "b.safetensors", tensor.view(), "weights");
  CHECK(bytes_of(folder / "a.npy") == "old");
  CHECK_FALSE(fs::exists(folder / "b.safetensors"));
  files.commit();
  CHECK(folder.names() == Names{"a.npy", "b.safetensors"});
  CHECK(equal(read_tensor(folder / "a.npy"), tensor.view()));
  CHECK(equal(read_tensor(folder / "b.safetensors:weights"), tensor.view()));
}

TEST_CASE("a tensor in parts is the same file as at once") {
  const Folder folder;
  const Tensor tensor = counted(DType::f32, {3, 4, 5});
  for (const std::string name : {"a.npy", "a.safetensors"}) {
    write_tensor(folder / name, tensor.view());
    OutputFiles files;
    files.add(folder / ("parts_" + name));
    std::int64_t row = 0;
    files.write(folder / ("parts_" + name), DType::f32, tensor.shape(), [&] {
      ++row;
      return tensor.view().sliced(0, row - 1, row);
    });
    files.commit();
    CHECK(bytes_of(folder / ("parts_" + name)) == bytes_of(folder / name));
  }
  OutputFiles files;
  files.add(folder / "b.npy");
  const Tensor other = counted(DType::f16, {3, 4, 5});
  CHECK(refusal(
            [&] {
              files.write(folder / "b.npy", DType::f32, tensor.shape(),
                          [&] { return other.view(); });
            },
            ErrorCode::invalid_argument)
            .find("part has type f16") != std::string::npos);
  CHECK(refusal(
            [&] {
              files.write(folder / "b.npy", DType::f32, Dims{2}, [&] { return tensor.view(); });
            },
            ErrorCode::invalid_argument)
            .find("elements that are left") != std::string::npos);
  files.write(folder / "b.npy", DType::f32, Dims{0, 3}, [&] { return tensor.view(); });
  files.commit();
  CHECK(read_tensor(folder / "b.npy").shape() == Dims{0, 3});
}

TEST_CASE("what was not committed leaves nothing behind") {
  const Folder folder;
  folder.write("a.npy", "old");
  {
    OutputFiles files;
    files.add(folder / "a.npy");
    files.add(folder / "b.npy");
    files.write(folder / "a.npy", counted(DType::f32, {2}).view());
    CHECK(folder.names().size() == 2);  // one is written, and none before that
    CHECK(refusal([&] {
            files.commit();
          }).find("b.npy: was added to the outputs, but not written") != std::string::npos);
  }
  CHECK(folder.names() == Names{"a.npy"});
  CHECK(bytes_of(folder / "a.npy") == "old");
}

TEST_CASE("a commit that fails midway puts back what was there") {
  const Folder folder;
  folder.write("a.npy", "old");
  const Tensor tensor = counted(DType::f32, {2});
  {
    OutputFiles files;
    for (const char* name : {"0.npy", "a.npy", "b.npy", "c.npy"}) {
      files.add(folder / name);
      files.write(folder / name, tensor.view());
    }
    fs::create_directories(folder / "b.npy/in the way");
    CHECK(refusal([&] { files.commit(); }).find("b.npy") != std::string::npos);
  }
  CHECK(folder.names() == Names{"a.npy", "b.npy"});
  CHECK(bytes_of(folder / "a.npy") == "old");
}

TEST_CASE("outputs that cannot be are refused when they are added") {
  const Folder folder;
  fs::create_directory(folder / "d.npy");
  fs::create_symlink(".", folder / "link");
  OutputFiles files;
  const auto refused = [&](const std::string& file, const std::string& fault) {
    CAPTURE(file);
    const std::string message = refusal([&] { files.add(file); });
    CAPTURE(message);
    CHECK(message.find(fault) != std::string::npos);
  };
  refused(folder / "d.npy", "it is a directory");
  fs::create_symlink("loop.npy", folder / "loop.npy");
  refused(folder / "loop.npy", "Too many levels of symbolic links");
  refused(folder / "missing/x.npy", "cannot be written: No such file");
  refused(folder / "x.txt", "ends in .npy or .safetensors");
  refused(folder / "x", "ends in .npy or .safetensors");
  refused(folder / (std::string(300, 'x') + ".npy"), "File name too long");
  refused("", "ends in .npy or .safetensors");
  files.add(folder / "x.npy");
  refused(folder / "x.npy", "twice");
  refused(folder / "./d.npy/../x.npy", "twice");
  refused(folder / "link/x.npy", "twice");
  CHECK(refusal([&] {
          files.write(folder / "y.npy", counted(DType::f32, {2}).view());
        }).find("was not added") != std::string::npos);
  files.write(folder / "link/x.npy", counted(DType::f32, {2}).view());
  files.commit();
  CHECK(folder.names() == Names{"d.npy", "link", "loop.npy", "x.npy"});
}

TEST_CASE("a file that is replaced gives its permissions to the new one") {
  const Folder folder;
  const Tensor tensor = counted(DType::f32, {2});
  const auto mode_of = [&](const std::string& name) {
    return static_cast<unsigned>(fs::status(folder / name).permissions());
  };
  const mode_t umask_before = umask(022);
  for (const char* name : {"x.npy", "x.safetensors"}) {
    CAPTURE(name);
    write_tensor(folder / name, tensor.view());
    CHECK(mode_of(name) == 0644);
    for (const unsigned mode : {0600u, 0640u, 0666u, 0777u, 0200u}) {
      CAPTURE(mode);
      fs::permissions(folder / name, static_cast<fs::perms>(mode));
      OutputFiles files;
      files.add(folder / name);
      files.write(folder / name, tensor.view());
      for (const std::string& each : folder.names())
        CHECK((mode_of(each) & ~mode) == 0);  // the temporary file is no more open
      files.commit();
      CHECK(mode_of(name) == mode);
    }
    fs::remove(folder / name);
  }
  write_bytes(folder / "text", "old");
  fs::permissions(folder / "text", static_cast<fs::perms>(0604));
  write_bytes(folder / "text", "new");
  CHECK(mode_of("text") == 0604);
  CHECK(bytes_of(folder / "text") == "new");
  umask(umask_before);
}

TEST_CASE("a file that may not be written is not replaced") {
  const Folder folder;
  folder.write("x.npy", "old");
  fs::permissions(folder / "x.npy", static_cast<fs::perms>(0444));
  const bool writable = access((folder / "x.npy").c_str(), W_OK) == 0;  // to root it is
  const std::string message =
      refusal([&] { write_tensor(folder / "x.npy", counted(DType::f32, {2}).view()); });
  CHECK((message.find("x.npy: cannot be written: Permission denied") == std::string::npos) ==
        writable);
  CHECK((bytes_of(folder / "x.npy") == "old") == !writable);
  CHECK(fs::status(folder / "x.npy").permissions() == static_cast<fs::perms>(0444));
  CHECK(folder.names() == Names{"x.npy"});
}

TEST_CASE("root leaves a file to its owner") {
  const Folder folder;
  folder.write("x.npy", "old");
  constexpr uid_t user = 12345;
  constexpr gid_t group = 23456;
  if (chown((folder / "x.npy").c_str(), user, group) != 0) return;  // only root may give files away
  write_tensor(folder / "x.npy", counted(DType::f32, {2}).view());
  struct stat status {};
  REQUIRE(stat((folder / "x.npy").c_str(), &status) == 0);
  CHECK(status.st_uid == user);
  CHECK(status.st_gid == group);
}

TEST_CASE("other names of a file that is replaced keep what it was") {
  const Folder folder;
  folder.write("x.npy", "old");
  fs::create_hard_link(folder / "x.npy", folder / "other");
  write_tensor(folder / "x.npy", counted(DType::f32, {2}).view());
  CHECK(bytes_of(folder / "other") == "old");
  CHECK(equal(read_tensor(folder / "x.npy"), counted(DType::f32, {2}).view()));
}

TEST_CASE("a link to a file that does not exist yet stays, and leads to the output") {
  const Folder folder;
  fs::create_directory(folder / "d");
  fs::create_symlink("real.npy", folder / "d/second.npy");
  fs::create_symlink(folder / "d/second.npy", folder / "x.npy");
  write_tensor(folder / "x.npy", counted(DType::f32, {2}).view());
  CHECK(folder.names() == Names{"d", "x.npy"});
  CHECK(fs::is_symlink(folder / "x.npy"));
  CHECK(fs::is_symlink(folder / "d/second.npy"));
  CHECK(equal(read_tensor(folder / "d/real.npy"), counted(DType::f32, {2}).view()));
}

TEST_CASE("FIFOs, devices and descriptors are written as they are") {
  const Folder folder;
  const Tensor tensor = counted(DType::f32, {2});
  write_tensor(folder / "x.npy", tensor.view());
  const std::string expected = bytes_of(folder / "x.npy");
  REQUIRE(mkfifo((folder / "fifo").c_str(), 0600) == 0);
  std::string received;
  std::thread reader([&] { received = bytes_of(folder / "fifo"); });
  write_tensor(folder / "fifo", tensor.view());
  reader.join();
  CHECK(received == expected);
  CHECK(fs::is_fifo(folder / "fifo"));

  fs::create_symlink("/dev/null", folder / "null.npy");
  write_tensor(folder / "null.npy", tensor.view());
  write_tensor("/dev/null", tensor.view());
  write_bytes("/dev/null", "text");
  CHECK(fs::is_symlink(folder / "null.npy"));
  CHECK(fs::is_character_file("/dev/null"));
  CHECK(refusal([&] { write_tensor("/dev/full", tensor.view()); }) ==
        "/dev/full: cannot be written: No space left on device");

  // What stands in a file before the place of a descriptor is not lost.
  const int descriptor = open((folder / "log").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  REQUIRE(write(descriptor, "before", 6) == 6);
  write_tensor(fmt::format("/dev/fd/{}", descriptor), tensor.view());
  close(descriptor);
  CHECK(bytes_of(folder / "log") == "before" + expected);
  CHECK(folder.names() == Names{"fifo", "log", "null.npy", "x.npy"});
}

TEST_CASE("unfinished outputs are removed on demand") {
  const Folder folder;
  folder.write("a.npy", "old");
  OutputFiles files;
  for (const char* name : {"a.npy", "b.npy"}) {
    files.add(folder / name);
    files.write(folder / name, counted(DType::f32, {2}).view());
  }
  CHECK(folder.names().size() == 3);
  remove_unfinished_outputs();
  CHECK(folder.names() == Names{"a.npy"});
  CHECK(refusal([&] { files.commit(); }).find("a.npy: cannot be written") != std::string::npos);
  CHECK(folder.names() == Names{"a.npy"});
  CHECK(bytes_of(folder / "a.npy") == "old");
  // The list has room again, and more files than it holds are written too.
  OutputFiles many;
  for (int n = 0; n < 70; ++n) {
    const std::string name = folder / fmt::format("{}.npy", n);
    many.add(name);
    many.write(name, counted(DType::f32, {2}).view());
  }
  many.commit();
  CHECK(folder.names().size() == 71);
}

TEST_CASE("a linked output is written where the link points") {
  const Folder folder;
  folder.write("real", "old");
  fs::create_symlink("real", folder / "x.npy");
  write_tensor(folder / "x.npy", counted(DType::i64, {2}).view());
  CHECK(fs::is_symlink(folder / "x.npy"));
  CHECK_FALSE(fs::is_symlink(folder / "real"));
  CHECK(equal(read_tensor(folder / "x.npy"), counted(DType::i64, {2}).view()));
}

TEST_CASE("tensors that do not fit a format leave nothing behind") {
  const Folder folder;
  const Tensor tensor = counted(DType::bf16, {2});
  CHECK(refusal([&] {
          write_tensor(folder / "x.npy", tensor.view());
        }).find("write to .safetensors instead") != std::string::npos);
  CHECK(refusal([&] { write_safetensors(folder / "x.npy", {}); }).find("x.npy") !=
        std::string::npos);
  CHECK_THROWS_AS(write_tensor(folder / "x.safetensors", tensor.view(), "__metadata__"), Error);
  CHECK_THROWS_AS(write_tensor(folder / "x.safetensors", tensor.view(), "\xff"), Error);
  CHECK_THROWS_AS(write_tensor(folder / "x.safetensors", TensorView()), Error);
  const std::vector<NamedTensor> twins{{"a", tensor.view()}, {"a", tensor.view()}};
  CHECK_THROWS_AS(write_safetensors(folder / "x.safetensors", twins), Error);
  CHECK(folder.names().empty());
}

TEST_CASE("a full disk leaves nothing behind") {
  const Folder folder;
  const Tensor tensor = counted(DType::f32, {1 << 20});
  const NamedTensor named{"a", tensor.view()};
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  // A test cannot fill a disk, but it can limit the size of files, here to 64 KiB.
  const rlimit small{1 << 16, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string as_npy = refusal([&] { write_tensor(folder / "x.npy", tensor.view()); });
  const std::string as_safetensors = refusal([&] {
    write_safetensors(folder / "x.safetensors", {&named, 1});
  });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(as_npy.find("x.npy: cannot be written: File too large") != std::string::npos);
  CHECK(as_safetensors.find("x.safetensors: cannot be written: File too large") !=
        std::string::npos);
  CHECK(folder.names().empty());
}
