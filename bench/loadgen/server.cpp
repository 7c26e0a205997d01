#include "server.h"

#include <chrono>
#include <iterator>
#include <stdexcept>

#include "messages.h"

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED"};
  return code >= 0 && static_cast<std::size_t>(code) < std::size(kNames) ? kNames[code] : "UNKNOWN";
}

Server Connect(const Options& options) {
  constexpr std::chrono::seconds kPatience{10};
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
  inference::ModelInferResponse answer;
  const grpc::Status status = server.stubs[0]->ModelInfer(&context, LabelsRequest(), &answer);
  if (!status.ok()) {
    throw std::runtime_error("the server at " + options.address + " does not answer a first request: " +
                             CodeName(status.error_code()) + ": " + status.error_message());
  }
  server.labels = LabelNames(answer);
  return server;
}
