// Memory that starts at a cache line: a vector that lies across two of them takes two loads.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace kblam {

constexpr std::align_val_t CACHE_LINE{64};

struct FreeLines {
  void operator()(void* memory) const { ::operator delete[](memory, CACHE_LINE); }
};

template <class T>
using Lines = std::unique_ptr<T[], FreeLines>;

// Room for `count` numbers, not initialised.
template <class T>
Lines<T> lines(int64_t count) {
  return Lines<T>(static_cast<T*>(::operator new[](count * sizeof(T), CACHE_LINE)));
}

}  // namespace kblam
