// What the checks of primitives share: numbers of every dtype with their exact values, memory that ends where it ends,
// and what to say of a primitive that is wrong. Included after a table, whose KBLAM_ISA it looks at.
#pragma once

#include <sys/mman.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace primitives {

using namespace kblam;
using namespace kblam::KBLAM_ISA;

constexpr float INF = std::numeric_limits<float>::infinity();
constexpr float NOT = std::numeric_limits<float>::quiet_NaN();

inline int wrong = 0;
inline std::mt19937 draw(7);

inline bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

inline void expect(const char* primitive, bool right, double got, double wanted) {
  if (right) return;
  if (++wrong <= 50) std::printf("%s: got %.9g, wanted %.9g\n", primitive, got, wanted);
}
inline void expect_same(const char* primitive, double got, double wanted) {
  expect(primitive, same(got, wanted), got, wanted);
}
inline void expect_near(const char* primitive, double got, double wanted, double relative) {
  expect(primitive, std::abs(got - wanted) <= relative * std::abs(wanted) || same(got, wanted), got, wanted);
}

template <class To, class From>
To as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline double value(float x) { return x; }
inline double value(int8_t x) { return x; }
inline double value(uint8_t x) { return x; }
inline double value(bfloat16 x) { return as<float>(uint32_t(x.bits) << 16); }
inline double value(float16 x) {
  const int exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
  const double sign = x.bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return mantissa ? double(NOT) : sign * double(INF);
  return sign * std::ldexp(exponent ? 1024 + mantissa : mantissa, std::max(1, exponent) - 25);
}
inline double value(float8 x) {
  const int exponent = x.bits >> 3 & 15, mantissa = x.bits & 7;
  if ((x.bits & 0x7f) == 0x7f) return NOT;
  return (x.bits & 0x80 ? -1 : 1) * std::ldexp(exponent ? 8 + mantissa : mantissa, std::max(1, exponent) - 10);
}

// A number by its bits: of a narrow type, all there are in turn.
template <class T>
T numbered(uint32_t i) {
  T x;
  if constexpr (sizeof(T) == 4) i = uint32_t(draw());
  std::memcpy(&x, &i, sizeof x);
  return x;
}

// A multiple of 1/8 up to 2, or a whole number up to 16: exact in every dtype, and so are sums of their products.
template <class T>
T small_number() {
  const int eighths = int(draw() % 33) - 16;
  const float x = float(eighths) / 8;
  if constexpr (std::is_same_v<T, float>) return x;
  if constexpr (std::is_same_v<T, int8_t>) return int8_t(eighths);
  if constexpr (std::is_same_v<T, bfloat16>) return {uint16_t(as<uint32_t>(x) >> 16)};
  if constexpr (std::is_same_v<T, float16>)
    return {
        uint16_t(x == 0 ? 0 : (as<uint32_t>(x) >> 16 & 0x8000) | ((as<uint32_t>(x) & 0x7fffffff) - 0x38000000) >> 13)};
  if constexpr (std::is_same_v<T, float8>) return {uint8_t(draw() % 127)};
}

// Elements that end at the end of a page: the next one must not be touched.
template <class T>
class AtTheEnd {
 public:
  explicit AtTheEnd(int64_t n, T (*fill)() = small_number<T>)
      : bytes(round_up(n * int64_t(sizeof(T)) + 1, PAGE)),
        memory(static_cast<char*>(
            mmap(nullptr, bytes + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    mprotect(memory + bytes, PAGE, PROT_NONE);
    data = reinterpret_cast<T*>(memory + bytes) - n;
    for (int64_t i = 0; i < n; ++i) data[i] = fill();
  }
  ~AtTheEnd() { munmap(memory, bytes + PAGE); }
  AtTheEnd(const AtTheEnd&) = delete;
  T& operator[](int64_t i) const { return data[i]; }

  T* data;

 private:
  static constexpr int64_t PAGE = 4096;
  const int64_t bytes;
  char* const memory;
};

// The lanes of a vector, as floats or as other numbers of its bits.
template <class T = float>
struct Lanes {
  T at[sizeof(F) / sizeof(T)];
  explicit Lanes(F a) { std::memcpy(at, &a, sizeof a); }
  T operator[](int i) const { return at[i]; }
};
template <class T = float, class Function>
F filled(const Function& f) {
  T at[sizeof(F) / sizeof(T)];
  for (int i = 0; i < int(sizeof(F) / sizeof(T)); ++i) at[i] = f(i);
  F a;
  std::memcpy(&a, at, sizeof a);
  return a;
}
inline F any_lanes() {
  return filled([](int) { return small_number<float>(); });
}

}  // namespace primitives
