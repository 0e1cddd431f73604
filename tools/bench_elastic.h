// bench_elastic.h - what one step of elastic distillation costs, size by size.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace nestling {

struct BenchElasticOptions {
  std::string config = "configs/runs/quickstart.yaml";  // of an elastic run
  std::string parent;                                   // instead of the config's
  bool tiny = false;                                    // short steps, for tests
  int64_t seq_len = 0;                                  // 0: 512, or 16 if tiny
  int64_t batch = 0;   // sequences of a step, one micro-batch; 0: 8, or 1 if tiny
  int64_t rounds = 0;  // timed, after two steps that warm up; 0: 7, or 1 if tiny
  std::string device = "cpu";
  std::string compute = "fp32";      // precision of the products
  std::string activations;           // empty: bf16 on CUDA with bf16 products, else fp32
  std::vector<std::string> only;     // variants; empty: those of `slice` and mask/full
  std::filesystem::path peer_files;  // a folder; empty: none
  int threads = 0;                   // 0: all
  bool json = false;
};

// Variants      slice/SIZE and mask/SIZE: teacher forward, student forward, loss, backward, AdamW (every
//               weight is stepped, whatever the size), as prefix views or under masks of the same widths;
//               slice/all and mask/all: every size on one teacher forward.
// Setting       the config's parent, sorted by the config's calibration; widths as a router that has learnt
//               nothing settles them; its training text, each sequence one document; the gate's own
//               balance of experts.
// Timing        variants in turns, each round a batch of its own, so that a slow minute hits all alike.
// Device        steps are timed by the clock until the device has done them.
// Prints        seconds and FLOPs of every variant and its share of both of the largest size's; with
//               --json also KL and gradient norm of the first step, in which the student is the
//               teacher.
// Goal          on a card a size in slice mode takes at most 1.15 times its share of FLOPs
//               (time_over_flop_share).
// Peer files    the sorted parent as a Hugging Face directory, and step.json: tokens and widths, all another
//               program needs for the same steps.
int bench_elastic(const BenchElasticOptions& options);

}  // namespace nestling
