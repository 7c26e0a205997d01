#include <getopt.h>

#include <cmath>
#include <cstdlib>

#include "loadgen.h"

const char kHelp[] =
    R"(usage: loadgen --url HOST:PORT --texts FILE (--rate R | --concurrency C) --seconds S [OPTION ...]

Loads a running server with gRPC requests, checks the answers, and prints one JSON object.

  --url HOST:PORT      the server; one that is not this machine takes --yes
  --texts FILE         what to send, over and over in the file's order. A name that ends in .jsonl: an object a line,
                       its field "text" is sent. Any other name: each line is a text, its bytes as they are.
  --rate R             open loop: a request every 1/R seconds, whether or not earlier ones are answered. Latency counts
                       from the moment the request was due, so that a slow server cannot hide behind a waiting client.
                       Answers "what do my callers see at this rate".
  --concurrency C      closed loop: C requests at a time, the next one when one is answered.
                       Answers "how much can it do".
  --seconds S          how long to send
  --warmup-seconds W   send so long before that without counting it (0)
  --batch N            texts in a request (1)
  --deadline-ms D      give a request up after so many milliseconds: DEADLINE_EXCEEDED (10000)
  --channels K         connections, used in turn (1)
  --json FILE          write the JSON to FILE, too
  --yes                allow a --url that is not this machine: whoever runs that server should know

What the JSON says (times of requests that were answered OK, unless it says otherwise):
  sent, ok, failed     requests counted; failed by gRPC code, or BAD_ANSWER for an OK without the outputs asked for
  seconds              how long was measured
  achieved_rate        requests answered OK within those seconds, a second; texts_per_s: the same in texts
  latency_ms           mean, percentiles and maximum; failed_latency_ms: of requests that failed
  late_ms_p99          open loop: how late this program itself was in sending. Not far below the latency? Then this
                       program was too slow, and the latency says little about the server.
  cpu_s                user and system time of this program while it was measuring
  labels               how often each label was the most probable one

Ctrl-C stops sending, waits for the answers under way and prints what was measured; a second one does not wait.
Exit code: 0 measured, failed requests included; 1 not measured; 2 wrong command line; 130 stopped by Ctrl-C.

  loadgen --url 127.0.0.1:8001 --texts tests/data/responses.jsonl --concurrency 8 --seconds 10
  loadgen --url 127.0.0.1:8001 --texts tests/data/responses.jsonl --rate 20 --seconds 30 --warmup-seconds 3
)";

namespace {

using Given = std::map<std::string, std::string>;  // values by name, without the dashes

std::string Plain(double number) { return std::to_string(static_cast<long long>(number)); }

// Between `least` and `most`, or `fallback` if it is not given.
double Number(const Given& given, const std::string& name, double fallback, double least, double most) {
  const auto found = given.find(name);
  if (found == given.end()) return fallback;
  char* end;
  const double number = std::strtod(found->second.c_str(), &end);
  if (end == found->second.c_str() || *end != '\0' || !(number >= least && number <= most)) {
    throw UsageError("--" + name + " is '" + found->second + "'; it takes a number between " + Plain(least) + " and " +
                     Plain(most));
  }
  return number;
}

double Positive(const Given& given, const std::string& name, double most) {
  const double number = Number(given, name, 0, 0, most);
  if (number == 0 && given.count(name)) throw UsageError("--" + name + " is 0; it takes more than that");
  return number;
}

int Whole(const Given& given, const std::string& name, int fallback, int most) {
  const double number = Number(given, name, fallback, 1, most);
  if (number != std::floor(number)) throw UsageError("--" + name + " is '" + given.at(name) + "', not a whole number");
  return static_cast<int>(number);
}

// The host of HOST:PORT, for IPv6 without its brackets; a socket in the file system is on this machine.
std::string Host(const std::string& address) {
  if (address.rfind("unix:", 0) == 0) return "localhost";
  const auto colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || address.find('/') != std::string::npos) {
    throw UsageError("--url is '" + address + "'; it takes HOST:PORT, such as 127.0.0.1:8001");
  }
  const std::string port = "the port of --url";
  Whole({{port, address.substr(colon + 1)}}, port, 0, 65535);
  std::string host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') return host.substr(1, host.size() - 2);
  if (host.find(':') != std::string::npos) {
    throw UsageError("--url is '" + address + "'; an IPv6 address goes into brackets: [::1]:8001");
  }
  return host;
}

void Check(const Options& options, bool yes) {
  if (options.address.empty()) throw UsageError("--url is missing: which server?");
  if (options.texts.empty()) throw UsageError("--texts is missing: a file with what to send");
  if (options.rate.has_value() == options.concurrency.has_value()) {
    throw UsageError("it takes one of --rate (open loop) and --concurrency (closed loop)");
  }
  if (options.seconds == 0) throw UsageError("--seconds is missing: how long to send");
  if (options.rate && *options.rate * options.seconds < 0.5) {
    throw UsageError("at that --rate no request is due within --seconds");
  }
  const std::string host = Host(options.address);
  if (!yes && host != "localhost" && host != "::1" && host.rfind("127.", 0) != 0) {
    throw UsageError("'" + host + "' is not this machine; add --yes if whoever runs that server knows about this load");
  }
}

}  // namespace

std::optional<Options> ParseOptions(int argc, char** argv) {
  std::vector<option> known;
  for (const char* name : {"url", "texts", "rate", "concurrency", "seconds", "warmup-seconds", "batch", "deadline-ms",
                           "channels", "json"}) {
    known.push_back({name, required_argument, nullptr, 0});
  }
  for (const char* name : {"yes", "help"}) known.push_back({name, no_argument, nullptr, 0});
  known.push_back({nullptr, 0, nullptr, 0});
  Given given;
  opterr = 0;
  for (int chosen, index; (chosen = getopt_long(argc, argv, ":h", known.data(), &index)) != -1;) {
    if (chosen == ':') throw UsageError(std::string(argv[optind - 1]) + " lacks its value");
    if (chosen == '?') throw UsageError(std::string(argv[optind - 1]) + " is none of its options");
    if (chosen == 'h' || std::string(known[index].name) == "help") return std::nullopt;
    given[known[index].name] = optarg ? optarg : "";
  }
  if (optind < argc) throw UsageError(std::string("'") + argv[optind] + "' belongs to no option");
  constexpr double kDay = 86400;  // s
  Options options;
  options.address = given["url"];
  options.texts = given["texts"];
  options.json = given["json"];
  if (given.count("rate")) options.rate = Positive(given, "rate", 1e6);
  if (given.count("concurrency")) options.concurrency = Whole(given, "concurrency", 0, 100000);
  options.seconds = Positive(given, "seconds", kDay);
  options.warmup_seconds = Number(given, "warmup-seconds", 0, 0, kDay);
  options.batch = static_cast<std::size_t>(Whole(given, "batch", 1, 100000));
  options.deadline = std::chrono::milliseconds(Whole(given, "deadline-ms", 10000, 3600000));
  options.channels = Whole(given, "channels", 1, 1000);
  Check(options, given.count("yes") > 0);
  return options;
}
