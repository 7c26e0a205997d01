#include "texts.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace {

bool IsJsonLines(const std::string& path) {
  const std::string end = ".jsonl";
  return path.size() > end.size() && path.compare(path.size() - end.size(), end.size(), end) == 0;
}

std::string TextOf(const std::string& line, const std::string& place) {
  const auto record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!record.is_object()) throw std::runtime_error(place + " is no JSON object; .jsonl holds one a line");
  const auto text = record.find("text");
  if (text == record.end() || !text->is_string()) throw std::runtime_error(place + " has no string \"text\"");
  return text->get<std::string>();
}

}  // namespace

std::vector<std::string> ReadTexts(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read --texts " + path + ": " + std::strerror(errno));
  const bool json = IsJsonLines(path);
  std::vector<std::string> texts;
  std::size_t number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (!json) {
      texts.push_back(line);
    } else if (line.find_first_not_of(" \t\r") != std::string::npos) {
      texts.push_back(TextOf(line, path + ", line " + std::to_string(number) + ","));
    }
  }
  if (file.bad()) throw std::runtime_error("cannot read --texts " + path + ": " + std::strerror(errno));
  if (texts.empty()) throw std::runtime_error("--texts " + path + " holds no text");
  return texts;
}
