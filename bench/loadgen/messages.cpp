#include "messages.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>

namespace {

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

// Bytes of an output, null if the answer lacks it; the order of outputs is the server's own.
const std::string* Output(const inference::ModelInferResponse& answer, const char* name) {
  const int count = std::min(answer.outputs_size(), answer.raw_output_contents_size());
  for (int i = 0; i < count; ++i) {
    if (answer.outputs(i).name() == name) return &answer.raw_output_contents(i);
  }
  return nullptr;
}

}  // namespace

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
    AppendUint32(static_cast<std::uint32_t>(text.size()), raw);
    raw += text;
  }
  request.add_outputs()->set_name("probabilities");
  request.add_outputs()->set_name("token_count");
  return request;
}

inference::ModelInferRequest LabelsRequest() {
  auto request = InferRequest({"label names"}, 0, 1);
  auto& parameters = *request.mutable_outputs(0)->mutable_parameters();
  parameters["classification"].set_int64_param(1000);  // at most so many labels
  return request;
}

std::vector<std::string> LabelNames(const inference::ModelInferResponse& answer) {
  // Triton's classification extension gives a text's labels as "SCORE:INDEX:LABEL", best first.
  const std::string* raw = Output(answer, "probabilities");
  std::map<int, std::string> names;
  for (std::size_t offset = 0; raw && offset < raw->size();) {
    const std::string element = raw->substr(offset + 4, ReadUint32(*raw, offset));
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

bool CountLabels(const inference::ModelInferResponse& answer, std::size_t rows, std::vector<std::size_t>& counts) {
  const std::string* probabilities = Output(answer, "probabilities");
  const std::string* tokens = Output(answer, "token_count");
  const std::size_t width = counts.size();
  if (!probabilities || probabilities->size() != 4 * rows * width || !tokens || tokens->size() != 4 * rows)
    return false;
  std::vector<std::size_t> best(rows);
  for (std::size_t row = 0; row < rows; ++row) {
    float highest = -1;
    for (std::size_t column = 0; column < width; ++column) {
      const float probability = ReadFloat(*probabilities, 4 * (row * width + column));
      if (!(probability >= 0 && probability <= 1)) return false;  // not a number, too
      if (probability > highest) {
        highest = probability;
        best[row] = column;
      }
    }
  }
  for (const std::size_t column : best) ++counts[column];
  return true;
}
