// A load generator for the server: gRPC requests at a rate or a concurrency, and one JSON object of what came of them.
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iostream>
#include <numeric>

#include "loadgen.h"

namespace {

std::runtime_error Unusable(const std::string& what) { return std::runtime_error(what + ": " + std::strerror(errno)); }

// Texts of a file: of .jsonl the field "text" of each line, of any other the lines themselves.
std::vector<std::string> ReadTexts(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string end = ".jsonl";
  const bool is_json = path.size() > end.size() && path.compare(path.size() - end.size(), end.size(), end) == 0;
  std::vector<std::string> texts;
  std::size_t number = 0;
  for (std::string line; std::getline(file, line);) {
    const std::string place = path + ", line " + std::to_string(++number) + ",";
    if (!is_json) {
      texts.push_back(line);
    } else if (line.find_first_not_of(" \t\r") != std::string::npos) {
      const auto record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!record.is_object()) throw std::runtime_error(place + " is no JSON object; .jsonl holds one a line");
      const auto text = record.find("text");
      if (text == record.end() || !text->is_string()) throw std::runtime_error(place + " has no string \"text\"");
      texts.push_back(*text);
    }
  }
  if (!file.eof()) throw Unusable("cannot read --texts " + path);
  if (texts.empty()) throw std::runtime_error("--texts " + path + " holds no text");
  return texts;
}

double Rounded(double number) { return std::round(number * 1000) / 1000; }

// The smallest sample that `share` (0..1) of them do not exceed: nearest rank. `samples` is sorted and not empty.
double Percentile(const std::vector<double>& samples, double share) {
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(samples.size())));
  return Rounded(samples[std::max<std::size_t>(rank, 1) - 1]);
}

// null without samples, which are sorted on the way.
Json Distribution(std::vector<double>& samples) {
  if (samples.empty()) return nullptr;
  std::sort(samples.begin(), samples.end());
  const double sum = std::accumulate(samples.begin(), samples.end(), 0.0);
  return {{"mean", Rounded(sum / static_cast<double>(samples.size()))},
          {"p50", Percentile(samples, 0.50)},
          {"p90", Percentile(samples, 0.90)},
          {"p99", Percentile(samples, 0.99)},
          {"max", Rounded(samples.back())}};
}

Json Report(Measurements& measured, const std::vector<std::string>& label_names, std::size_t batch) {
  const double rate = measured.seconds > 0 ? static_cast<double>(measured.ok_in_window) / measured.seconds : 0;
  const Json late = Distribution(measured.late_ms);
  Json labels = Json::object();
  for (std::size_t i = 0; i < label_names.size(); ++i) labels[label_names[i]] = measured.labels[i];
  return {{"sent", measured.ok_ms.size() + measured.failed_ms.size()},
          {"ok", measured.ok_ms.size()},
          {"failed", measured.failed},
          {"seconds", Rounded(measured.seconds)},
          {"achieved_rate", Rounded(rate)},
          {"texts_per_s", Rounded(rate * static_cast<double>(batch))},
          {"latency_ms", Distribution(measured.ok_ms)},
          {"failed_latency_ms", Distribution(measured.failed_ms)},
          {"late_ms_p99", late.is_null() ? late : late["p99"]},
          {"cpu_s", Rounded(measured.cpu_s)},
          {"labels", labels},
          {"interrupted", measured.interrupted}};
}

// Where this program may have been the limit, rather than the server.
void Warn(const Measurements& measured, const Json& report) {
  const auto& late_ms = report["late_ms_p99"];
  const auto& latency = report["latency_ms"];
  if (late_ms.is_number() && late_ms > 2.0 && latency.is_object() && late_ms > 0.1 * latency["p99"].get<double>()) {
    std::cerr << "loadgen: this program sent late (p99 " << late_ms
              << " ms), which the latencies include: lower --rate, or give it a core of its own\n";
  }
  if (measured.seconds >= 1 && measured.cpu_s > 0.9 * measured.seconds) {
    std::cerr << "loadgen: this program kept a core busy and may itself be the limit: run several of it\n";
  }
}

int Run(const Options& options) {
  const auto texts = ReadTexts(options.texts);
  std::ofstream file;
  if (!options.json.empty()) {
    file.open(options.json);  // before the load, which would be lost otherwise
    if (!file) throw Unusable("cannot write --json " + options.json);
  }
  const Server server = Connect(options);
  struct sigaction action{};
  action.sa_handler = [](int) { ++interrupts; };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  Measurements measured = RunLoad(options, server, texts);
  const Json report = Report(measured, server.labels, options.batch);
  const std::string json = report.dump(2, ' ', false, Json::error_handler_t::replace);
  std::cout << json << std::endl;
  Warn(measured, report);
  if (file.is_open() && !(file << json << std::endl)) throw Unusable("cannot write --json " + options.json);
  return measured.interrupted ? 130 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (const auto options = ParseOptions(argc, argv)) return Run(*options);
    std::cout << kHelp;
    return 0;
  } catch (const UsageError& error) {
    std::cerr << "loadgen: " << error.what() << "\n  --help tells more\n";
    return 2;
  } catch (const std::runtime_error& error) {
    std::cerr << "loadgen: " << error.what() << '\n';
    return 1;
  }
}
