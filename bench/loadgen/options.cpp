#include "options.h"

#include <getopt.h>

#include <cmath>
#include <cstdlib>

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

double Number(const char* name, const char* value, double least, double most) {
  char* end;
  const double number = std::strtod(value, &end);
  if (end == value || *end != '\0' || !(number >= least && number <= most)) {
    throw UsageError(std::string(name) + " is '" + value + "'; it takes a number between " +
                     std::to_string(static_cast<long long>(least)) + " and " +
                     std::to_string(static_cast<long long>(most)));
  }
  return number;
}

double Positive(const char* name, const char* value, double most) {
  const double number = Number(name, value, 0, most);
  if (number == 0) throw UsageError(std::string(name) + " is 0; it takes more than that");
  return number;
}

int Whole(const char* name, const char* value, int least, int most) {
  const double number = Number(name, value, least, most);
  if (number != std::floor(number)) throw UsageError(std::string(name) + " is '" + value + "', not a whole number");
  return static_cast<int>(number);
}

// The host of HOST:PORT, for IPv6 without its brackets.
std::string Host(const std::string& address) {
  const auto colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0 || address.find('/') != std::string::npos) {
    throw UsageError("--url is '" + address + "'; it takes HOST:PORT, such as 127.0.0.1:8001");
  }
  Whole("the port of --url", address.c_str() + colon + 1, 1, 65535);
  std::string host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') return host.substr(1, host.size() - 2);
  if (host.find(':') != std::string::npos) {
    throw UsageError("--url is '" + address + "'; an IPv6 address goes into brackets: [::1]:8001");
  }
  return host;
}

bool IsThisMachine(const std::string& host) {
  return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0;
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
  if (!yes && !IsThisMachine(host)) {
    throw UsageError("'" + host + "' is not this machine; add --yes if whoever runs that server knows about this load");
  }
}

}  // namespace

Options ParseOptions(int argc, char** argv) {
  static const option kOptions[] = {{"url", required_argument, nullptr, 'u'},
                                    {"texts", required_argument, nullptr, 't'},
                                    {"rate", required_argument, nullptr, 'r'},
                                    {"concurrency", required_argument, nullptr, 'c'},
                                    {"seconds", required_argument, nullptr, 's'},
                                    {"warmup-seconds", required_argument, nullptr, 'w'},
                                    {"batch", required_argument, nullptr, 'b'},
                                    {"deadline-ms", required_argument, nullptr, 'd'},
                                    {"channels", required_argument, nullptr, 'k'},
                                    {"json", required_argument, nullptr, 'j'},
                                    {"yes", no_argument, nullptr, 'y'},
                                    {"help", no_argument, nullptr, 'h'},
                                    {nullptr, 0, nullptr, 0}};
  constexpr double kDay = 86400;  // s
  Options options;
  bool yes = false;
  opterr = 0;
  for (int chosen; (chosen = getopt_long(argc, argv, ":h", kOptions, nullptr)) != -1;) {
    switch (chosen) {
      case 'u':
        options.address = optarg;
        break;
      case 't':
        options.texts = optarg;
        break;
      case 'r':
        options.rate = Positive("--rate", optarg, 1e6);
        break;
      case 'c':
        options.concurrency = Whole("--concurrency", optarg, 1, 100000);
        break;
      case 's':
        options.seconds = Positive("--seconds", optarg, kDay);
        break;
      case 'w':
        options.warmup_seconds = Number("--warmup-seconds", optarg, 0, kDay);
        break;
      case 'b':
        options.batch = static_cast<std::size_t>(Whole("--batch", optarg, 1, 100000));
        break;
      case 'd':
        options.deadline = std::chrono::milliseconds(Whole("--deadline-ms", optarg, 1, 3600000));
        break;
      case 'k':
        options.channels = Whole("--channels", optarg, 1, 1000);
        break;
      case 'j':
        options.json = optarg;
        break;
      case 'y':
        yes = true;
        break;
      case 'h':
        options.help = true;
        return options;
      case ':':
        throw UsageError(std::string(argv[optind - 1]) + " lacks its value");
      default:
        throw UsageError(std::string(argv[optind - 1]) + " is none of its options");
    }
  }
  if (optind < argc) throw UsageError(std::string("'") + argv[optind] + "' belongs to no option");
  Check(options, yes);
  return options;
}
