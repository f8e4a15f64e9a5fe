"""The LARNN written from its equations, one sequence, one head and one slot at a time.

Slow on purpose: this is what the fast path is tested against. It shares no computation with it
and reads nothing from the layer but settings, parameters and learned statistics. No dropout.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from model.cell import LARNNCell
from model.layer import LARNN, LARNNState

Rows = list[Tensor]  # one vector for each sequence


class Reference(NamedTuple):
    """Results of `run`."""

    output: Tensor  # [T, B, H]
    state: LARNNState
    weights: list[list[list[Tensor]]]  # of attention: per layer, step, sequence: [N, slots]
    moments: dict[str, tuple[Tensor, Tensor]]  # "layer.norm.step": batch mean, unbiased variance


def run(
    layer: LARNN, x: Tensor, state: LARNNState | None = None, lengths: list[int] | None = None
) -> Reference:
    """Run ``layer`` over ``x`` ``[T, B, F]`` by the equations of ``docs/larnn.md``."""
    T, B = x.shape[:2]
    lengths = lengths or [T] * B
    seen = [0] * B if state is None else state.steps.tolist()
    moments: dict[str, tuple[Tensor, Tensor]] = {}
    sequences = [list(x[: lengths[b], b]) for b in range(B)]
    hiddens, queues, looks = [], [], []
    for number, cell in enumerate(layer.cells):
        assert isinstance(cell, LARNNCell)  # noqa: S101  # tells the type checker
        zero = x.new_zeros(layer.hidden_size)
        hidden = [zero] * B if state is None else list(state.hidden[number])
        past = [[zero] for _ in range(B)]  # the queue starts with c_0 = 0
        if state is not None:
            for b in range(B):
                count = min(seen[b] + 1, layer.config.window_size)
                past[b] = list(state.queue[number, -count:, b])
        loop = _Loop(cell, layer.training, seen, f"{number}.", moments)
        outputs, hidden, past, look = loop.run(sequences, hidden, past)
        hiddens.append(torch.stack(hidden))
        queues.append(torch.stack([_padded(cells, layer.config.window_size) for cells in past], 1))
        looks.append(look)
        if layer.config.stacking == "residual" and number > 0:
            outputs = [
                [above + below for above, below in zip(*pair, strict=True)]
                for pair in zip(outputs, sequences, strict=True)
            ]
        sequences = outputs
    empty = x.new_zeros(layer.hidden_size)
    output = torch.stack(
        [torch.stack(sequence + [empty] * (T - len(sequence))) for sequence in sequences], 1
    )
    steps = torch.tensor([a + b for a, b in zip(seen, lengths, strict=True)])
    after = LARNNState(torch.stack(hiddens), torch.stack(queues), steps)
    return Reference(output, after, looks, moments)


def _padded(cells: Rows, size: int) -> Tensor:
    empty = [torch.zeros_like(cells[0])] * (size - len(cells))
    return torch.stack((empty + cells)[-size:])


def _activate(name: str, value: Tensor) -> Tensor:
    if name == "elu":
        return torch.where(value > 0, value, torch.exp(value.clamp(max=0)) - 1)
    if name == "relu":
        return torch.where(value > 0, value, torch.zeros_like(value))
    if name == "gelu":
        return value * (1 + torch.erf(value / math.sqrt(2))) / 2
    return torch.tanh(value) if name == "tanh" else value


def _age_features(age: int, window: int) -> list[float]:
    octaves = math.ceil(math.log2(4 * window))
    cosines = [math.cos(2 * math.pi * age / 2**i) for i in range(1, octaves + 1)]
    return cosines + [math.sin(2 * math.pi * age / 2**i) for i in range(2, octaves + 2)]


class _Loop:
    """One layer over a batch of sequences."""

    def __init__(
        self,
        cell: LARNNCell,
        training: bool,
        seen: list[int],
        prefix: str,
        moments: dict[str, tuple[Tensor, Tensor]],
    ) -> None:
        self.cell, self.training, self.seen = cell, training, seen
        self.prefix, self.moments = prefix, moments
        self.parameters = dict(cell.named_parameters())

    def run(
        self, sequences: list[Rows], hidden: Rows, past: list[Rows]
    ) -> tuple[list[Rows], Rows, list[Rows], list[list[Tensor]]]:
        """Outputs, last hidden states and cells of each sequence, attention weights."""
        hidden = list(hidden)
        outputs: list[Rows] = [[] for _ in sequences]
        looks = []
        memories: list[tuple[Rows, Rows]] = []
        for t in range(max(len(sequence) for sequence in sequences)):
            on = [b for b, sequence in enumerate(sequences) if t < len(sequence)]
            if self.cell.config.positional_encoding == "static":
                memories = self.aged_memories(past, on, t)
            elif t == 0:
                memories = self.initial_memories(past, on)
            else:
                self.add_memories(memories, past, on, t)
            x = {b: sequences[b][t] for b in on}
            mixes = {b: self.look_back(x[b], hidden[b], *memories[b]) for b in on}
            attended = [_activate("elu", self.linear("attended", mixes[b][0])) for b in on]
            attended = self.norm("attention_norm", attended, on, t, constant_start=True)
            cells, opened = [], []
            for b, a in zip(on, attended, strict=True):
                i, f, u, o = self.gates(x[b], hidden[b], a).chunk(4)
                cells.append(torch.tanh(i) * torch.sigmoid(u) + past[b][-1] * torch.sigmoid(f))
                opened.append(torch.sigmoid(o))
            cells = self.norm("cell_norm", cells, on, t)
            psi = self.cell.config.cell_activation
            results = [o * _activate(psi, c) for o, c in zip(opened, cells, strict=True)]
            results = self.norm("hidden_norm", results, on, t)
            for b, c, h in zip(on, cells, results, strict=True):
                past[b].append(c)
                hidden[b] = h
                outputs[b].append(h)
            looks.append([mixes[b][1] for b in on])
        return outputs, hidden, past, looks

    def linear(self, name: str, value: Tensor) -> Tensor:
        result = self.parameters[f"{name}.weight"] @ value
        bias = self.parameters.get(f"{name}.bias")
        return result if bias is None else result + bias

    def gates(self, x: Tensor, h: Tensor, a: Tensor) -> Tensor:
        if self.cell.config.mode == "layer":
            names = ("input_gates", "hidden_gates", "attention_gates")
            whole = torch.cat([self.parameters[f"{name}.weight"] for name in names], 1)
            return whole @ torch.cat([x, h, a]) + self.parameters["input_gates.bias"]
        return (
            self.linear("input_gates", x)
            + self.linear("hidden_gates", h)
            + self.linear("attention_gates", a)
        )

    def project(self, name: str, cell: Tensor, age: int | None = None) -> Tensor:
        if age is not None:
            features = _age_features(age, self.cell.config.window_size)
            cell = torch.cat([cell, cell.new_tensor(features)])
        return _activate(self.cell.config.attention_activation, self.linear(name, cell))

    def initial_memories(self, past: list[Rows], started: list[int]) -> list[tuple[Rows, Rows]]:
        """Keys and values of the cells a call starts with, each normalised at its own step."""
        memories: list[tuple[Rows, Rows]] = [([], []) for _ in past]
        for age in range(max(len(cells) for cells in past) - 1, -1, -1):
            on = [b for b in started if len(past[b]) > age]
            for kind, name in enumerate(("key", "value")):
                rows = [self.project(name, past[b][-1 - age]) for b in on]
                rows = self.norm(f"{name}_norm", rows, on, -age, constant_start=True)
                for b, row in zip(on, rows, strict=True):
                    memories[b][kind].append(row)
        return memories

    def add_memories(
        self, memories: list[tuple[Rows, Rows]], past: list[Rows], on: list[int], t: int
    ) -> None:
        """Key and value of the newest cell."""
        for kind, name in enumerate(("key", "value")):
            rows = [self.project(name, past[b][-1]) for b in on]
            rows = self.norm(f"{name}_norm", rows, on, t, constant_start=True)
            for b, row in zip(on, rows, strict=True):
                memories[b][kind].append(row)

    def aged_memories(self, past: list[Rows], on: list[int], t: int) -> list[tuple[Rows, Rows]]:
        """Keys and values of the whole window, whose ages change at each step."""
        memories: list[tuple[Rows, Rows]] = [([], []) for _ in past]
        K = self.cell.config.window_size
        for kind, name in enumerate(("key", "value")):
            slots = [(b, age) for b in on for age in range(min(K, len(past[b])), 0, -1)]
            rows = [self.project(name, past[b][-age], age) for b, age in slots]
            owners = [b for b, _ in slots]
            rows = self.norm(f"{name}_norm", rows, owners, t, constant_start=True)
            for b, row in zip(owners, rows, strict=True):
                memories[b][kind].append(row)
        return memories

    def look_back(self, x: Tensor, h: Tensor, keys: Rows, values: Rows) -> tuple[Tensor, Tensor]:
        """softmax(q . k / sqrt(head_size)) v of each head; head n owns features n, N + n, ..."""
        config = self.cell.config
        query = _activate(config.attention_activation, self.linear("query", torch.cat([x, h])))
        keys, values = keys[-config.window_size :], values[-config.window_size :]
        mixed = torch.zeros_like(h)
        weights = []
        for n in range(config.num_heads):
            mine = list(range(n, config.units, config.num_heads))
            scores = [query[mine] @ key[mine] / math.sqrt(config.head_size) for key in keys]
            share = torch.softmax(torch.stack(scores), 0)
            mix = sum(w * value[mine] for w, value in zip(share, values, strict=True))
            mixed = mixed.index_copy(0, torch.tensor(mine), torch.as_tensor(mix))
            weights.append(share.detach())
        return mixed, torch.stack(weights)

    def norm(
        self, name: str, rows: Rows, on: list[int], t: int, *, constant_start: bool = False
    ) -> Rows:
        """Normalise step t's rows; row r belongs to sequence ``on[r]``."""
        kind = (
            self.cell.config.attention_norm
            if name.startswith(("key", "value"))
            else self.cell.config.norm
        )
        if kind == "none":
            return rows
        weight, bias = self.parameters[f"{name}.weight"], self.parameters.get(f"{name}.bias")
        shift = torch.zeros_like(weight) if bias is None else bias
        if kind == "layer":
            return [
                _standard(row, row.mean(), row.var(unbiased=False)) * weight + shift for row in rows
            ]
        steps = [self.seen[b] + t for b in on]
        if constant_start and self.training and steps[0] == 0:
            return [shift] * len(rows)
        if self.training and len(set(on)) > 1:
            stacked = torch.stack(rows)
            mean, var = stacked.mean(0), stacked.var(0, unbiased=False)
            if t >= 0:
                unbiased = stacked.detach().var(0, unbiased=True)
                self.moments[f"{self.prefix}{name}.{steps[0]}"] = (mean.detach(), unbiased)
            return [_standard(row, mean, var) * weight + shift for row in rows]
        module = getattr(self.cell, name)
        results = []
        for row, step in zip(rows, steps, strict=True):
            if constant_start and step == 0:
                results.append(shift)
                continue
            known = min(step, len(module.running_mean) - 1)
            mean, var = module.running_mean[known].clone(), module.running_var[known].clone()
            n = int(module.largest)
            bound = (n - 1) / math.sqrt(n) if n else math.inf
            results.append(_standard(row, mean, var).clamp(-bound, bound) * weight + shift)
        return results


def _standard(row: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return (row - mean) / torch.sqrt(var + 1e-5)
