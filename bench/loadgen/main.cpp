// A load generator for the server: gRPC requests at a rate or a concurrency, and one JSON object of what came of them.
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iostream>

#include "load.h"
#include "measurements.h"
#include "options.h"
#include "server.h"
#include "texts.h"

namespace {

void CountInterrupt(int) { ++interrupts; }

// Where this program may have been the limit, rather than the server.
void Warn(const Measurements& measured, const nlohmann::ordered_json& report) {
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
    if (!file) throw std::runtime_error("cannot write --json " + options.json + ": " + std::strerror(errno));
  }
  const Server server = Connect(options);
  struct sigaction action{};
  action.sa_handler = CountInterrupt;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  Measurements measured = RunLoad(options, server, texts);
  const auto report = Report(measured, server.labels, options.batch);
  const std::string json = report.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
  std::cout << json << std::endl;
  Warn(measured, report);
  if (file.is_open() && !(file << json << std::endl)) {
    throw std::runtime_error("cannot write --json " + options.json + ": " + std::strerror(errno));
  }
  return measured.interrupted ? 130 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = ParseOptions(argc, argv);
    if (options.help) {
      std::cout << kHelp;
      return 0;
    }
    return Run(options);
  } catch (const UsageError& error) {
    std::cerr << "loadgen: " << error.what() << "\n  --help tells more\n";
    return 2;
  } catch (const std::runtime_error& error) {
    std::cerr << "loadgen: " << error.what() << '\n';
    return 1;
  }
}
