// The command line.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>

struct Options {
  std::string address;             // HOST:PORT
  std::string texts;               // file
  std::optional<double> rate;      // requests a second, open loop
  std::optional<int> concurrency;  // requests at a time, closed loop; exactly one of the two is set
  double seconds = 0;
  double warmup_seconds = 0;
  std::size_t batch = 1;  // texts a request
  std::chrono::milliseconds deadline{10000};
  int channels = 1;
  std::string json;  // file; empty: none
  bool help = false;
};

// A command line that is wrong; what() is a sentence.
struct UsageError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

extern const char kHelp[];

Options ParseOptions(int argc, char** argv);
