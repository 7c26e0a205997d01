// The texts to send.
#pragma once

#include <string>
#include <vector>

// Texts of a file: of .jsonl the field "text" of each line, of any other the lines themselves. Throws
// std::runtime_error where there is none to read.
std::vector<std::string> ReadTexts(const std::string& path);
