// distill_step.h - one optimizer step of elastic distillation: a frozen parent teaches several sizes of
// one student.
//
//   loss = sum over micro-batches and the sizes drawn of w_size (KL(teacher || student) + ce_weight CE)
//          + router.loss_weight * budget loss;   means over the tokens of the global batch, of the CE too
//
// Sizes         k = sizes_per_micro_batch of them share one teacher forward, its small logits too. k < all: drawn without
//               replacement by the phase's sampling weights, each with weight 1/k. k = all: every size,
//               the sampling weights become loss weights.
// Modes         while the router learns, every size runs at full width under soft masks; once its
//               choices are frozen, as prefix views.
// Draws         from (seed, step, micro-step) alone: every rank makes the same calls.
// Waits         one a step for the device: losses, loads, gradient norm and the gradients of all draws' masks
//               are read together. The router, on the host, goes backward then, draw after draw.
// Memory        on a CUDA device all of it is taken before a step begins, by a rehearsal on the null device of
//               the largest step of its shape (trainer/step_shape.h); a step allocates nothing. One of
//               a larger shape than all before takes the arenas anew. Other devices take as they go.
// Not finite    a loss or gradient norm, the router's too, that is NaN or infinite changes nothing but the
//               counters.
// Precision     masters, moments, gradients and logits f32; products read low copies with compute bf16.
// Quantized     a student that is (StudentStart) multiplies codes in forward, of activations too, and is trained straight
//               through them (model/layers/product.h): quantization-aware distillation, arXiv 2601.20088. Scales of
//               tensors stay as they came.
// Ownership     borrows the teacher's weights and the router; owns the student.
#pragma once
#include <functional>
#include <vector>

#include "data/batches.h"
#include "kernels/comm/comm.h"
#include "kernels/core/memory_table.h"
#include "model/model.h"
#include "model/soft_masks.h"
#include "trainer/device_sums.h"
#include "trainer/expert_load.h"
#include "trainer/optimizer.h"
#include "trainer/router_training.h"
#include "trainer/size_draw.h"
#include "trainer/step_shape.h"

namespace nestling {

struct SizeLoss {
  double kl = 0;         // nats a token, mean over the tokens it was trained on
  double tokens = 0;     // size-tokens, over all ranks
  double cost = 0;       // expected, of its budget (1: met); mean over its draws
  double imbalance = 0;  // largest load of an expert over the mean load, worst layer; 0: no MoE
};

struct HeldOutLoss {
  double nll = 0, targets = 0;  // sums of this rank
  double kl = 0, tokens = 0;
};

struct DistillResult {
  double loss = 0;              // weighted KL and CE, nats a token
  double budget = 0;            // budget loss, without router.loss_weight
  double grad_norm = 0;         // of the student, before clipping
  double router_grad_norm = 0;  // apart from it, never clipped; 0 once choices are frozen
  bool skipped = false;
  std::vector<SizeLoss> sizes;
};

struct DistillMoment {
  int64_t step = 0;    // of the run, from 0
  int64_t update = 1;  // AdamW's t
  int64_t tokens = 0;  // seen before this step
  double lr = 0;       // of the student; the router has its own
};

// Of teacher and student (WeightsOptions): the ranks, where config.parallel.shard has them share layers.
Comm* layers_shared_by(const RunConfig& config, Comm& comm);
// What becomes of the teacher's masters once the student has them (Weights::drop_masters).
enum class TeacherMasters : uint8_t { kKept, kDropped };
// Dropped where the teacher runs on bf16: a third of the memory that it takes is left.
TeacherMasters teacher_masters(const RunConfig& config);

// What a student begins with.
struct StudentStart {
  const Weights* masters =
      nullptr;  // on any device, borrowed by the constructor; none: the teacher's
  std::optional<Quantization> quantization = {};  // it trains the codes of these parameters
};

class DistillStep {
 public:
  DistillStep(const ElasticSpace& space, const RunConfig& config, Weights& teacher,
              RouterTraining& router, Context& ctx, Comm& comm,
              TeacherMasters masters = TeacherMasters::kKept, const StudentStart& start = {});

  // `sampling`: a weight a size, summing to 1.
  DistillResult run(const std::vector<Batch>& micro_batches, const std::vector<double>& sampling,
                    const DistillMoment& at);
  // Takes the memory of such a step, as run() does itself.
  void reserve(const std::vector<Batch>& micro_batches);
  // Every size as it would be cut now, against the teacher; no gradients. Adds to `sums`, one a size. At
  // temperature 1, whatever distill.temperature is, as every evaluation.
  void evaluate(const Batch& batch, std::vector<HeldOutLoss>& sums);
  // From now on evaluate() raises what is there to the largest activations (Weights::params); {}: no more.
  void watch_inputs(View largest) { largest_inputs_ = largest; }
  Weights& student() { return student_; }
  std::vector<MemoryPool> memory() const;  // of this rank, so far
  TrainingState state() { return optimizer_.state(); }

 private:
  struct MaskedDraw {
    int64_t size;
    double
        weight;  // of its budget loss: that of the size, times this share of the global batch's tokens
    RouterDraw draw;
  };
  struct Norms {
    double weights, router;
  };
  struct Teacher {  // as in HeadLoss: x, w and the scale of what they make, or logits
    ConstView x = {}, w = {}, logits = {};
    float logit_scale = 1;
  };
  Teacher teach(const Batch& batch, int64_t students);
  void micro_batch(const Batch& batch, const std::vector<DrawnSize>& drawn, double per_token,
                   const DrawKey& key);
  void train_masked(const Batch& batch, const Teacher& teacher, const DrawnSize& drawn,
                    double per_token, const DrawKey& key);
  void train_sliced(const Batch& batch, const Teacher& teacher, const DrawnSize& drawn,
                    double per_token);
  int64_t experts_of(int64_t size) const;
  void collect_losses();
  void begin_step(bool whole);  // whether the step's first backward is one of whole weights
  void rehearse(const std::function<void(DistillStep&)>& step);
  void largest_step(const StepShape& shape);
  void train_router(ConstView mask_gradients);
  Norms finish();
  // Forward, loss and backward of one size on parameters of any width.
  void train(LayerRun& run, const ModelParams<Weight>& w, const ModelParams<View>& g,
             const Batch& batch, const Teacher& teacher, const DrawnSize& drawn, double per_token);

  const ElasticSpace& space_;
  RunConfig config_;
  Weights& teacher_;
  RouterTraining& router_;
  Context& ctx_;
  Comm& comm_;
  Arena arena_;
  View largest_inputs_;
  Weights student_;
  WeightsOptimizer optimizer_;
  SoftMasks masks_;
  StepShape reserved_;
  // Of the step in hand: a row a size of kl, nll, weight, tokens, cost, draws; then loss and budget loss.
  std::vector<double> sums_;
  DeviceSums device_sums_;  // kl and nll of every size, norm of the gradients
  bool fresh_ = false;      // no backward has been: gradients that products make hold nothing yet
  std::vector<MaskedDraw> draws_;  // under masks
  View mask_gradients_;            // a row a draw
  std::vector<ExpertLoad> loads_;  // one a size
};

}  // namespace nestling
