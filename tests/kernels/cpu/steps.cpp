// What `run_steps` does where a task throws: the error comes back, and no thread waits for ever.
#include <atomic>
#include <cstdio>
#include <new>
#include <thread>
#include <vector>

#include "launch/split.h"

namespace {

void on_threads(int64_t, int workers, kblam::Task task, void* context) {
  std::vector<std::thread> threads;
  for (int worker = 0; worker < workers; ++worker) threads.emplace_back([=] { task(context, worker, worker); });
  for (std::thread& thread : threads) thread.join();
}

// How many of 40 tasks ran before one of two steps failed, or -1 if nothing was thrown.
int failing(int workers, int64_t at) {
  std::atomic<int> ran{0};
  const auto first = [&](int64_t i, int) {
    if (i == at) throw std::bad_alloc();
    ++ran;
  };
  const auto second = [&](int64_t, int) { ++ran; };
  try {
    kblam::run_steps({kblam::step_of(20, first), kblam::step_of(20, second)}, int64_t(1) << 40, workers, on_threads);
  } catch (const std::bad_alloc&) {
    return ran;
  }
  return -1;
}

}  // namespace

int main() {
  for (int workers : {1, 2, 7})
    for (int64_t at : {0, 11, 19, 20}) {
      const int ran = failing(workers, at);
      if (at == 20 ? ran != -1 : ran < 0 || ran >= 20) {
        std::printf("%d threads, task %lld fails: %d ran\n", workers, static_cast<long long>(at), ran);
        return 1;
      }
    }
  return 0;
}
