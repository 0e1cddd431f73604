// words.h - common English words of 4 to 10 letters, for spelling tasks. Internal to reasoning.
#pragma once
#include <array>

namespace nestling::reasoning {

inline constexpr std::array<const char*, 296> kWords = {
    "about",     "above",     "across",   "action",      "advice",   "afternoon", "again",
    "agree",     "always",    "amount",   "animal",      "another",  "answer",    "apple",
    "arrive",    "autumn",    "balance",  "banana",      "basket",   "beauty",    "because",
    "become",    "before",    "begin",    "behind",      "believe",  "between",   "bottle",
    "bottom",    "bridge",    "bright",   "brother",     "building", "butter",    "button",
    "camera",    "candle",    "carry",    "castle",      "center",   "certain",   "chance",
    "change",    "chapter",   "cheese",   "children",    "choice",   "choose",    "church",
    "circle",    "clever",    "climate",  "coffee",      "collect",  "color",     "column",
    "command",   "common",    "complete", "copper",      "corner",   "correct",   "cotton",
    "country",   "courage",   "cousin",   "create",      "curious",  "danger",    "daughter",
    "decide",    "deliver",   "desert",   "dinner",      "discover", "distance",  "doctor",
    "double",    "dragon",    "during",   "eager",       "early",    "effect",    "eight",
    "eleven",    "empty",     "energy",   "engine",      "enough",   "entire",    "evening",
    "every",     "example",   "expect",   "explain",     "family",   "famous",    "father",
    "feather",   "feeling",   "fellow",   "fifteen",     "figure",   "final",     "finger",
    "finish",    "flower",    "follow",   "forest",      "forget",   "forward",   "fourteen",
    "freedom",   "friend",    "future",   "garden",      "gather",   "general",   "gentle",
    "glass",     "golden",    "grammar",  "grandfather", "green",    "ground",    "guess",
    "hammer",    "happen",    "happy",    "harbor",      "health",   "heaven",    "height",
    "history",   "holiday",   "honest",   "hundred",     "hungry",   "imagine",   "important",
    "inside",    "island",    "journey",  "judge",       "kitchen",  "kitten",    "knowledge",
    "ladder",    "language",  "later",    "laughter",    "leader",   "learn",     "leather",
    "lesson",    "letter",    "library",  "listen",      "little",   "machine",   "manner",
    "market",    "matter",    "meadow",   "measure",     "member",   "memory",    "message",
    "middle",    "million",   "minute",   "mirror",      "modern",   "moment",    "money",
    "morning",   "mother",    "mountain", "movement",    "narrow",   "nation",    "nature",
    "needle",    "neighbor",  "never",    "nothing",     "notice",   "number",    "object",
    "ocean",     "office",    "often",    "orange",      "order",    "other",     "paper",
    "parent",    "passenger", "peace",    "pencil",      "people",   "pepper",    "perfect",
    "picture",   "pleasure",  "pocket",   "possible",    "potato",   "present",   "pretty",
    "problem",   "promise",   "protect",  "purple",      "quarter",  "question",  "quick",
    "quiet",     "rabbit",    "rather",   "reason",      "receive",  "remember",  "report",
    "result",    "return",    "river",    "sailor",      "school",   "science",   "season",
    "second",    "secret",    "sentence", "seven",       "shadow",   "shoulder",  "silence",
    "silver",    "simple",    "sister",   "slowly",      "smooth",   "soldier",   "special",
    "spirit",    "spring",    "square",   "station",     "stone",    "story",     "street",
    "strong",    "student",   "success",  "sudden",      "summer",   "surprise",  "sweet",
    "system",    "table",     "teacher",  "temple",      "thirteen", "thought",   "thousand",
    "through",   "tomorrow",  "together", "tower",       "travel",   "treasure",  "tunnel",
    "twelve",    "twenty",    "umbrella", "uncle",       "under",    "useful",    "valley",
    "village",   "violin",    "visitor",  "voice",       "wagon",    "water",     "weather",
    "whisper",   "window",    "winter",   "wisdom",      "wonder",   "writer",    "yellow",
    "yesterday", "young"};

}  // namespace nestling::reasoning
