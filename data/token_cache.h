// token_cache.h - remembers the ids of pieces seen before; most pieces of a text are.
//
// Bounded: short pieces, until a shard is full; nothing is thrown out. A hit gives what computing
// gives, so results never depend on it. Thread-safe: shards with a lock each, and a thread that
// finds a shard locked computes instead of waiting.
#pragma once
#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nestling {

class TokenCache {
 public:
  // Appends the ids of `piece` and returns true if it is remembered.
  bool find(std::string_view piece, std::vector<int32_t>* ids) {
    if (piece.size() > kMaxPiece) return false;
    Shard& shard = shard_of(piece);
    const std::unique_lock lock(shard.mutex, std::try_to_lock);
    if (!lock) return false;
    const auto it = shard.ids.find(piece);
    if (it == shard.ids.end()) return false;
    ids->insert(ids->end(), it->second.begin(), it->second.end());
    return true;
  }
  void remember(std::string_view piece, const int32_t* ids, size_t n) {
    if (piece.size() > kMaxPiece) return;
    Shard& shard = shard_of(piece);
    const std::unique_lock lock(shard.mutex, std::try_to_lock);
    if (!lock || shard.ids.size() >= kMaxPerShard) return;
    shard.ids.try_emplace(std::string(piece), ids, ids + n);
  }

 private:
  static constexpr size_t kShards = 16;
  static constexpr size_t kMaxPerShard = 8192;
  static constexpr size_t kMaxPiece = 64;
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };
  struct Shard {
    std::mutex mutex;
    std::unordered_map<std::string, std::vector<int32_t>, Hash, std::equal_to<>> ids;
  };
  Shard& shard_of(std::string_view piece) { return shards_[Hash()(piece) >> 32 & (kShards - 1)]; }
  std::array<Shard, kShards> shards_;
};

}  // namespace nestling
