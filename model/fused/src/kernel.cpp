// The C interface: one LARNN layer over one sequence, forward and backward through time.
#include <exception>

#include "backward.h"

namespace {

template <class T> Packed<T> pack_forward(const Plan<T>& plan, Arena& arena, bool fill) {
  const Problem& p = plan.p;
  const int64_t H = plan.H, I = plan.I;
  Packed<T> packed;
  packed.input_hidden = arena.take<T>(packed_size(5 * H, I + H));
  packed.memory = arena.take<T>(packed_size(2 * H, H));
  packed.attended = arena.take<T>(packed_size(H, H));
  packed.gates = arena.take<T>(packed_size(4 * H, H));
  if (!fill) return packed;
  pack(packed.input_hidden, static_cast<const T*>(p.input_matrix), 5 * H, I, I, 1, 0, I + H);
  pack(packed.input_hidden, static_cast<const T*>(p.hidden_matrix), 5 * H, H, H, 1, I, I + H);
  pack(packed.memory, static_cast<const T*>(p.memory_matrix), 2 * H, H, H, 1);
  pack(packed.attended, static_cast<const T*>(p.attended_matrix), H, H, H, 1);
  pack(packed.gates, static_cast<const T*>(p.gates_matrix), 4 * H, H, H, 1);
  return packed;
}

template <class T> PackedBack<T> pack_backward(const Plan<T>& plan, Arena& arena, bool fill) {
  const Problem& p = plan.p;
  const int64_t H = plan.H, I = plan.I;
  PackedBack<T> packed;
  packed.input_hidden = arena.take<T>(packed_size(I + H, 5 * H));
  packed.memory = arena.take<T>(packed_size(H, 2 * H));
  packed.attended = arena.take<T>(packed_size(H, H));
  packed.gates = arena.take<T>(packed_size(H, 4 * H));
  T* both = arena.take<T>((I + H) * 5 * H);
  if (!fill) return packed;
  const T* x = static_cast<const T*>(p.input_matrix);
  const T* h = static_cast<const T*>(p.hidden_matrix);
  for (int64_t r = 0; r < 5 * H; ++r) {
    std::copy_n(x + r * I, I, both + r * (I + H));
    std::copy_n(h + r * H, H, both + r * (I + H) + I);
  }
  pack(packed.input_hidden, both, I + H, 5 * H, 1, I + H);
  pack(packed.memory, static_cast<const T*>(p.memory_matrix), H, 2 * H, 1, H);
  pack(packed.attended, static_cast<const T*>(p.attended_matrix), H, H, 1, H);
  pack(packed.gates, static_cast<const T*>(p.gates_matrix), H, 4 * H, 1, H);
  return packed;
}

// With run = false: only counts the scratch memory, in bytes.
template <class T> int64_t forward(const Problem& problem, bool run) {
  Plan<T> plan(problem);
  Arena arena(run ? problem.scratch : nullptr);
  const Packed<T> packed = pack_forward(plan, arena, run);
  Exchange<T> exchange{plan.threads, plan.H, nullptr};
  exchange.at = arena.take<T>(Exchange<T>::size(plan.threads, plan.H));
  Barrier barrier(plan.threads);
  std::vector<Forward<T>> workers;
  workers.reserve(plan.threads);
  for (int i = 0; i < plan.threads; ++i)
    workers.emplace_back(plan, packed, exchange, barrier, i).lay_out(arena);
  if (run) run_team(plan.threads, [&](int i) { workers[i].run(); });
  return arena.used();
}

template <class T> void give(void* to, const T* from, int64_t count) {
  if (to)
    for (int64_t i = 0; i < count; ++i) static_cast<T*>(to)[i] += from[i];
}
template <class T> void give(void* to, const Vec<T>* from, int64_t count) {
  if (to)
    for (int64_t i = 0; i < count; ++i) static_cast<T*>(to)[i] += sum_lanes<T>(from[i]);
}

// Add one thread's gradients of the parameters to the caller's, which begin at 0.
template <class T> void give_all(const Plan<T>& plan, const Gradients<T>& total) {
  const Problem& p = plan.p;
  const int64_t H = plan.H, I = plan.I;
  for (int64_t r = 0; r < 5 * H; ++r) {
    const T* row = total.input_hidden + r * (I + H);
    if (p.d_input_matrix) give(static_cast<T*>(p.d_input_matrix) + r * I, row, I);
    if (p.d_hidden_matrix) give(static_cast<T*>(p.d_hidden_matrix) + r * H, row + I, H);
  }
  give(p.d_memory_matrix, total.memory, 2 * H * H);
  give(p.d_attended_matrix, total.attended, H * H);
  give(p.d_gates_matrix, total.gates, 4 * H * H);
  give<T>(p.d_bias, total.bias, 5 * H);
  give<T>(p.d_memory_bias, total.memory_bias, 2 * H);
  give<T>(p.d_attended_bias, total.attended_bias, H);
  if (p.position) give<T>(p.d_position, total.position, plan.K * 2 * H);
  for (int s = 0; s < kGivenSites; ++s) {
    give<T>(p.d_norm_weight[s], total.norms[s], H);
    give<T>(p.d_norm_bias[s], total.norms[s] + H, H);
  }
}

template <class T> int64_t backward(const Problem& problem, bool run) {
  Plan<T> plan(problem);
  Arena arena(run ? problem.scratch : nullptr);
  const PackedBack<T> packed = pack_backward(plan, arena, run);
  Exchange<T> exchange{plan.threads, plan.H, nullptr};
  exchange.at = arena.take<T>(Exchange<T>::size(plan.threads, plan.H));
  T* d_keys = arena.take<T>(plan.blocks * plan.keys * plan.H * kLanes<T>);
  T* d_values = arena.take<T>(plan.blocks * plan.keys * plan.H * kLanes<T>);
  Barrier barrier(plan.threads);
  std::vector<Backward<T>> workers;
  workers.reserve(plan.threads);
  for (int i = 0; i < plan.threads; ++i)
    workers.emplace_back(plan, packed, exchange, barrier, i, d_keys, d_values).lay_out(arena);
  if (!run) return arena.used();
  run_team(plan.threads, [&](int i) { workers[i].run(); });
  for (const auto& worker : workers) give_all(plan, worker.total);
  return arena.used();
}

template <class Work> int64_t typed(const Problem* problem, const Work& work) {
  try {
    return problem->value_bytes == 4 ? work(float{}) : work(double{});
  } catch (const std::exception&) {  // no thread could be started
    return -1;
  }
}

}  // namespace

extern "C" {
int64_t larnn_problem_bytes() { return sizeof(Problem); }
int64_t larnn_saved_bytes(const Problem* p) {
  return typed(p, [&](auto type) { return Plan<decltype(type)>(*p).saved_bytes(); });
}
int64_t larnn_forward(const Problem* p, int run) {
  return typed(p, [&](auto type) { return forward<decltype(type)>(*p, run); });
}
int64_t larnn_backward(const Problem* p, int run) {
  return typed(p, [&](auto type) { return backward<decltype(type)>(*p, run); });
}
}
