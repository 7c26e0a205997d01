#include "measurements.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace {

double Rounded(double number) { return std::round(number * 1000) / 1000; }

// null without samples.
nlohmann::ordered_json Distribution(std::vector<double>& samples) {
  if (samples.empty()) return nullptr;
  std::sort(samples.begin(), samples.end());
  const double sum = std::accumulate(samples.begin(), samples.end(), 0.0);
  return {{"mean", Rounded(sum / static_cast<double>(samples.size()))},
          {"p50", Rounded(Percentile(samples, 0.50))},
          {"p90", Rounded(Percentile(samples, 0.90))},
          {"p99", Rounded(Percentile(samples, 0.99))},
          {"max", Rounded(samples.back())}};
}

}  // namespace

std::size_t Measurements::Failed() const {
  std::size_t sum = 0;
  for (const auto& [code, count] : failed) sum += count;
  return sum;
}

double Percentile(const std::vector<double>& samples, double share) {
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(samples.size())));
  return samples[std::max<std::size_t>(rank, 1) - 1];
}

nlohmann::ordered_json Report(Measurements& measured, const std::vector<std::string>& label_names, std::size_t batch) {
  const double rate = measured.seconds > 0 ? static_cast<double>(measured.ok_in_window) / measured.seconds : 0;
  nlohmann::ordered_json report;
  report["sent"] = measured.ok + measured.Failed();
  report["ok"] = measured.ok;
  report["failed"] = nlohmann::ordered_json::object();
  for (const auto& [code, count] : measured.failed) report["failed"][code] = count;
  report["seconds"] = Rounded(measured.seconds);
  report["achieved_rate"] = Rounded(rate);
  report["texts_per_s"] = Rounded(rate * static_cast<double>(batch));
  report["latency_ms"] = Distribution(measured.ok_ms);
  report["failed_latency_ms"] = Distribution(measured.failed_ms);
  std::sort(measured.late_ms.begin(), measured.late_ms.end());
  report["late_ms_p99"] = nullptr;
  if (!measured.late_ms.empty()) report["late_ms_p99"] = Rounded(Percentile(measured.late_ms, 0.99));
  report["cpu_s"] = Rounded(measured.cpu_s);
  report["labels"] = nlohmann::ordered_json::object();
  for (std::size_t i = 0; i < label_names.size(); ++i) report["labels"][label_names[i]] = measured.labels[i];
  report["interrupted"] = measured.interrupted;
  return report;
}
