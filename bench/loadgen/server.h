// Connections to the server.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "inference.grpc.pb.h"
#include "options.h"

using Stub = inference::GRPCInferenceService::Stub;

struct Server {
  std::vector<std::unique_ptr<Stub>> stubs;  // each with a connection of its own, which stands
  std::vector<std::string> labels;           // names by index
};

// Connects and asks for the label names. Throws std::runtime_error if there is no such server.
Server Connect(const Options& options);

// "INVALID_ARGUMENT" and so on.
const char* CodeName(grpc::StatusCode code);
