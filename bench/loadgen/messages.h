// Requests and answers of the protocol; see proto/inference.proto.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "inference.pb.h"

// The request for `batch` texts from number `first` on, starting over at the end; the outputs are those that the Python
// client asks for.
inference::ModelInferRequest InferRequest(const std::vector<std::string>& texts, std::size_t first, std::size_t batch);

// A request for the names of the labels, and the names out of its answer, by index. Throws std::runtime_error if there
// are none.
inference::ModelInferRequest LabelsRequest();
std::vector<std::string> LabelNames(const inference::ModelInferResponse& answer);

// Adds, for each of `rows` texts, one to the count of its most probable label. False, and nothing added, if the answer
// does not hold a probability between 0 and 1 of each label for each text, and its number of tokens.
bool CountLabels(const inference::ModelInferResponse& answer, std::size_t rows, std::vector<std::size_t>& counts);
