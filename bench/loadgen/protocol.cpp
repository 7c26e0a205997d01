#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>

#include "loadgen.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "numbers travel little-endian, and are copied as they are"
#endif

namespace {

template <typename Number>
Number Read(const std::string& raw, std::size_t offset) {
  if (offset + sizeof(Number) > raw.size()) throw std::runtime_error("an output of the server's is cut short");
  Number number;
  std::memcpy(&number, raw.data() + offset, sizeof number);
  return number;
}

// Bytes of an output, null if the answer lacks it; the order of outputs is the server's own.
const std::string* Output(const inference::ModelInferResponse& answer, const char* name) {
  const int count = std::min(answer.outputs_size(), answer.raw_output_contents_size());
  for (int i = 0; i < count; ++i) {
    if (answer.outputs(i).name() == name) return &answer.raw_output_contents(i);
  }
  return nullptr;
}

std::vector<std::string> LabelNames(const inference::ModelInferResponse& answer) {
  // Triton's classification extension gives a text's labels as "SCORE:INDEX:LABEL", best first.
  const std::string* raw = Output(answer, "probabilities");
  std::map<int, std::string> names;
  for (std::size_t offset = 0; raw && offset < raw->size();) {
    const std::string element = raw->substr(offset + 4, Read<std::uint32_t>(*raw, offset));
    const auto index = element.find(':');
    const auto name = index == std::string::npos ? index : element.find(':', index + 1);
    if (name == std::string::npos) break;
    names[std::stoi(element.substr(index + 1))] = element.substr(name + 1);
    offset += 4 + element.size();
  }
  std::vector<std::string> labels;
  for (const auto& [index, name] : names) {
    if (index == static_cast<int>(labels.size())) labels.push_back(name);
  }
  if (labels.empty() || labels.size() != names.size()) {
    throw std::runtime_error("the server's model 'rejection' gives no label names; is it one of this repository?");
  }
  return labels;
}

}  // namespace

Server Connect(const Options& options) {
  constexpr std::chrono::seconds kPatience{10};
  constexpr int kLabels = 1000;  // at most so many
  grpc::ChannelArguments settings;
  settings.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // or else the channels share one connection
  settings.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);             // a refusal is to be counted, not hidden
  settings.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);          // the server is measured, not a proxy before it
  settings.SetMaxReceiveMessageSize(-1);
  settings.SetMaxSendMessageSize(-1);
  Server server;
  const auto until = std::chrono::system_clock::now() + kPatience;
  for (int i = 0; i < options.channels; ++i) {
    auto channel = grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(), settings);
    // Fails on the first refusal, rather than wait for a server that nobody has started.
    for (auto state = channel->GetState(true); state != GRPC_CHANNEL_READY; state = channel->GetState(true)) {
      if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || !channel->WaitForStateChange(state, until)) {
        throw std::runtime_error("no gRPC server answers at " + options.address +
                                 ": is it running (scripts/serve), and is --url right?");
      }
    }
    server.stubs.push_back(inference::GRPCInferenceService::NewStub(channel));
  }
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  auto request = InferRequest({"label names"}, 0, 1);
  (*request.mutable_outputs(0)->mutable_parameters())["classification"].set_int64_param(kLabels);
  inference::ModelInferResponse answer;
  const grpc::Status status = server.stubs[0]->ModelInfer(&context, request, &answer);
  if (!status.ok()) {
    throw std::runtime_error("the server at " + options.address + " does not answer a first request: " +
                             CodeName(status.error_code()) + ": " + status.error_message());
  }
  server.labels = LabelNames(answer);
  return server;
}

inference::ModelInferRequest InferRequest(const std::vector<std::string>& texts, std::size_t first, std::size_t batch) {
  inference::ModelInferRequest request;
  request.set_model_name("rejection");
  auto* input = request.add_inputs();
  input->set_name("text");
  input->set_datatype("BYTES");
  input->add_shape(static_cast<std::int64_t>(batch));
  input->add_shape(1);
  std::string& raw = *request.add_raw_input_contents();
  for (std::size_t row = 0; row < batch; ++row) {
    const std::string& text = texts[(first + row) % texts.size()];
    const auto length = static_cast<std::uint32_t>(text.size());
    raw.append(reinterpret_cast<const char*>(&length), sizeof length) += text;
  }
  request.add_outputs()->set_name("probabilities");
  request.add_outputs()->set_name("token_count");
  return request;
}

bool CountLabels(const inference::ModelInferResponse& answer, std::size_t rows, std::vector<std::size_t>& counts) {
  const std::string* probabilities = Output(answer, "probabilities");
  const std::string* tokens = Output(answer, "token_count");
  const std::size_t width = counts.size();
  if (!probabilities || probabilities->size() != 4 * rows * width || !tokens || tokens->size() != 4 * rows)
    return false;
  std::vector<float> values(rows * width);
  std::memcpy(values.data(), probabilities->data(), probabilities->size());
  const auto is_none = [](float value) { return !(value >= 0 && value <= 1); };  // not a number, too
  if (std::any_of(values.begin(), values.end(), is_none)) return false;
  for (auto row = values.begin(); row != values.end(); row += static_cast<std::ptrdiff_t>(width)) {
    ++counts[static_cast<std::size_t>(std::max_element(row, row + static_cast<std::ptrdiff_t>(width)) - row)];
  }
  return true;
}

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED"};
  return code >= 0 && static_cast<std::size_t>(code) < std::size(kNames) ? kNames[code] : "UNKNOWN";
}
