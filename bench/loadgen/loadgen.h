// The parts of the load generator.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "inference.grpc.pb.h"

using Json = nlohmann::ordered_json;
using Stub = inference::GRPCInferenceService::Stub;

// options.cpp: the command line.
struct Options {
  std::string address;             // HOST:PORT
  std::string texts;               // file
  std::optional<double> rate;      // requests a second, open loop
  std::optional<int> concurrency;  // requests at a time, closed loop; exactly one of the two is set
  double seconds = 0;
  double warmup_seconds = 0;
  std::size_t batch = 1;  // texts a request
  std::chrono::milliseconds deadline{};
  int channels = 1;
  std::string json;  // file; empty: none
};

// A command line that is wrong; what() is a sentence.
struct UsageError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

extern const char kHelp[];
std::optional<Options> ParseOptions(int argc, char** argv);  // none: help is asked for

// protocol.cpp: connections, requests and answers; see proto/inference.proto.
struct Server {
  std::vector<std::unique_ptr<Stub>> stubs;  // each with a connection of its own, which stands
  std::vector<std::string> labels;           // names by index
};

// Connects and asks for the label names. Throws std::runtime_error if there is no such server.
Server Connect(const Options& options);

// The request for `batch` texts from number `first` on, starting over at the end; the outputs are those that the Python
// client asks for.
inference::ModelInferRequest InferRequest(const std::vector<std::string>& texts, std::size_t first, std::size_t batch);

// Adds, for each of `rows` texts, one to the count of its most probable label. False, and nothing added, if the answer
// does not hold a probability between 0 and 1 of each label for each text, and its number of tokens.
bool CountLabels(const inference::ModelInferResponse& answer, std::size_t rows, std::vector<std::size_t>& counts);

const char* CodeName(grpc::StatusCode code);  // "INVALID_ARGUMENT" and so on

// load.cpp: sends requests in an open or a closed loop and measures the answers.
struct Measurements {
  std::size_t ok_in_window = 0;               // answers that came while sending, of warm-up requests too
  std::map<std::string, std::size_t> failed;  // requests by gRPC code, or BAD_ANSWER
  std::vector<double> ok_ms;                  // latencies, milliseconds
  std::vector<double> failed_ms;
  std::vector<double> late_ms;      // of each request of an open loop
  std::vector<std::size_t> labels;  // texts by index of their label
  double seconds = 0;               // length of the window
  double cpu_s = 0;                 // of this process, from the window's start until the last answer
  bool interrupted = false;
};

// How often Ctrl-C was pressed: one ends the sending, two cancel what is under way.
extern std::atomic<int> interrupts;

Measurements RunLoad(const Options& options, const Server& server, const std::vector<std::string>& texts);
