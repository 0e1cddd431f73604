#include "runtime/chat.h"

#include <iostream>

namespace nestling {

namespace {

// Headings where thinking and answer begin; blanks before a part are dropped.
class Display {
 public:
  explicit Display(std::ostream& out) : out_(out) {}
  void show(bool thinking, const std::string& text) {
    if (!part_ || *part_ != thinking) {
      const size_t begin = text.find_first_not_of(" \n");
      if (begin == std::string::npos) return;
      if (thinking || part_)
        out_ << (part_ ? "\n" : "") << (thinking ? "[thinking]\n" : "[answer]\n");
      part_ = thinking;
      out_ << text.substr(begin) << std::flush;
      return;
    }
    out_ << text << std::flush;
  }

 private:
  std::ostream& out_;
  std::optional<bool> part_;  // being shown: thinking or not
};

void take_turn(ChatSession& session, const std::string& line, std::ostream& out) {
  Display display(out);
  const ChatReply reply = session.answer(
      line, [&](bool thinking, const std::string& text) { display.show(thinking, text); });
  out << "\n[" << reply.tokens << " tokens" << (reply.stopped ? "" : ", cut off at the limit");
  if (session.control().any()) out << ", " << reply.thinking_tokens << " of thinking";
  out << "; " << reply.tokens_run << " of the conversation run" << (reply.again ? " again" : "");
  if (reply.tokens_switched > 0)
    out << "; " << reply.tokens_switched << " run again where another size took over";
  out << "]\n";
}

void take_command(ChatSession& session, const std::string& line, std::ostream& out) {
  const std::string kSize = "/size ";
  if (line == "/reset") {
    session.reset();
    out << "[the conversation begins anew]\n";
  } else if (line.starts_with(kSize)) {
    const int64_t run = session.select(line.substr(kSize.size()));
    out << "[size " << session.model().size()
        << (session.model().trained() ? "" : ", not trained by itself") << ": " << run
        << " tokens of the conversation run again]\n";
  } else {
    out << "[" << line << " is no command; there are /size NAME, /reset, /quit]\n";
  }
}

}  // namespace

void chat(ChatSession& session, std::istream& in, std::ostream& out, bool prompt) {
  std::string line;
  for (;;) {
    if (prompt) out << "> " << std::flush;
    if (!std::getline(in, line) || line == "/quit") break;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      line.starts_with('/') ? take_command(session, line, out) : take_turn(session, line, out);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kInput) throw;
      out << "[" << e.what() << "]\n";
    }
    out << std::flush;
  }
}

}  // namespace nestling
