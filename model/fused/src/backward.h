// Backward through time: one thread's share of the sequences, last step first.
#pragma once
#include "forward.h"

template <class T> struct PackedBack {  // transposed matrices
  T *input_hidden, *memory, *attended, *gates;
};

// One thread's gradients of the parameters; added up over threads at the end. Vectors [.][W] are sums
// not yet taken over their lanes.
template <class T> struct Gradients {
  T *input_hidden, *memory, *attended, *gates;
  Vec<T> *bias, *memory_bias, *attended_bias, *norms[kGivenSites], *position;
  T* first;
  int64_t count;
};

template <class T> struct Backward : Worker<T> {
  using Base = Worker<T>;
  using Base::active, Base::L, Base::plan, Base::range, Base::W;
  const PackedBack<T>& packed;
  T *d_keys, *d_values;  // shared, laid out as keys and values; each thread touches its own blocks
  Gradients<T> total{};

  T *d_hidden, *d_cell;  // what later steps say, [block][H][lane]
  T *before_cell, *before_hidden, *d_wide;
  T *memory;             // a cell's keys and values before their norms, activated
  T* head;               // query, mixed, and the gradients of query and mixed, [4][D][lane]
  // Panels of the latest steps, until their share of the matrices' gradients is taken.
  int64_t kept, waiting = 0, cells_waiting = 0;
  T *d_asked, *inputs, *d_attended, *attention, *d_memories;  // [kept][block]...
  const T **d_asked_at, **d_gates_at, **inputs_at, **d_attended_at, **mixed_at, **attention_at;
  const T **d_memory_at, **cell_at;
  T* tiles;

  Backward(const Plan<T>& plan, const PackedBack<T>& packed, const Exchange<T>& exchange,
           Barrier& barrier, int thread, T* d_keys, T* d_values)
      : Base(plan, exchange, barrier, thread), packed(packed), d_keys(d_keys), d_values(d_values) {
    kept = std::max<int64_t>(1, 64 / plan.widest_range());
  }

  void lay_out(Arena& arena) {
    Base::lay_out(arena, true);
    const int64_t H = plan.H, width = plan.widest_range(), panel = width * H * L;
    d_hidden = arena.take<T>(panel);
    d_cell = arena.take<T>(panel);
    before_cell = arena.take<T>(panel);
    before_hidden = arena.take<T>(panel);
    d_wide = arena.take<T>(width * (plan.I + H) * L);
    memory = arena.take<T>(2 * panel);
    head = arena.take<T>(4 * plan.D * L);
    d_asked = arena.take<T>(kept * 5 * panel);
    inputs = arena.take<T>(kept * width * (plan.I + H) * L);
    d_attended = arena.take<T>(kept * panel);
    attention = arena.take<T>(kept * panel);
    d_memories = arena.take<T>(kept * 2 * panel);
    tiles = arena.take<T>(outer_scratch(std::max(plan.I + H, H), kept, width) / sizeof(T));
    for (auto list : {&d_asked_at, &d_gates_at, &inputs_at, &d_attended_at, &mixed_at,
                      &attention_at, &d_memory_at, &cell_at})
      *list = arena.take<const T*>(kept);
    lay_out_gradients(arena);
  }

  void lay_out_gradients(Arena& arena) {
    const int64_t H = plan.H;
    const int64_t start = arena.used();
    total.input_hidden = arena.take<T>(5 * H * (plan.I + H));
    total.first = total.input_hidden;
    total.memory = arena.take<T>(2 * H * H);
    total.attended = arena.take<T>(H * H);
    total.gates = arena.take<T>(4 * H * H);
    auto sums = [&](int64_t count) { return reinterpret_cast<Vec<T>*>(arena.take<T>(count * W)); };
    total.bias = sums(5 * H);
    total.memory_bias = sums(2 * H);
    total.attended_bias = sums(H);
    for (auto& norm : total.norms) norm = sums(2 * H);
    total.position = plan.p.position ? sums(plan.K * 2 * H) : nullptr;
    this->window.d_position = total.position;
    this->window.d_stored[kKey] = d_keys, this->window.d_stored[kValue] = d_values;
    total.count = (arena.used() - start) / int64_t(sizeof(T));
  }

  int64_t wide() const { return (plan.I + plan.H) * L; }
  int64_t panel() const { return plan.H * L; }
  int64_t saved() const { return 7 * plan.H * L; }
  T* d_asked_panel() const { return d_asked + waiting * range.blocks * 5 * panel(); }
  T* attention_panel() const { return attention + waiting * range.blocks * panel(); }
  T* d_attended_panel() const { return d_attended + waiting * range.blocks * panel(); }

  void run() {
    std::fill_n(total.first, total.count, T(0));
    plan.ranges(this->thread, [&](int64_t first, int64_t blocks) {
      this->enter(first, blocks);
      std::fill_n(d_hidden, blocks * panel(), T(0));
      std::fill_n(d_cell, blocks * panel(), T(0));
      for (int64_t t = plan.T_ - 1; t >= 0; --t) step(t);
      finish();
      take_matrix_gradients();
      take_memory_gradients();
    });
  }

  void step(int64_t t) {
    const int64_t row = plan.R + t;
    const bool looked_at = row < plan.keys;
    const auto& norms = plan.norms;
    this->at_step(t);
    const Moments<T> hidden = receive(t);
    sums(kHidden, t, hidden, before_hidden, panel(), d_hidden, panel(), range);
    if (looked_at) open_memory(row);
    this->at_step(t);
    this->meet(norms[kHidden].measures(t) || (looked_at && this->memory_measures(kKey, row)));
    back_to(kHidden, t, hidden, before_hidden, panel(), d_hidden, panel(), range);
    if (looked_at) close_memory(row);
    this->at_step(t);
    const Moments<T> cell = through_hidden(t);
    sums(kCell, t, cell, before_cell, panel(), d_cell, panel(), range);
    this->meet(norms[kCell].measures(t));
    back_to(kCell, t, cell, before_cell, panel(), d_cell, panel(), range);
    through_gates(t);
    T* d_attention = d_attended_panel();
    const T* attended = plan.step(t, range.first) + 6 * panel();
    const Moments<T> attention = this->known(kAttention, t, attended, saved(), range);
    normalise(norms[kAttention], attention, attended, saved(), attention_panel(), panel(),
              range.blocks);
    sums(kAttention, t, attention, attended, saved(), d_attention, panel(), range);
    this->meet(norms[kAttention].measures(t));
    back_to(kAttention, t, attention, attended, saved(), d_attention, panel(), range);
    through_attention(t);
    through_inputs(t);
    if (++waiting == kept) take_matrix_gradients();
  }

  void sums(int site, int64_t step, const Moments<T>& moments, const T* from, int64_t from_step,
            const T* gradient, int64_t gradient_step, const Range<T>& over) {
    const Norm<T>& norm = plan.norms[site];
    if (norm.kind == kNoNorm) return;
    T* slot = this->exchange.slot(this->turn, site, this->thread);
    gradient_sums(norm, moments, from, from_step, gradient, gradient_step, over.blocks,
                  total.norms[given_site(site)], norm.measures(step) ? slot : nullptr);
  }
  void back_to(int site, int64_t step, const Moments<T>& moments, const T* from, int64_t from_step,
               T* gradient, int64_t gradient_step, const Range<T>& over) {
    const Norm<T>& norm = plan.norms[site];
    if (norm.kind == kNoNorm) return;
    T* means = nullptr;
    if (norm.measures(step)) {
      const int64_t t = of_memory(site) ? std::max<int64_t>(0, step - plan.R + 1) : step;
      means = this->of_feature[site];
      merge_gradients(means, this->exchange, this->turn - 1, site,
                      T(running(t) * (over.blocks / range.blocks)));
    }
    normalise_back(norm, moments, means, from, from_step, gradient, gradient_step, over);
  }
  int64_t running(int64_t t) const {  // sequences that have step t
    if (!plan.p.lengths) return plan.B;
    return std::count_if(plan.p.lengths, plan.p.lengths + plan.B, [&](int64_t n) { return n > t; });
  }

  // The gradient of h_t; and o psi(c_t), which was its value before the norm.
  Moments<T> receive(int64_t t) {
    const Problem& p = plan.p;
    const int64_t H = plan.H;
    for (int64_t b = 0; b < range.blocks; ++b) {
      const int64_t sequence = (range.first + b) * L;
      T* gradient = d_hidden + b * panel();
      T* before = before_hidden + b * panel();
      if (p.d_output)
        load_panel(gradient, static_cast<const T*>(p.d_output) + t * plan.B * H, H, sequence,
                   plan.B, true);
      if (p.keep) {
        load_panel(before, static_cast<const T*>(p.keep) + t * plan.B * H, H, sequence, plan.B);
        for (int64_t i = 0; i < panel(); i += W) *vectors(gradient + i) *= *vectors(before + i);
      }
      const T* cell = plan.cell(plan.R + t, range.first + b);
      const T* output = plan.step(t, range.first + b) + 4 * panel();
      with_activation(p.cell_activation, [&](auto a) {
        for (int64_t i = 0; i < panel(); i += W)
          *vectors(before + i) =
              *vectors(output + i) * activate<T, decltype(a)::value>(*vectors(cell + i));
      });
    }
    this->silence(d_hidden, panel());
    return this->known(kHidden, t, before_hidden, panel(), range);
  }

  // Into c_t and the output gate; and i u + c f, the cell before its norm.
  Moments<T> through_hidden(int64_t t) {
    const int64_t H = plan.H, given = plan.p.cells_out - plan.T_ + t;
    for (int64_t b = 0; b < range.blocks; ++b) {
      const T* gates = plan.step(t, range.first + b) + panel();
      const T* cell = plan.cell(plan.R + t, range.first + b);
      const T* last = plan.cell(plan.R + t - 1, range.first + b);
      const T* gradient = d_hidden + b * panel();
      T* d_gates = d_asked_panel() + b * 5 * panel() + panel();
      if (plan.p.d_cells && given >= 0)
        load_panel(d_cell + b * panel(), static_cast<const T*>(plan.p.d_cells) + given * plan.B * H,
                   H, (range.first + b) * L, plan.B, true);
      with_activation(plan.p.cell_activation, [&](auto a) {
        constexpr int A = decltype(a)::value;
        for (int64_t i = 0; i < panel(); i += W) {
          const Vec<T> output = *vectors(gates + 3 * panel() + i), g = *vectors(gradient + i);
          const Vec<T> c = *vectors(cell + i), shown = activate<T, A>(c);
          *vectors(d_gates + 3 * panel() + i) = g * shown * output * (T(1) - output);
          *vectors(d_cell + b * panel() + i) += g * output * slope<T, A>(c, shown);
          *vectors(before_cell + b * panel() + i) =
              *vectors(gates + i) * *vectors(gates + 2 * panel() + i) +
              *vectors(last + i) * *vectors(gates + panel() + i);
        }
      });
    }
    this->silence(d_cell, panel());
    return this->known(kCell, t, before_cell, panel(), range);
  }

  // Into the gates, c_{t-1} and the attention.
  void through_gates(int64_t t) {
    T* d_first = d_asked_panel();
    for (int64_t b = 0; b < range.blocks; ++b) {
      const T* gates = plan.step(t, range.first + b) + panel();
      const T* last = plan.cell(plan.R + t - 1, range.first + b);
      T* d_gates = d_first + b * 5 * panel() + panel();
      T* gradient = d_cell + b * panel();
      for (int64_t i = 0; i < panel(); i += W) {
        const Vec<T> candidate = *vectors(gates + i), forget = *vectors(gates + panel() + i);
        const Vec<T> update = *vectors(gates + 2 * panel() + i), g = *vectors(gradient + i);
        *vectors(d_gates + i) = g * update * (T(1) - candidate * candidate);
        *vectors(d_gates + panel() + i) = g * *vectors(last + i) * forget * (T(1) - forget);
        *vectors(d_gates + 2 * panel() + i) = g * candidate * update * (T(1) - update);
        *vectors(gradient + i) = g * forget;
      }
    }
    product(packed.gates, plan.H, 4 * plan.H, d_first + panel(), 5 * panel(), d_attended_panel(),
            panel(), range.blocks);
  }

  // Through W_o and the window into the query; adds to the window's gradients.
  void through_attention(int64_t t) {
    const int64_t H = plan.H;
    T* d_attended = d_attended_panel();
    T* d_mixed = d_wide;
    for (int64_t b = 0; b < range.blocks; ++b) {
      const T* result = plan.step(t, range.first + b) + 6 * panel();
      T* g = d_attended + b * panel();
      for (int64_t i = 0; i < panel(); i += W) *vectors(g + i) *= elu_slope<T>(*vectors(result + i));
    }
    add_lanes(total.attended_bias, d_attended, panel(), H);
    product(packed.attended, H, H, d_attended, panel(), d_mixed, panel(), range.blocks);
    this->groups(t, [&](const Range<T>& blocks) {
      if (plan.p.position) age_again(t, blocks);
      for (int64_t b = 0; b < blocks.blocks; ++b) {
        const int64_t block = blocks.first + b, at = block - range.first;
        for (int64_t n = 0; n < plan.N; ++n)
          attend_back(t, block, n, d_mixed + at * panel(), d_asked_panel() + at * 5 * panel());
      }
      if (this->window.has_norms()) through_age_norms(t);
    });
    for (int64_t b = 0; b < range.blocks; ++b) {
      const int64_t block = range.first + b;
      T* d_query = d_asked_panel() + b * 5 * panel();
      const T* query = plan.step(t, block);
      const T* before = plan.query_pre ? plan.query(t, block) : query;
      with_activation(plan.p.activation, [&](auto a) {
        for (int64_t i = 0; i < panel(); i += W)
          *vectors(d_query + i) *=
              slope<T, decltype(a)::value>(*vectors(before + i), *vectors(query + i));
      });
    }
  }

  // Keys and values of the step's windows, as forward had them.
  void age_again(int64_t t, const Range<T>& blocks) {
    auto& window = this->window;
    window.enter(t, blocks);
    if (!window.has_norms()) return;
    for (int site : {kKey, kValue})
      window.moments[site] = this->known(kAgedKey + site, plan.R + t - 1, window.panels[site],
                                         panel(), window.range);
  }
  // Through the norms of the step's windows, and through age into projections.
  void through_age_norms(int64_t t) {
    const int64_t step = plan.R + t - 1;
    auto& window = this->window;
    for (int site : {kKey, kValue})
      sums(kAgedKey + site, step, window.moments[site], window.panels[site], panel(),
           window.gradients[site], panel(), window.range);
    this->meet(this->memory_measures(kAgedKey, step));
    for (int site : {kKey, kValue})
      back_to(kAgedKey + site, step, window.moments[site], window.panels[site], panel(),
              window.gradients[site], panel(), window.range);
    window.leave();
  }

  void attend_back(int64_t t, int64_t block, int64_t n, const T* d_mixed, T* d_query) {
    const int64_t oldest = plan.oldest(t), count = plan.R + t - oldest, D = plan.D, N = plan.N;
    const T scale = T(1) / std::sqrt(T(D));
    const T* saved = plan.step(t, block);
    T *query = head, *d_head = head + D * L, *d_asked = head + 2 * D * L;
    Vec<T> shared[kPieces] = {};  // sum over the window of weight and its gradient
    for (int64_t d = 0; d < D; ++d)
      for (int p = 0; p < kPieces; ++p) {
        const int64_t at = (d * N + n) * L + p * W, to = d * L + p * W;
        *vectors(query + to) = *vectors(saved + at) * scale;
        *vectors(d_head + to) = *vectors(d_mixed + at);
        shared[p] += *vectors(d_mixed + at) * *vectors(saved + 5 * panel() + at);
      }
    const int64_t run = plan.run(block, n, oldest);
    const T *keys = plan.keys_at + run, *values = plan.values_at + run;
    clear_new_rows(t, block, n);
    if (plan.p.position) {
      keys = this->window.take_head(kKey, block, n);
      values = this->window.take_head(kValue, block, n);
    }
    const int64_t ahead = plan.p.position ? 0 : plan.head_step();
    T *weights = this->scores[0], *d_scores = this->scores[1];
    dot_rows(query, keys, count, D, weights, ahead);
    dot_rows(d_head, values, count, D, d_scores, ahead);
    const T* softmax = plan.softmax(t, block, n);
    for (int p = 0; p < kPieces; ++p)
      for (int64_t j = 0; j < count; ++j) {
        const int64_t at = j * L + p * W;
        const Vec<T> weight =
            exp_of(*vectors(weights + at) - *vectors(softmax + p * W)) * *vectors(softmax + L + p * W);
        *vectors(weights + at) = weight;
        *vectors(d_scores + at) = weight * (*vectors(d_scores + at) - shared[p]);
      }
    if (plan.p.position) {
      mix_rows(d_scores, keys, count, D, d_asked, 0);
      this->window.give_head(kKey, block, n, d_scores, query);
      this->window.give_head(kValue, block, n, weights, d_head);
    } else {
      spread_rows(d_scores, weights, query, d_head, keys, count, D, d_asked, d_keys + run,
                  d_values + run, ahead);
    }
    for (int64_t d = 0; d < D; ++d)
      for (int i = 0; i < L; i += W)
        *vectors(d_query + (d * N + n) * L + i) = *vectors(d_asked + d * L + i) * scale;
  }

  // Rows of the window that no later step looked at begin with a gradient of 0.
  void clear_new_rows(int64_t t, int64_t block, int64_t n) {
    const int64_t from = plan.oldest(t), to = t == plan.T_ - 1 ? plan.keys : plan.oldest(t + 1);
    const int64_t run = plan.run(block, n, from), count = (to - from) * plan.D * L;
    std::fill_n(d_keys + run, count, T(0));
    std::fill_n(d_values + run, count, T(0));
  }

  // Into x_t and h_{t-1}, and the panels that the matrices' gradients need.
  void through_inputs(int64_t t) {
    const Problem& p = plan.p;
    const int64_t H = plan.H, I = plan.I;
    T* d_first = d_asked_panel();
    T* panels = inputs + waiting * range.blocks * wide();
    const T* last = t == 0 ? static_cast<const T*>(p.hidden)
                           : static_cast<const T*>(p.output) + (t - 1) * plan.B * H;
    add_lanes(total.bias, d_first, 5 * panel(), 5 * H);
    product(packed.input_hidden, I + H, 5 * H, d_first, 5 * panel(), d_wide, wide(), range.blocks);
    for (int64_t b = 0; b < range.blocks; ++b) {
      const int64_t sequence = (range.first + b) * L;
      T* wide_panel = panels + b * wide();
      load_panel(wide_panel, static_cast<const T*>(p.inputs) + t * plan.B * I, I, sequence, plan.B);
      load_panel(wide_panel + I * L, last, H, sequence, plan.B);
      if (p.d_inputs)
        store_panel(static_cast<T*>(p.d_inputs) + t * plan.B * I, d_wide + b * wide(), I, sequence,
                    plan.B);
      std::copy_n(d_wide + b * wide() + I * L, panel(), d_hidden + b * panel());
    }
    d_asked_at[waiting] = d_first;
    d_gates_at[waiting] = d_first + panel();
    inputs_at[waiting] = panels;
    d_attended_at[waiting] = d_attended_panel();
    mixed_at[waiting] = plan.step(t, range.first) + 5 * panel();
    attention_at[waiting] = attention_panel();
  }

  void take_matrix_gradients() {
    const int64_t H = plan.H;
    outer_product<T>(total.input_hidden, plan.I + H, {d_asked_at, 5 * panel()}, 5 * H,
                     {inputs_at, wide()}, plan.I + H, waiting, range.blocks, tiles);
    outer_product<T>(total.gates, H, {d_gates_at, 5 * panel()}, 4 * H, {attention_at, panel()}, H,
                     waiting, range.blocks, tiles);
    outer_product<T>(total.attended, H, {d_attended_at, panel()}, H, {mixed_at, saved()}, H,
                     waiting, range.blocks, tiles);
    waiting = 0;
  }
  void take_memory_gradients() {
    outer_product<T>(total.memory, plan.H, {d_memory_at, 2 * panel()}, 2 * plan.H,
                     {cell_at, panel()}, plan.H, cells_waiting, range.blocks, tiles);
    cells_waiting = 0;
  }

  void add_lanes(Vec<T>* sums, const T* panels, int64_t step, int64_t rows) {
    for (int64_t b = 0; b < range.blocks; ++b)
      for (int64_t r = 0; r < rows; ++r)
        for (int i = 0; i < L; i += W) sums[r] += *vectors(panels + b * step + r * L + i);
  }

  // A cell's keys and values: no step before its own looks at them, so their gradient is complete.
  const T* before_memory(int64_t row) const {
    return plan.memory_pre ? plan.pre(row, range.first) : nullptr;
  }
  void gather(T* panels, const T* store, int64_t row, int site) {
    for (int64_t b = 0; b < range.blocks; ++b)
      for (int64_t n = 0; n < plan.N; ++n)
        for (int64_t d = 0; d < plan.D; ++d)
          std::copy_n(store + plan.run(range.first + b, n, row) + d * L, L,
                      panels + (b * 2 + (site == kValue)) * panel() + (d * plan.N + n) * L);
  }
  T* d_memory_panel() const { return d_memories + cells_waiting * range.blocks * 2 * panel(); }
  void open_memory(int64_t row) {
    T* d_memory = d_memory_panel();
    this->at_step(std::max<int64_t>(0, row - plan.R + 1));
    gather(d_memory, d_keys, row, kKey);
    gather(d_memory, d_values, row, kValue);
    if (const T* before = before_memory(row)) {
      with_activation(plan.p.activation, [&](auto a) {
        for (int64_t i = 0; i < range.blocks * 2 * panel(); i += W)
          *vectors(memory + i) = activate<T, decltype(a)::value>(*vectors(before + i));
      });
    } else if (!plan.p.position) {
      gather(memory, plan.keys_at, row, kKey);
      gather(memory, plan.values_at, row, kValue);
    }
    for (int site : {kKey, kValue}) {
      const int64_t part = site == kValue ? panel() : 0;
      sums(site, row, this->known(site, row, memory + part, 2 * panel(), range), memory + part,
           2 * panel(), d_memory + part, 2 * panel(), range);
    }
  }
  void close_memory(int64_t row) {
    T* d_memory = d_memory_panel();
    this->at_step(std::max<int64_t>(0, row - plan.R + 1));
    for (int site : {kKey, kValue}) {
      const int64_t part = site == kValue ? panel() : 0;
      back_to(site, row, this->known(site, row, memory + part, 2 * panel(), range), memory + part,
              2 * panel(), d_memory + part, 2 * panel(), range);
    }
    const T* before = before_memory(row) ? before_memory(row) : memory;
    if (!plan.p.position)  // else the slope was taken by age
      with_activation(plan.p.activation, [&](auto a) {
        for (int64_t i = 0; i < range.blocks * 2 * panel(); i += W)
          *vectors(d_memory + i) *=
              slope<T, decltype(a)::value>(*vectors(before + i), *vectors(memory + i));
      });
    add_lanes(total.memory_bias, d_memory, 2 * panel(), 2 * plan.H);
    product(packed.memory, plan.H, 2 * plan.H, d_memory, 2 * panel(), d_cell, panel(),
            range.blocks, Begin::kAdd);
    d_memory_at[cells_waiting] = d_memory;
    cell_at[cells_waiting] = plan.cell(row, range.first);
    if (++cells_waiting == kept) take_memory_gradients();
  }

  void finish() {  // the state at the start
    const Problem& p = plan.p;
    for (int64_t b = 0; b < range.blocks; ++b)
      if (p.d_hidden)
        store_panel(static_cast<T*>(p.d_hidden), d_hidden + b * panel(), plan.H,
                    (range.first + b) * L, plan.B);
    for (int64_t row = plan.R - 1; row >= 0; --row) {
      if (row >= plan.oldest(0)) {
        open_memory(row);
        this->meet(this->memory_measures(kKey, row));
        close_memory(row);
      }
      for (int64_t b = 0; b < range.blocks; ++b) {
        if (p.d_queue)
          store_panel(static_cast<T*>(p.d_queue) + row * plan.B * plan.H, d_cell + b * panel(),
                      plan.H, (range.first + b) * L, plan.B);
        std::fill_n(d_cell + b * panel(), panel(), T(0));
      }
    }
  }
};
