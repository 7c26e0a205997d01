// Sends requests in an open or a closed loop and measures the answers.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "measurements.h"
#include "options.h"
#include "server.h"

// How often Ctrl-C was pressed: one ends the sending, two cancel what is under way.
extern std::atomic<int> interrupts;

Measurements RunLoad(const Options& options, const Server& server, const std::vector<std::string>& texts);
