#include "threads/pool.hpp"

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif
#include <csignal>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "threads/processors.hpp"
#include "threads/region.hpp"
#include "threads/wait.hpp"

namespace attn::detail {
namespace {

/// A number in a region that is offered to a worker, as it lies in the worker's mailbox.
struct Offer {
  int region;
  Region::Generation generation;
  int thread;

  static constexpr std::uint64_t idle = 0, busy = 1, offered = 2, state_mask = 3;
  static constexpr int thread_shift = 2, region_shift = 13, generation_shift = 19;
  static_assert(max_num_threads <= 1 << (region_shift - thread_shift));
  static_assert(Region::number <= 1 << (generation_shift - region_shift));
  static_assert(generation_shift + Region::generation_bits <= 64);

  static bool is_in(std::uint64_t mail) noexcept { return (mail & state_mask) == offered; }
  static Offer from(std::uint64_t mail) noexcept {
    constexpr std::uint64_t thread_mask = (1 << (region_shift - thread_shift)) - 1;
    constexpr std::uint64_t region_mask = (1 << (generation_shift - region_shift)) - 1;
    return {static_cast<int>(mail >> region_shift & region_mask), mail >> generation_shift,
            static_cast<int>(mail >> thread_shift & thread_mask)};
  }
  std::uint64_t mail() const noexcept {
    return generation << generation_shift | static_cast<std::uint64_t>(region) << region_shift |
           static_cast<std::uint64_t>(thread) << thread_shift | offered;
  }
  bool expired() const noexcept { return !Region::at(region).is_open(generation); }
};

/// What the pool keeps for each region that is open.
struct Call {
  ProcessorSet processors;  // of the caller
  // Workers that were asleep when they got their offers. Each is woken once.
  std::atomic<int> sleepers{0}, next_sleeper{0};
  std::array<std::atomic<std::uint16_t>, max_num_threads> asleep;
};

struct alignas(64) Worker {
  Worker(int number, std::uint64_t first_mail) : index(number), mail(first_mail) {}

  const int index;
  std::atomic<std::uint64_t> mail;
  std::atomic<bool> asleep{false};
  std::atomic<std::uint32_t> wakes{0};  // what it sleeps on
  std::atomic<bool> ended{false};
  bool spins = false;  // a thread that shares its processor with others does not; its own
  std::thread thread;

  void wake() noexcept {
    wakes.fetch_add(1);
    wakes.notify_one();
  }
};

/// While it exists, the calling thread blocks all signals, and so do threads that it starts. The
/// program's handlers run on the program's threads.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

thread_local bool is_worker = false;

class Pool final : public Executor {
 public:
  void offer(int num_threads, const Task& task) override {
    if (ending_) return;
    Region& region = Region::region_of(task);
    Call& call = calls_[static_cast<std::size_t>(region.index())];
    call.processors = ProcessorSet::of_this_thread();
    call.sleepers = 0;
    call.next_sleeper = 0;
    Offer offer{region.index(), Region::generation_of(task), 1};
    const int sleepers = offer_to_workers(num_threads, offer, call);
    if (offer.thread <= num_threads) start_workers(num_threads, offer);
    call.sleepers = sleepers;
    wake_sleepers(call);
  }

  /// Ends the workers. One that is held up, by a call that the end of the process has interrupted,
  /// is left behind.
  void end() noexcept {
    constexpr auto longest = std::chrono::seconds(1);
    const std::lock_guard lock(growing_);
    ending_ = true;
    const int count = size_;
    for (int n = 0; n < count; ++n) worker(n).wake();
    const auto deadline = std::chrono::steady_clock::now() + longest;
    for (int n = 0; n < count; ++n) {
      Worker& each = worker(n);
      while (!each.ended && !is_worker && std::chrono::steady_clock::now() < deadline)
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      if (each.ended)
        each.thread.join();
      else
        each.thread.detach();
    }
  }

 private:
  Worker& worker(int index) noexcept { return *workers_[static_cast<std::size_t>(index)]; }

  /// Offers numbers from offer.thread to num_threads to workers that are free. Returns how many of
  /// these were asleep; offer.thread is the first number that nobody has got.
  int offer_to_workers(int num_threads, Offer& offer, Call& call) noexcept {
    int sleepers = 0;
    const int count = size_.load(std::memory_order_acquire);
    for (int n = 0; n < count && offer.thread <= num_threads; ++n) {
      Worker& each = worker(n);
      std::uint64_t mail = each.mail.load(std::memory_order_relaxed);
      const bool free = mail == Offer::idle || (Offer::is_in(mail) && Offer::from(mail).expired());
      if (!free || !each.mail.compare_exchange_strong(mail, offer.mail())) continue;
      ++offer.thread;
      if (each.asleep)
        call.asleep[static_cast<std::size_t>(sleepers++)].store(static_cast<std::uint16_t>(n),
                                                                std::memory_order_relaxed);
    }
    return sleepers;
  }

