// chat.h - a conversation over two streams, line by line: what is read is a turn, or a command.
//
// Commands      /size NAME (a name or a budget), /reset, /quit; the end of the input quits too.
// Writes        thinking under [thinking], then the answer under [answer], as they come; lines in brackets
//               say what was done. What is refused is said there, and the conversation goes on.
#pragma once
#include <iosfwd>

#include "runtime/chat_session.h"

namespace nestling {

// prompt: write "> " before a line is read, for a terminal.
void chat(ChatSession& session, std::istream& in, std::ostream& out, bool prompt);

}  // namespace nestling
