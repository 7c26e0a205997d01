#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "loadgen.h"

std::atomic<int> interrupts{0};

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::duration_cast;
using SecondsD = std::chrono::duration<double>;

// How soon Ctrl-C is noticed.
constexpr std::chrono::milliseconds kTick{100};

double Milliseconds(Clock::duration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }

Clock::duration Seconds(double seconds) { return duration_cast<Clock::duration>(SecondsD(seconds)); }

// User and system time of this process.
double CpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// Sleeps until a moment to within some 0.1 ms, which gRPC's own timers (1 ms) would not; false at Ctrl-C.
bool SleepUntil(Clock::time_point due) {
  while (interrupts == 0) {
    const auto now = Clock::now();
    if (now >= due) return true;
    std::this_thread::sleep_until(std::min(due, now + kTick));
  }
  return false;
}

// A request under way.
struct Call {
  Clock::time_point due;   // when it was to be sent
  Clock::time_point sent;  // when it was
  bool measured;           // false: part of the warm-up
  grpc::ClientContext context;
  inference::ModelInferResponse answer;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<inference::ModelInferResponse>> rpc;
};

// In a closed loop one thread does everything: it takes an answer and sends the next request. In an open loop a second
// one sends by the clock. Answers are taken and counted by the first thread only, so that nothing of that is locked.
class Load {
 public:
  Load(const Options& options, const Server& server, const std::vector<std::string>& texts)
      : options_(options), server_(server), texts_(texts) {
    measured_.labels.resize(server.labels.size());
  }

  Measurements Run() {
    std::thread sender;
    if (options_.rate) {
      sender = std::thread([this] { SendAtRate(); });
    } else {
      for (int i = 0; i < *options_.concurrency; ++i) SendNext();
      sending_ = false;  // from here on, answers send
    }
    TakeAnswers();
    if (sender.joinable()) sender.join();
    if (terminal_ && shown_) std::fputs("\r\x1b[K", stderr);
    measured_.cpu_s = CpuSeconds() - window_cpu_s_;
    measured_.seconds = SecondsD(window_end_ - window_start_).count();
    return std::move(measured_);
  }

 private:
  // Sends one request; the measured ones begin with the first text again, so that counts of labels can be checked.
  void Send(const inference::ModelInferRequest& request, Clock::time_point due, bool measured, std::size_t number) {
    auto* call = new Call{};
    call->due = due;
    call->measured = measured;
    call->context.set_deadline(std::chrono::system_clock::now() + options_.deadline);
    {
      const std::lock_guard lock(calls_mutex_);
      calls_.insert(call);
    }
    ++under_way_;
    call->sent = Clock::now();
    call->rpc =
        server_.stubs[number % server_.stubs.size()]->PrepareAsyncModelInfer(&call->context, request, &queue_);
    call->rpc->StartCall();
    call->rpc->Finish(&call->answer, &call->status, call);
  }

  inference::ModelInferRequest Request(std::size_t number) const {
    return InferRequest(texts_, number * options_.batch % texts_.size(), options_.batch);
  }

  // Open loop: request i is due at i / rate, whatever became of the others.
  void SendAtRate() {
    prctl(PR_SET_TIMERSLACK, 1UL);  // wake up on time: the default is 50 us late
    const auto warmup = static_cast<std::size_t>(std::llround(*options_.rate * options_.warmup_seconds));
    const auto count = warmup + static_cast<std::size_t>(std::llround(*options_.rate * options_.seconds));
    for (std::size_t i = 0; i < count; ++i) {
      const bool measured = i >= warmup;
      const std::size_t number = measured ? i - warmup : i;
      const auto request = Request(number);  // made before it is due
      const auto due = (measured ? window_start_ : start_) + Seconds(static_cast<double>(number) / *options_.rate);
      if (!SleepUntil(due)) break;
      Send(request, due, measured, number);
    }
    sending_ = false;
  }

