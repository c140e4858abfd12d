// Feeds changed copies of sample files to LLVMFuzzerTestOneInput, for compilers that bring no
// libFuzzer:
//   fuzz_NAME SECONDS SEED FILE...          until the time is over
//   fuzz_NAME input NUMBER SEED FILE...     that one input again
// Whatever ends the program names the input.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "support/random.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
// Of the sanitizers, where there are any.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace {

using attn::test::Random;
using Bytes = std::string;

/// Longer than any input may take, sanitized and on a busy machine.
constexpr unsigned max_seconds_per_input = 30;
/// Headers are where files say what they are.
constexpr std::int64_t header_size = 2048;

volatile std::uint64_t current_seed = 0, current_number = 0;

void name_input() {
  std::fprintf(stderr, "\nfuzz: at input %llu of seed %llu\n",
               static_cast<unsigned long long>(current_number),
               static_cast<unsigned long long>(current_seed));
}

void die(int signal) {
  name_input();
  std::fprintf(stderr, "fuzz: ended by signal %d%s\n", signal,
               signal == SIGALRM ? ": it takes too long" : "");
  _exit(1);
}

std::size_t place_in(const Bytes& bytes, Random& random) {
  const auto size = static_cast<std::int64_t>(bytes.size());
  return static_cast<std::size_t>(
      random.integer(0, random.chance(0.8) ? std::min(size, header_size) : size));
}

Bytes part_of(const Bytes& bytes, Random& random) {
  return bytes.substr(place_in(bytes, random),
                      static_cast<std::size_t>(random.integer(0, random.chance(0.9) ? 40 : 4000)));
}

/// What formats treat in their own way.
Bytes word(Random& random) {
  return random.pick({"0",
                      "1",
                      "-1",
                      "9",
                      "2147483648",
                      "4294967296",
                      "9223372036854775807",
                      "18446744073709551615",
                      "1e999",
                      "0.5",
                      "\"",
                      "'",
                      "{",
                      "}",
                      "[",
                      "]",
                      "[[[[[[[[",
                      "(",
                      ")",
                      ",",
                      ":",
                      "null",
                      "true",
                      "false",
                      "\\",
                      "\\u0000",
                      "\\ud800",
                      "+",
                      "*",
                      "?",
                      "|",
                      "\\\\p{L}",
                      "(a+)+",
                      "{9}",
                      "(?=",
                      "\xff",
                      "\xc3\xa9",
                      "\xe2\x82",
                      "Sequence",
                      "ByteLevel",
                      "Removed",
                      "\n",
                      " "});
}

void change(Bytes& bytes, const std::vector<Bytes>& samples, Random& random) {
  const std::size_t place = place_in(bytes, random);
  const auto length = static_cast<std::size_t>(random.integer(1, random.chance(0.9) ? 8 : 1000));
  switch (random.integer(0, 7)) {
    case 0: bytes.insert(place, 1, static_cast<char>(random.bits())); break;
    case 1:
      if (place < bytes.size()) bytes[place] = static_cast<char>(random.bits());
      break;
    case 2:
      if (place < bytes.size())
        bytes[place] = static_cast<char>(bytes[place] ^ 1 << random.integer(0, 7));
      break;
    case 3: bytes.erase(place, length); break;
    case 4: bytes.insert(place, word(random)); break;
    case 5: bytes.replace(place, std::min(length, bytes.size() - place), word(random)); break;
    case 6: bytes.insert(place, part_of(bytes, random)); break;
    default:
      bytes.replace(place, std::min(length, bytes.size() - place),
                    part_of(samples[static_cast<std::size_t>(
                                random.integer(0, static_cast<std::int64_t>(samples.size()) - 1))],
                            random));
  }
}

Bytes make_input(std::uint64_t seed, std::uint64_t number, const std::vector<Bytes>& samples) {
  Random random(Random(seed).bits() ^ number);
  Bytes bytes = samples[number % samples.size()];
  if (random.chance(0.05)) bytes.resize(place_in(bytes, random));
  for (std::int64_t left = random.integer(1, random.chance(0.8) ? 3 : 20); left > 0; --left)
    change(bytes, samples, random);
  return bytes;
}

void run(std::uint64_t number, const std::vector<Bytes>& samples) {
  current_number = number;
  const Bytes input = make_input(current_seed, number, samples);
  alarm(max_seconds_per_input);
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

}  // namespace

int main(int count, char** arguments) {
  std::vector<std::string> words(arguments + 1, arguments + count);
  const bool one = !words.empty() && words[0] == "input";
  if (one) words.erase(words.begin());
  if (words.size() < 3) {
    std::fprintf(stderr, "fuzz: SECONDS SEED FILE..., or input NUMBER SEED FILE...\n");
    return 2;
  }
  current_seed = std::stoull(words[1]);
  std::vector<Bytes> samples;
  for (std::size_t n = 2; n < words.size(); ++n) {
    std::ifstream file(words[n], std::ios::binary);
    samples.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    if (!file || samples.back().empty()) {
      std::fprintf(stderr, "fuzz: %s cannot be read\n", words[n].c_str());
      return 2;
    }
  }
  std::signal(SIGABRT, die);
  std::signal(SIGALRM, die);
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(name_input);
  } else {
    std::signal(SIGSEGV, die);
  }

  if (one) {
    run(std::stoull(words[0]), samples);
    return 0;
  }
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::duration<double>(std::stod(words[0]));
  std::uint64_t number = 0;
  while (std::chrono::steady_clock::now() < end) run(number++, samples);
  std::printf("fuzz: %llu inputs of seed %llu\n", static_cast<unsigned long long>(number),
              static_cast<unsigned long long>(current_seed));
  return 0;
}
