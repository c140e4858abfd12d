// The files that attn_demo writes: what they replace, where they may lie, and what signals leave.
#include <attn/io.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "support/program.hpp"

using namespace attn;
using namespace attn::test;

namespace {

bool soon(const std::function<bool()>& happens) {
  using namespace std::chrono_literals;
  for (int n = 0; n < 2000; ++n) {
    if (happens()) return true;
    std::this_thread::sleep_for(5ms);
  }
  return false;
}

/// Starts attn_demo with the arguments, whose last output nobody reads, and returns its process.
pid_t started(const std::string& arguments) {
  const std::string command = fmt::format("exec '{}' {}", ATTN_DEMO_PATH, arguments);
  const pid_t child = fork();
  if (child == 0) {
    execl("/bin/sh", "sh", "-c", command.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  return child;
}

/// The status of the process after the signal.
int status_after(pid_t child, int signal) {
  kill(child, signal);
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

}  // namespace

TEST_CASE(
    "signals that end the program leave no temporary file, and earlier outputs as they were") {
  const Sample sample;
  sample.folder.write("out.npy", "old");
  REQUIRE(mkfifo((sample.folder / "lse.npy").c_str(), 0600) == 0);
  const Names before = sample.folder.names();
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU, SIGUSR1, SIGALRM}) {
    CAPTURE(signal);
    // The first output is written, and the second waits for somebody to read it.
    const pid_t child = started("run " + sample.inputs + " --out " + sample.out + " --lse " +
                                sample.folder / "lse.npy --threads 2");
    REQUIRE(child > 0);
    CHECK(soon([&] { return sample.folder.names().size() > before.size(); }));
    const int status = status_after(child, signal);
    CHECK(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == signal);
    CHECK(sample.folder.names() == before);
    CHECK(bytes_of(sample.out) == "old");
  }
}

TEST_CASE("a signal that is ignored stays ignored") {
  const Sample sample;
  REQUIRE(mkfifo((sample.folder / "lse.npy").c_str(), 0600) == 0);
  const auto handler = std::signal(SIGHUP, SIG_IGN);
  const pid_t child = started(fmt::format("run {} --out {} --lse {}", sample.inputs, sample.out,
                                          sample.folder / "lse.npy"));
  std::signal(SIGHUP, handler);
  REQUIRE(child > 0);
  CHECK(soon([&] { return sample.folder.names().size() > sample.names.size() + 1; }));
  kill(child, SIGHUP);
  CHECK(bytes_of(sample.folder / "lse.npy").starts_with("\x93NUMPY"));  // reading lets it go on
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  CHECK(read_tensor(sample.out).shape() == Dims{2, 4, 3, 6});
}

TEST_CASE("outputs of every kind keep the permissions of what they replace") {
  const Sample sample;
  const std::string model = "--hidden 16 --layers 1 --heads 2 --prompt a --max-new 0 --quiet";
  const std::vector<std::pair<std::string, std::string>> commands = {
      {"out.npy", sample.run("")},
      {"o.safetensors",
       fmt::format("run {} --out {}", sample.inputs, sample.folder / "o.safetensors")},
      {"p.svg", "plot temperature --out " + sample.folder / "p.svg"},
      {"h.png", fmt::format("heatmap --q {} --k {} --out {}", sample.folder / "q.npy",
                            sample.folder / "k.npy", sample.folder / "h.png")},
      {"l.npy", fmt::format("generate {} --logits {} >/dev/null", model, sample.folder / "l.npy")},
      {"s.npy", fmt::format("op softmax --input {} --out {}", sample.folder / "q.npy",
                            sample.folder / "s.npy")}};
  for (const auto& output : commands) {
    const auto& name = output.first;
    CAPTURE(name);
    const std::string file = sample.folder.write(name, "old");
    fs::permissions(file, static_cast<fs::perms>(0600));
    check_done(output.second);
    CHECK(fs::status(file).permissions() == static_cast<fs::perms>(0600));
    CHECK(bytes_of(file) != "old");
  }
}

TEST_CASE("devices, FIFOs and standard output take every kind of output") {
  const Sample sample;
  const auto piped = [&](const std::string& arguments) {
    return shell("", "sh", fmt::format("-c '{} {} | cat'", ATTN_DEMO_PATH, arguments)).out;
  };
  check_done(sample.run("--lse /dev/null"));
  const std::string expected = bytes_of(sample.out);
  const std::string run = "run " + sample.inputs + " --out /dev/stdout";
  CHECK(piped(run) == expected);
  CHECK(attn_demo(run).out == expected);  // a file
  CHECK(piped("plot temperature --out /dev/stdout") ==
        bytes_of(std::string(ATTN_DATA_PATH) + "/softmax_temperature.svg"));
  check_refused_with(attn_demo("run " + sample.inputs + " --out /dev/full"), "No space left");
  check_refused_with(attn_demo("plot temperature --out /dev/full"), "No space left");
  check_refused_with(attn_demo(run + " --dtype bf16"), "--out is \"/dev/stdout\"");
}

TEST_CASE("a file that may not grow is an error, and no signal") {
  const Sample sample;
  const std::string large = sample.file("large.npy", random_tensor({1200, 1, 2, 512}, 6).view());
  sample.folder.write("out.npy", "old");
  const Names before = sample.folder.names();
  check_refused_with(shell("ulimit -f 4096;", ATTN_DEMO_PATH,
                           fmt::format("run --q {0} --k {0} --v {0} --out {1}", large, sample.out)),
                     "out.npy: cannot be written: File too large");
  CHECK(sample.folder.names() == before);
  CHECK(bytes_of(sample.out) == "old");
}