  /// Starts workers for the numbers that nobody has got, unless another caller is doing so, or the
  /// system has once refused to.
  void start_workers(int num_threads, Offer& offer) noexcept {
    const std::unique_lock lock(growing_, std::try_to_lock);
    if (!lock || ending_ || refused_) return;
    const int most =
        std::min(max_num_threads - 1, std::max(num_threads, available_processors() - 1));
    const SignalsBlocked blocked;
    for (int count = size_; count < most && offer.thread <= num_threads; ++offer.thread) {
      try {
        auto started = std::make_unique<Worker>(count, offer.mail());
        started->thread = std::thread([this, own = started.get()] { work(*own); });
        workers_[static_cast<std::size_t>(count)] = started.release();
        size_.store(++count, std::memory_order_release);
      } catch (...) {
        refused_ = true;
        return;
      }
    }
  }

  void wake_sleepers(Call& call) noexcept {
    constexpr int at_once = 2;
    for (int n = 0; n < at_once; ++n) {
      const int sleepers = call.sleepers.load(std::memory_order_acquire);
      if (call.next_sleeper.load(std::memory_order_relaxed) >= sleepers) return;
      const int next = call.next_sleeper.fetch_add(1, std::memory_order_relaxed);
      if (next >= sleepers) return;
      worker(call.asleep[static_cast<std::size_t>(next)].load(std::memory_order_relaxed)).wake();
    }
  }

  void work(Worker& self) noexcept {
    is_worker = true;
#if defined(__linux__)
    pthread_setname_np(pthread_self(), ("attn-" + std::to_string(self.index + 1)).c_str());
#endif
    ProcessorSet processors = ProcessorSet::of_this_thread();
    self.spins = has_own_processor(self);
    while (const std::uint64_t mail = wait_for_mail(self)) {
      std::uint64_t expected = mail;
      if (!self.mail.compare_exchange_strong(expected, Offer::busy)) continue;
      take(Offer::from(mail), self, processors);
      self.mail.store(Offer::idle);
    }
    self.ended = true;
  }

  static bool has_own_processor(const Worker& self) noexcept {
    return self.index + 1 < available_processors();
  }

  void take(const Offer& offer, Worker& self, ProcessorSet& processors) noexcept {
    Region& region = Region::at(offer.region);
    if (!region.enter(offer.generation)) return;
    Call& call = calls_[static_cast<std::size_t>(offer.region)];
    wake_sleepers(call);
    if (processors.move_to(call.processors)) self.spins = has_own_processor(self);
    region.run(offer.thread);
    region.leave();
  }

  /// An offer, or idle at the end of the pool.
  std::uint64_t wait_for_mail(Worker& self) const noexcept {
    constexpr std::chrono::microseconds spin_time(100);
    std::uint64_t mail = Offer::idle;
    const auto woken = [&] {
      mail = self.mail;
      return Offer::is_in(mail) || ending_;
    };
    if (woken() || (self.spins && spin_until(spin_time, woken))) return mail;
    while (true) {
      const std::uint32_t wakes = self.wakes;
      self.asleep = true;
      if (woken()) break;
      self.wakes.wait(wakes);
    }
    self.asleep = false;
    return mail;
  }

  std::array<Call, Region::number> calls_;
  std::array<Worker*, max_num_threads> workers_{};  // of which the first size_ never change
  std::atomic<int> size_{0};
  std::atomic<bool> ending_{false};
  std::mutex growing_;
  bool refused_ = false;
};

// The pool of this process. It is never freed, since tasks and threads may outlive everything.
std::atomic<Pool*> current{nullptr};

void forget_in_child() { current = nullptr; }
[[maybe_unused]] const int fork_is_watched = pthread_atfork(nullptr, nullptr, forget_in_child);

struct AtExit {
  ~AtExit() {
    if (Pool* const pool = current) pool->end();
  }
};

}  // namespace

Executor& thread_pool() {
  Pool* pool = current.load(std::memory_order_acquire);
  if (pool == nullptr) {
    auto made = std::make_unique<Pool>();
    if (current.compare_exchange_strong(pool, made.get())) {
      static const AtExit ends_it;
      pool = made.release();
    }
  }
  return *pool;
}

}  // namespace attn::detail
