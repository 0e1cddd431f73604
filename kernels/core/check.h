// check.h - how everything in Nestling fails.
//
// Rule          Anything a user, a file, a peer or a device can cause throws Error, with what was
//               found and what was needed. Anything only our own bug can cause is NESTLING_ASSERT.
//               Nothing returns an error code; nothing is adjusted in silence.
// Exit codes    An Error carries the code the program ends with: kInput (2) for bad usage, config
//               or files, kRuntime (1) for what failed while running.
#pragma once
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

namespace nestling {

enum class ErrorKind : uint8_t { kRuntime = 1, kInput = 2 };

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ErrorKind kind = ErrorKind::kRuntime)
      : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

// str(1, " of ", 2) == "1 of 2". Never inlined: the messages of checks are everywhere, and as cold
// code outside their callers they cost the compiler a third less.
template <class... Parts>
[[gnu::cold, gnu::noinline]] std::string str(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

[[noreturn]] void throw_check_failed(const char* expression, const char* file, int line,
                                     const std::string& message);

}  // namespace nestling

// Always on. The message names where, what was found and what was needed; the expression goes last.
#define NESTLING_CHECK(condition, ...)                               \
  do {                                                               \
    if (!(condition)) [[unlikely]]                                   \
      ::nestling::throw_check_failed(#condition, __FILE__, __LINE__, \
                                     ::nestling::str(__VA_ARGS__));  \
  } while (false)

// The same for files, configs and arguments a user gave: the program ends with 2.
#define NESTLING_CHECK_INPUT(condition, ...)                                                \
  do {                                                                                      \
    if (!(condition)) [[unlikely]]                                                          \
      throw ::nestling::Error(::nestling::str(__VA_ARGS__), ::nestling::ErrorKind::kInput); \
  } while (false)

// Our own invariants; compiled out with NDEBUG.
#ifdef NDEBUG
#define NESTLING_ASSERT(condition) static_cast<void>(0)
#else
#define NESTLING_ASSERT(condition) NESTLING_CHECK(condition, "internal invariant broken")
#endif