  // Closed loop: one more, unless time is up.
  void SendNext() {
    const auto now = Clock::now();
    if (now >= window_end_ || interrupts > 0) return;
    const bool measured = now >= window_start_;
    const std::size_t number = numbers_[measured]++;
    Send(Request(number), now, measured, number);
  }

  // Takes answers until none is due any more.
  void TakeAnswers() {
    while (sending_ || under_way_ > 0) {
      void* tag = nullptr;
      bool ok = false;
      const auto got = queue_.AsyncNext(&tag, &ok, std::chrono::system_clock::now() + kTick);
      const auto now = Clock::now();
      if (got == grpc::CompletionQueue::GOT_EVENT) {
        const std::unique_ptr<Call> call(static_cast<Call*>(tag));
        Count(*call, now);
        {
          const std::lock_guard lock(calls_mutex_);
          calls_.erase(call.get());
        }
        --under_way_;
        if (options_.concurrency) SendNext();
      }
      Watch(now);
    }
  }

  void Count(const Call& call, Clock::time_point now) {
    const bool ok = call.status.ok();
    const bool is_right = ok && (!call.measured || CountLabels(call.answer, options_.batch, measured_.labels));
    // An answer to the warm-up that came after it is work of the window, just as the last requests of the window are
    // answered too late to count for its rate.
    if (is_right && now >= window_start_ && now < window_end_) ++measured_.ok_in_window;
    if (!call.measured) return;
    if (options_.rate) measured_.late_ms.push_back(Milliseconds(call.sent - call.due));
    (is_right ? measured_.ok_ms : measured_.failed_ms).push_back(Milliseconds(now - call.due));
    if (!is_right) ++measured_.failed[ok ? "BAD_ANSWER" : CodeName(call.status.error_code())];
  }

  void Watch(Clock::time_point now) {
    if (!in_window_ && now >= window_start_) {
      in_window_ = true;
      window_cpu_s_ = CpuSeconds();
    }
    if (interrupts > 0 && !measured_.interrupted) {
      measured_.interrupted = true;
      window_end_ = std::clamp(now, window_start_, window_end_);
    }
    if (interrupts > 1 && !sending_) {
      const std::lock_guard lock(calls_mutex_);
      for (Call* call : calls_) call->context.TryCancel();
    }
    if (now < next_progress_) return;
    next_progress_ = now + progress_every_;
    std::fprintf(stderr, "%s%5.0f s of %.0f  ok %zu  failed %zu  under way %zu%s%s", terminal_ ? "\r" : "",
                 SecondsD(now - start_).count(), options_.warmup_seconds + options_.seconds, measured_.ok_ms.size(),
                 measured_.failed_ms.size(), under_way_.load(), in_window_ ? "" : "  (warming up)",
                 terminal_ ? "\x1b[K" : "\n");
    shown_ = true;
  }

  const Options& options_;
  const Server& server_;
  const std::vector<std::string>& texts_;
  grpc::CompletionQueue queue_;
  const Clock::time_point start_ = Clock::now();
  const Clock::time_point window_start_ = start_ + Seconds(options_.warmup_seconds);  // the warm-up's end
  Clock::time_point window_end_ = window_start_ + Seconds(options_.seconds);
  Clock::time_point next_progress_ = start_ + std::chrono::seconds(2);
  const bool terminal_ = isatty(STDERR_FILENO);
  const std::chrono::seconds progress_every_{terminal_ ? 1 : 10};
  bool shown_ = false;
  bool in_window_ = false;
  double window_cpu_s_ = CpuSeconds();
  std::size_t numbers_[2] = {0, 0};  // requests sent in a closed loop: of the warm-up, and measured
  Measurements measured_;
  std::atomic<bool> sending_{true};
  std::atomic<std::size_t> under_way_{0};
  std::mutex calls_mutex_;
  std::unordered_set<Call*> calls_;  // those under way, to cancel them
};

}  // namespace

Measurements RunLoad(const Options& options, const Server& server, const std::vector<std::string>& texts) {
  return Load(options, server, texts).Run();
}
