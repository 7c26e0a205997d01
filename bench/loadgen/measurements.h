// What was measured, and the JSON of it.
#pragma once

#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

struct Measurements {
  std::size_t ok = 0;                         // requests; latencies of them are in ok_ms
  std::size_t ok_in_window = 0;               // answers that came while sending, of warm-up requests too
  std::map<std::string, std::size_t> failed;  // requests by gRPC code, or BAD_ANSWER
  std::vector<double> ok_ms;                  // milliseconds of each
  std::vector<double> failed_ms;
  std::vector<double> late_ms;      // of each request of an open loop
  std::vector<std::size_t> labels;  // texts by index of their label
  double seconds = 0;               // length of the window
  double cpu_s = 0;                 // of this process, from the window's start until the last answer
  bool interrupted = false;

  std::size_t Failed() const;
};

// The smallest sample that `share` (0..1) of them do not exceed: nearest rank. `samples` is sorted and not empty.
double Percentile(const std::vector<double>& samples, double share);

// Sorts the samples on its way.
nlohmann::ordered_json Report(Measurements& measured, const std::vector<std::string>& label_names, std::size_t batch);
