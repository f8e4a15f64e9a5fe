// Forward: one thread's share of the sequences through all time steps.
#pragma once
#include "attention.h"
#include "worker.h"

template <class T> struct Packed {  // matrices as products read them, shared by all threads
  T *input_hidden, *memory, *attended, *gates;
};

template <class T> struct Forward : Worker<T> {
  using Base = Worker<T>;
  using Base::active, Base::L, Base::plan, Base::range, Base::W;
  const Packed<T>& packed;
  T *inputs;            // [x; h] of the step, [block][I + H][lane]
  T *attention, *mixed; // the attention's result after its norm; cell and hidden before theirs
  T *memory;            // keys and values of a cell, [block][2H][lane]
  T *head;              // a head's query and result, [2][D][lane]

  Forward(const Plan<T>& plan, const Packed<T>& packed, const Exchange<T>& exchange,
          Barrier& barrier, int thread)
      : Base(plan, exchange, barrier, thread), packed(packed) {}

  void lay_out(Arena& arena) {
    Base::lay_out(arena, false);
    const int64_t panel = plan.widest_range() * plan.H * L;
    inputs = arena.take<T>(plan.widest_range() * (plan.I + plan.H) * L);
    attention = arena.take<T>(panel);
    mixed = arena.take<T>(panel);
    memory = arena.take<T>(2 * panel);
    head = arena.take<T>(2 * plan.D * L);
  }

  int64_t wide() const { return (plan.I + plan.H) * L; }
  int64_t panel() const { return plan.H * L; }
  int64_t saved() const { return 7 * plan.H * L; }  // from block to block of a step

  void run() {
    plan.ranges(this->thread, [&](int64_t first, int64_t blocks) {
      this->enter(first, blocks);
      start();
      for (int64_t t = 0; t < plan.T_; ++t) step(t);
      finish();
    });
  }

  void start() {
    const Problem& p = plan.p;
    this->at_step(0);
    for (int64_t b = 0; b < range.blocks; ++b)
      load_panel(inputs + b * wide() + plan.I * L, static_cast<const T*>(p.hidden), plan.H,
                 (range.first + b) * L, plan.B);
    for (int64_t row = 0; row < plan.R; ++row) {
      for (int64_t b = 0; b < range.blocks; ++b)
        load_panel(plan.cell(row, range.first + b),
                   static_cast<const T*>(p.queue) + row * plan.B * plan.H, plan.H,
                   (range.first + b) * L, plan.B);
      project(row);
      announce_memory(row);
      this->meet(this->memory_measures(kKey, row));
      remember(row);
    }
  }

  void step(int64_t t) {
    const int64_t row = plan.R + t;
    const bool looked_at = row < plan.keys;
    const auto& norms = plan.norms;
    this->at_step(t);
    ask(t);
    look(t);
    this->announce(kAttention, t, plan.step(t, range.first) + 6 * panel(), saved(), range);
    this->meet(norms[kAttention].measures(t));
    gate(t);
    this->announce(kCell, t, mixed, panel(), range);
    this->meet(norms[kCell].measures(t));
    make_cell(t);
    this->announce(kHidden, t, mixed, panel(), range);
    if (looked_at) {
      at_step_of_row(row);
      project(row);
      announce_memory(row);
      this->at_step(t);
    }
    this->meet(norms[kHidden].measures(t) ||
               (looked_at && this->memory_measures(kKey, row)));
    make_hidden(t);
    if (looked_at) remember(row);
  }

  // A cell's key is made by the step that first looks at it: its batch is who runs then.
  void at_step_of_row(int64_t row) { this->at_step(std::max<int64_t>(0, row - plan.R + 1)); }

  void ask(int64_t t) {  // query and gates from [x; h]
    const Problem& p = plan.p;
    const int64_t H = plan.H;
    T* first = plan.step(t, range.first);
    for (int64_t b = 0; b < range.blocks; ++b)
      load_panel(inputs + b * wide(), static_cast<const T*>(p.inputs) + t * plan.B * plan.I,
                 plan.I, (range.first + b) * L, plan.B);
    product(packed.input_hidden, 5 * H, plan.I + H, inputs, wide(), first, saved(), range.blocks,
            Begin::kBias, static_cast<const T*>(p.bias));
    for (int64_t b = 0; b < range.blocks; ++b) {
      T* query = first + b * saved();
      if (plan.query_pre) std::copy_n(query, H * L, plan.query(t, range.first + b));
      with_activation(p.activation, [&](auto a) {
        for (int64_t i = 0; i < H * L; i += W)
          *vectors(query + i) = activate<T, decltype(a)::value>(*vectors(query + i));
      });
    }
  }

  // Keys and values of the step's windows, and the moments of their norms.
  void age(int64_t t, const Range<T>& blocks) {
    const int64_t step = plan.R + t - 1;  // of the newest row
    auto& window = this->window;
    window.enter(t, blocks);
    if (!window.has_norms()) return;
    for (int site : {kKey, kValue})
      this->announce(kAgedKey + site, step, window.panels[site], panel(), window.range);
    this->meet(this->memory_measures(kAgedKey, step));
    for (int site : {kKey, kValue})
      window.moments[site] =
          this->agree(kAgedKey + site, step, window.panels[site], panel(), window.range);
  }

  void look(int64_t t) {  // attention and W_o
    const Problem& p = plan.p;
    const int64_t H = plan.H;
    T* first = plan.step(t, range.first);
    this->groups(t, [&](const Range<T>& blocks) {
      if (p.position) age(t, blocks);
      for (int64_t b = 0; b < blocks.blocks; ++b)
        for (int64_t n = 0; n < plan.N; ++n) attend(t, blocks.first + b, n);
    });
    product(packed.attended, H, H, first + 5 * panel(), saved(), first + 6 * panel(), saved(),
            range.blocks, Begin::kBias, static_cast<const T*>(p.attended_bias));
    for (int64_t b = 0; b < range.blocks; ++b) {
      T* result = first + b * saved() + 6 * panel();
      for (int64_t i = 0; i < H * L; i += W) *vectors(result + i) = elu<T>(*vectors(result + i));
    }
  }

  // Head n owns the features n, N + n, 2N + n, ... of query and result.
  void attend(int64_t t, int64_t block, int64_t n) {
    const int64_t oldest = plan.oldest(t), count = plan.R + t - oldest, D = plan.D;
    const T scale = T(1) / std::sqrt(T(D));
    T* saved = plan.step(t, block);
    for (int64_t d = 0; d < D; ++d)
      for (int i = 0; i < L; i += W)
        *vectors(head + d * L + i) = *vectors(saved + (d * plan.N + n) * L + i) * scale;
    const T* keys = plan.keys_at + plan.run(block, n, oldest);
    const T* values = plan.values_at + plan.run(block, n, oldest);
    if (plan.p.position) {
      keys = this->window.take_head(kKey, block, n);
      values = this->window.take_head(kValue, block, n);
    }
    const int64_t ahead = plan.p.position ? 0 : plan.head_step();
    T* scores = this->scores[0];
    T* softmax = plan.softmax(t, block, n);
    dot_rows(head, keys, count, D, scores, ahead);
    soften(scores, count, softmax);
    mix_rows(scores, values, count, D, head + D * L, ahead);
    for (int64_t d = 0; d < D; ++d)
      for (int i = 0; i < L; i += W)
        *vectors(saved + 5 * panel() + (d * plan.N + n) * L + i) =
            *vectors(head + (D + d) * L + i) * *vectors(softmax + L + i);
  }

  void gate(int64_t t) {  // gates, and the cell before its norm
    T* first = plan.step(t, range.first);
    T* before = first + 6 * panel();
    normalise(plan.norms[kAttention], this->agree(kAttention, t, before, saved(), range), before,
              saved(), attention, panel(), range.blocks);
    product(packed.gates, 4 * plan.H, plan.H, attention, panel(), first + panel(), saved(),
            range.blocks, Begin::kAdd);
    for (int64_t b = 0; b < range.blocks; ++b) {
      T* gates = first + b * saved() + panel();
      const T* last = plan.cell(plan.R + t - 1, range.first + b);
      for (int64_t i = 0; i < panel(); i += W) {
        const Vec<T> candidate = tanh_of<T>(*vectors(gates + i));
        const Vec<T> forget = sigmoid<T>(*vectors(gates + panel() + i));
        const Vec<T> update = sigmoid<T>(*vectors(gates + 2 * panel() + i));
        *vectors(gates + i) = candidate;
        *vectors(gates + panel() + i) = forget;
        *vectors(gates + 2 * panel() + i) = update;
        *vectors(gates + 3 * panel() + i) = sigmoid<T>(*vectors(gates + 3 * panel() + i));
        *vectors(mixed + b * panel() + i) = candidate * update + *vectors(last + i) * forget;
      }
    }
  }

  void make_cell(int64_t t) {  // the cell, and the hidden state before its norm
    T* cell = plan.cell(plan.R + t, range.first);
    normalise(plan.norms[kCell], this->agree(kCell, t, mixed, panel(), range), mixed, panel(), cell,
              panel(), range.blocks);
    this->silence(cell, panel());
    for (int64_t b = 0; b < range.blocks; ++b) {
      const T* output = plan.step(t, range.first + b) + 4 * panel();
      with_activation(plan.p.cell_activation, [&](auto a) {
        for (int64_t i = 0; i < panel(); i += W)
          *vectors(mixed + b * panel() + i) =
              *vectors(output + i) *
              activate<T, decltype(a)::value>(*vectors(cell + b * panel() + i));
      });
    }
  }

  void make_hidden(int64_t t) {
    const Problem& p = plan.p;
    const int64_t H = plan.H;
    T* hidden = inputs + plan.I * L;
    normalise(plan.norms[kHidden], this->agree(kHidden, t, mixed, panel(), range), mixed, panel(),
              hidden, wide(), range.blocks);
    for (int64_t b = 0; p.keep && b < range.blocks; ++b) {
      load_panel(mixed, static_cast<const T*>(p.keep) + t * plan.B * H, H, (range.first + b) * L,
                 plan.B);
      for (int64_t i = 0; i < panel(); i += W)
        *vectors(hidden + b * wide() + i) *= *vectors(mixed + i);
    }
    this->silence(hidden, wide());
    for (int64_t b = 0; b < range.blocks; ++b)
      store_panel(static_cast<T*>(p.output) + t * plan.B * H, hidden + b * wide(), H,
                  (range.first + b) * L, plan.B);
  }

  // Keys and values of a cell before their norms.
  T* pre(int64_t row) const { return plan.memory_pre ? plan.pre(row, range.first) : memory; }

  void project(int64_t row) {
    const Problem& p = plan.p;
    T* before = pre(row);
    product(packed.memory, 2 * plan.H, plan.H, plan.cell(row, range.first), panel(), before,
            2 * panel(), range.blocks, p.memory_bias ? Begin::kBias : Begin::kZero,
            static_cast<const T*>(p.memory_bias));
    if (p.position) return;  // activated by age, when looked at
    with_activation(p.activation, [&](auto a) {
      for (int64_t i = 0; i < range.blocks * 2 * panel(); i += W)
        *vectors(memory + i) = activate<T, decltype(a)::value>(*vectors(before + i));
    });
  }

  void announce_memory(int64_t row) {
    this->announce(kKey, row, memory, 2 * panel(), range);
    this->announce(kValue, row, memory + panel(), 2 * panel(), range);
  }

  void remember(int64_t row) {
    for (int site : {kKey, kValue}) {
      T* part = memory + (site == kValue ? panel() : 0);
      normalise(plan.norms[site], this->agree(site, row, part, 2 * panel(), range), part,
                2 * panel(), part, 2 * panel(), range.blocks);
      T* store = site == kKey ? plan.keys_at : plan.values_at;
      for (int64_t b = 0; b < range.blocks; ++b)
        for (int64_t n = 0; n < plan.N; ++n)
          for (int64_t d = 0; d < plan.D; ++d)
            std::copy_n(part + b * 2 * panel() + (d * plan.N + n) * L, L,
                        store + plan.run(range.first + b, n, row) + d * L);
    }
  }

  void finish() {
    for (int64_t i = 0; i < plan.p.cells_out; ++i)
      for (int64_t b = 0; b < range.blocks; ++b)
        store_panel(static_cast<T*>(plan.p.cells) + i * plan.B * plan.H,
                    plan.cell(plan.R + plan.T_ - plan.p.cells_out + i, range.first + b), plan.H,
                    (range.first + b) * L, plan.B);
  }
};
