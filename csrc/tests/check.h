// The few lines of a test framework that these tests need. GoogleTest would do, but it is not on
// PyPI, and setting up the tests must need neither root nor a download that pip cannot make.

#pragma once

#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace check {

struct Case {
  std::string name;
  std::function<void()> body;
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

inline bool add(std::string name, std::function<void()> body) {
  cases().push_back({std::move(name), std::move(body)});
  return true;
}

inline void fail(const char* file, int line, const std::string& message) {
  ++failures();
  if (failures() <= 20) std::printf("%s:%d: %s\n", file, line, message.c_str());
}

// Whether the values are equal within `tolerance`. NaN equals only NaN.
inline bool near(double value, double expected, double tolerance) {
  if (std::isnan(expected) || std::isnan(value)) return std::isnan(expected) && std::isnan(value);
  return value == expected || std::fabs(value - expected) <= tolerance;
}

// Runs every case, or only the named one. Returns the process's exit status.
inline int run(int argc, char** argv) {
  int ran = 0;
  for (const Case& one : cases()) {
    if (argc > 1 && one.name != argv[1]) continue;
    const int before = failures();
    one.body();
    ++ran;
    std::printf("%s %s\n", failures() == before ? "ok  " : "FAIL", one.name.c_str());
  }
  if (ran == 0) std::printf("no test of that name\n");
  return failures() == 0 && ran > 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                                  \
  static void test_##name();                                        \
  static const bool added_##name = check::add(#name, &test_##name); \
  static void test_##name()

#define CHECK(condition, message) \
  if (!(condition)) check::fail(__FILE__, __LINE__, message)
