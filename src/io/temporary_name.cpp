#include "io/temporary_name.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>

namespace attn::io {
namespace {

/// A place on the list. Whoever moves it out of `listed` or `removed` owns it, so that a signal
/// handler never reads a name that is being replaced.
struct Place {
  enum State : int { empty, filling, listed, removing, removed };
  std::atomic<int> state;
  std::array<char, 4096> path;

  bool move(State from, State to) noexcept {
    int expected = from;
    return state.compare_exchange_strong(expected, to);
  }
};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler can use nothing else");

/// The list is static memory, because a signal handler can follow no container. Names beyond it are
/// not listed, and a signal leaves their files behind.
constexpr int max_listed = 64;
constexpr int not_listed = -1;
constinit std::array<Place, max_listed> places{};

int put_on_list(const std::string& path) noexcept {
  if (path.size() >= places[0].path.size()) return not_listed;
  for (std::size_t n = 0; n < places.size(); ++n) {
    if (!places[n].move(Place::empty, Place::filling)) continue;
    std::memcpy(places[n].path.data(), path.c_str(), path.size() + 1);
    places[n].state = Place::listed;
    return static_cast<int>(n);
  }
  return not_listed;
}

/// A place that a handler is just reading stays taken.
void take_from_list(int n) noexcept {
  if (n == not_listed) return;
  Place& place = places[static_cast<std::size_t>(n)];
  if (!place.move(Place::listed, Place::empty)) place.move(Place::removed, Place::empty);
}

std::string random_name() {
  std::random_device random;
  return fmt::format(".attn-{:08x}{:08x}.tmp", random(), random());
}

}  // namespace

TemporaryName::TemporaryName(const std::filesystem::path& folder)
    : path_((folder / random_name()).string()), place_(put_on_list(path_)) {}

TemporaryName::~TemporaryName() {
  unlink(path_.c_str());
  take_from_list(place_);
}

void remove_listed_files() noexcept {
  const int before = errno;
  for (Place& place : places) {
    if (!place.move(Place::listed, Place::removing)) continue;
    unlink(place.path.data());
    place.state = Place::removed;
  }
  errno = before;
}

}  // namespace attn::io
