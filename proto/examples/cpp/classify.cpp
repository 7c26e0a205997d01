// Tell refusals from answers, with gRPC's C++ library and stubs generated from the protocol file.
#include <getopt.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "inference.grpc.pb.h"

namespace {

// gRPC retries on its own: only when the server refused the work (its queue is full) or could not be reached, three
// attempts at most, and none while more than half of the recent calls fail, so that retries never feed an overload.
constexpr char kServiceConfig[] = R"({
  "methodConfig": [{
    "name": [{"service": "inference.GRPCInferenceService"}],
    "retryPolicy": {
      "maxAttempts": 3,
      "initialBackoff": "0.1s",
      "maxBackoff": "1s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }],
  "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
})";

constexpr char kUsage[] =
    "usage: classify [--address HOST:PORT] [--model NAME] [--timeout SECONDS] [--max-length TOKENS]\n"
    "                [--batch TEXTS] [--tls FILE] [TEXT ...]\n"
    "Without a TEXT, each line of standard input is one. --tls trusts the PEM certificates in FILE.\n";

struct Options {
  std::string address = "127.0.0.1:8001";
  std::string model = "rejection";
  double timeout_s = 10;
  std::optional<std::int32_t> max_length;
  std::size_t batch = 64;
  std::string certificates;  // PEM; empty: no TLS
  std::vector<std::string> texts;
};

// A call that failed.
struct CallError {
  grpc::Status status;
};

// Numbers travel little-endian, whatever this machine is.
void AppendUint32(std::uint32_t number, std::string& raw) {
  for (int shift = 0; shift < 32; shift += 8) raw += static_cast<char>(number >> shift & 0xff);
}

std::uint32_t ReadUint32(const std::string& raw, std::size_t offset) {
  std::uint32_t number = 0;
  for (int i = 3; i >= 0; --i) number = number << 8 | static_cast<unsigned char>(raw.at(offset + i));
  return number;
}

float ReadFloat(const std::string& raw, std::size_t offset) {
  const std::uint32_t bits = ReadUint32(raw, offset);
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

void AddInput(const char* name, const char* datatype, std::size_t rows, std::string raw,
              inference::ModelInferRequest& request) {
  auto* input = request.add_inputs();
  input->set_name(name);
  input->set_datatype(datatype);
  input->add_shape(static_cast<std::int64_t>(rows));
  input->add_shape(1);
  request.add_raw_input_contents(std::move(raw));
}

inference::ModelInferRequest InferRequest(const std::string& model, const std::vector<std::string>& texts,
                                          std::optional<std::int32_t> max_length = {}) {
  inference::ModelInferRequest request;
  request.set_model_name(model);
  std::string raw;  // a string tensor: each text's length in bytes, uint32 little-endian, then its bytes
  for (const std::string& text : texts) {
    AppendUint32(static_cast<std::uint32_t>(text.size()), raw);
    raw += text;
  }
  AddInput("text", "BYTES", texts.size(), std::move(raw), request);
  if (max_length) {
    std::string lengths;
    for (std::size_t row = 0; row < texts.size(); ++row) AppendUint32(static_cast<std::uint32_t>(*max_length), lengths);
    AddInput("max_length", "INT32", texts.size(), std::move(lengths), request);
  }
  request.add_outputs()->set_name("probabilities");
  request.add_outputs()->set_name("token_count");
  return request;
}

// Bytes of an output; the order of outputs is the server's own.
const std::string& Output(const inference::ModelInferResponse& answer, const std::string& name) {
  for (int i = 0; i < answer.outputs_size(); ++i) {
    if (answer.outputs(i).name() == name) return answer.raw_output_contents(i);
  }
  throw std::runtime_error("the answer lacks the output " + name);
}

class Classifier {
 public:
  explicit Classifier(const Options& options) : options_(options) {
    std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
    if (!options.certificates.empty()) {
      grpc::SslCredentialsOptions trust;
      trust.pem_root_certs = options.certificates;
      credentials = grpc::SslCredentials(trust);
    }
    grpc::ChannelArguments settings;
    settings.SetServiceConfigJSON(kServiceConfig);
    // One connection for every call of the process.
    stub_ = inference::GRPCInferenceService::NewStub(
        grpc::CreateCustomChannel(options.address, credentials, settings));
    ReadLabels();
    ReadPositiveLabel();
  }

  // Writes one JSON object a line; `label` is the best one, and `score` that of the positive one, if the model has one.
  void Classify(const std::vector<std::string>& texts) const {
    const auto answer = Infer(InferRequest(options_.model, texts, options_.max_length));
    const std::string& probabilities = Output(answer, "probabilities");
    const std::string& counts = Output(answer, "token_count");
    for (std::size_t row = 0; row < texts.size(); ++row) {
      std::vector<float> scores;
      nlohmann::ordered_json by_label;
      for (std::size_t column = 0; column < labels_.size(); ++column) {
        scores.push_back(ReadFloat(probabilities, 4 * (row * labels_.size() + column)));
        by_label[labels_[column]] = scores.back();
      }
      const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
      nlohmann::ordered_json line;
      line["label"] = labels_[best];
      if (by_label.contains(positive_)) line["score"] = by_label[positive_];
      line["scores"] = by_label;
      line["token_count"] = static_cast<std::int32_t>(ReadUint32(counts, 4 * row));
      line["text"] = texts[row];
      std::cout << line.dump() << '\n';
    }
    std::cout.flush();
  }

 private:
  std::chrono::system_clock::time_point Deadline() const {
    return std::chrono::system_clock::now() +
           std::chrono::microseconds(static_cast<std::int64_t>(options_.timeout_s * 1e6));
  }

  inference::ModelInferResponse Infer(const inference::ModelInferRequest& request) const {
    grpc::ClientContext context;
    context.set_deadline(Deadline());
    inference::ModelInferResponse answer;
    const grpc::Status status = stub_->ModelInfer(&context, request, &answer);
    if (!status.ok()) throw CallError{status};
    return answer;
  }

  // Label names by index: the classification extension gives a text's labels as "SCORE:INDEX:LABEL", best first.
  void ReadLabels() {
    auto request = InferRequest(options_.model, {"label names"});
    auto& parameters = *request.mutable_outputs(0)->mutable_parameters();
    parameters["classification"].set_int64_param(1000);  // at most so many labels
    const auto answer = Infer(request);
    const std::string& raw = Output(answer, "probabilities");
    std::map<int, std::string> names;
    for (std::size_t offset = 0; offset < raw.size();) {
      const std::string element = raw.substr(offset + 4, ReadUint32(raw, offset));
      const auto index = element.find(':') + 1;
      const auto name = element.find(':', index) + 1;
      names[std::stoi(element.substr(index))] = element.substr(name);
      offset += 4 + element.size();
    }
    for (const auto& [index, name] : names) labels_.push_back(name);
  }

  // Name of the label that means a refusal; stays empty for a model that has none.
  void ReadPositiveLabel() {
    grpc::ClientContext context;
    context.set_deadline(Deadline());
    inference::ModelConfigRequest request;
    request.set_name(options_.model);
    inference::ModelConfigResponse answer;
    const grpc::Status status = stub_->ModelConfig(&context, request, &answer);
    if (!status.ok()) throw CallError{status};
    const auto& parameters = answer.config().parameters();
    const auto found = parameters.find("positive_label");
    if (found != parameters.end()) positive_ = found->second.string_value();
  }

  const Options& options_;
  std::unique_ptr<inference::GRPCInferenceService::Stub> stub_;
  std::vector<std::string> labels_;
  std::string positive_;
};

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {
      "OK",          "CANCELLED",         "UNKNOWN",   "INVALID_ARGUMENT",    "DEADLINE_EXCEEDED", "NOT_FOUND",
      "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
      "UNIMPLEMENTED",  "INTERNAL",          "UNAVAILABLE",        "DATA_LOSS",           "UNAUTHENTICATED"};
  return code >= 0 && static_cast<std::size_t>(code) < std::size(kNames) ? kNames[code] : "UNKNOWN";
}

const char* Advice(grpc::StatusCode code) {
  switch (code) {
    case grpc::INVALID_ARGUMENT:
      return "the request is at fault: correct it, sending it again will not help";
    case grpc::NOT_FOUND:
      return "the server runs but has no such model: check --model";
    case grpc::UNAVAILABLE:
      return "no connection, or the queue is full: check --address, or try again in a while";
    case grpc::DEADLINE_EXCEEDED:
      return "no answer in time: allow more with --timeout, or send fewer texts at once";
    default:
      return "the server or something before it failed: look at the server's log";
  }
}

double Number(const char* name, const char* value) {
  char* end;
  const double number = std::strtod(value, &end);
  if (end == value || *end != '\0') throw std::invalid_argument(std::string(name) + " is '" + value + "', not a number");
  return number;
}

Options Parse(int argc, char** argv) {
  static const option kOptions[] = {{"address", required_argument, nullptr, 'a'},
                                    {"model", required_argument, nullptr, 'm'},
                                    {"timeout", required_argument, nullptr, 't'},
                                    {"max-length", required_argument, nullptr, 'l'},
                                    {"batch", required_argument, nullptr, 'b'},
                                    {"tls", required_argument, nullptr, 'c'},
                                    {nullptr, 0, nullptr, 0}};
  Options options;
  for (int chosen; (chosen = getopt_long(argc, argv, "", kOptions, nullptr)) != -1;) {
    switch (chosen) {
      case 'a':
        options.address = optarg;
        break;
      case 'm':
        options.model = optarg;
        break;
      case 't':
        options.timeout_s = Number("--timeout", optarg);
        break;
      case 'l':
        options.max_length = static_cast<std::int32_t>(Number("--max-length", optarg));
        break;
      case 'b':
        options.batch = static_cast<std::size_t>(Number("--batch", optarg));
        break;
      case 'c': {
        std::ifstream file(optarg);
        options.certificates.assign(std::istreambuf_iterator<char>(file), {});
        if (options.certificates.empty()) throw std::invalid_argument(std::string("cannot read ") + optarg);
        break;
      }
      default:
        throw std::invalid_argument("that is none of its options");
    }
  }
  options.texts.assign(argv + optind, argv + argc);
  return options;
}

// The next texts to send, none at the end: the arguments, or without any the lines of standard input. Bytes as they
// are, which the server checks.
std::vector<std::string> NextBatch(const Options& options, std::size_t& used) {
  std::vector<std::string> batch;
  if (!options.texts.empty()) {
    while (batch.size() < options.batch && used < options.texts.size()) batch.push_back(options.texts[used++]);
    return batch;
  }
  for (std::string line; batch.size() < options.batch && std::getline(std::cin, line);) batch.push_back(line);
  return batch;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  try {
    options = Parse(argc, argv);
  } catch (const std::logic_error& error) {  // a word that is no option, or no number
    std::cerr << "classify: " << error.what() << '\n' << kUsage;
    return 2;
  }
  try {
    const Classifier classifier(options);
    std::size_t used = 0;
    for (auto batch = NextBatch(options, used); !batch.empty(); batch = NextBatch(options, used)) {
      classifier.Classify(batch);
    }
  } catch (const CallError& error) {
    const auto code = error.status.error_code();
    std::cerr << "classify: " << CodeName(code) << ": " << error.status.error_message() << "\n  " << Advice(code)
              << '\n';
    return 1;
  }
}
