"""The layers that a LARNN is compared with, called like `torch.nn.LSTM` and like `LARNN`.

Each takes ``x`` ``[T, B, F]`` (``[B, T, F]`` with ``batch_first``, or unbatched ``[T, F]``) and
returns ``output, state``, with ``output`` ``[T, B, H]``. With ``lengths`` ``[B]``, steps from a
sequence's length on change nothing and their outputs are 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from model.call import SequenceLayer, State
from model.config import ModelConfig
from model.norm import Span, StepBatchNorm, check_training_batch
from model.passes import begin


def _run(
    lstm: nn.LSTM, x: Tensor, state: State | None, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Run one time-major LSTM; ``lengths`` lets each sequence end at its own last valid step."""
    if lengths is None:
        return lstm(x, state)  # type: ignore[no-any-return]  # torch leaves modules untyped
    # PyTorch packs no empty sequence: one step of it is run, and forgotten.
    packed = pack_padded_sequence(x, lengths.clamp_min(1).cpu(), enforce_sorted=False)
    output, after = lstm(packed, state)
    padded, _ = pad_packed_sequence(output, total_length=x.shape[0])
    some = lengths[:, None] > 0
    before = state or tuple(part.new_zeros(()) for part in after)
    after = tuple(torch.where(some, new, old) for new, old in zip(after, before, strict=True))
    return padded.masked_fill(~some, 0.0), after


def _check(cell: str, num_layers: int, hidden_size: int, dropout: float, **settings: str) -> None:
    """Refuse what a configuration would.

    Raises:
        ValueError: For a setting that breaks its rule in `ModelConfig`.
    """
    shape = {"num_layers": num_layers, "hidden_size": hidden_size, "dropout": dropout}
    ModelConfig(cell=cell, **shape, **settings)  # type: ignore[arg-type]  # it checks them


class LSTM(SequenceLayer):
    """Layers of `torch.nn.LSTM` (Hochreiter & Schmidhuber, 1997), stacked as a LARNN's are.

    Args:
        input_size: Features of a step, F.
        hidden_size: Features of a layer, H.
        num_layers: How many layers.
        stacking: ``residual`` adds the input of every layer but the first to its output.
        dropout: Share of each layer's outputs dropped in training.
        batch_first: Whether ``x`` and ``output`` begin with the batch.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        stacking: str = "plain",
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, batch_first=batch_first)
        _check("lstm", num_layers, hidden_size, dropout, stacking=stacking)
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.hidden_size = hidden_size
        self.layers = nn.ModuleList(nn.LSTM(size, hidden_size) for size in sizes)
        self.residual = stacking == "residual"
        self.dropout = nn.Dropout(dropout)

    def state_shapes(self, batch: tuple[int, ...]) -> dict[str, Sequence[int]]:
        """``(h, c)``, each ``[num_layers, B, H]``."""
        return dict.fromkeys("hc", (len(self.layers), *batch, self.hidden_size))

    def run(
        self, x: Tensor, state: State | None, lengths: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, State]:
        """One layer after the other."""
        states = []
        for i, lstm in enumerate(self.layers):
            before = None if state is None else (state[0][i : i + 1], state[1][i : i + 1])
            output, after = _run(lstm, x, before, lengths)  # type: ignore[arg-type]  # list of LSTMs
            output = self.dropout(output)
            x = x + output if self.residual and i else output
            states.append(after)
        return x, tuple(torch.cat(parts) for parts in zip(*states, strict=True))


class BNLSTMCell(nn.Module):
    """One layer of the batch-normalised LSTM (Cooijmans et al., 2017, equations 6-8).

    ``[f, i, o, g] = BN(W_h h) + BN(W_x x) + b``, ``c = sigmoid(f) c + sigmoid(i) tanh(g)``,
    ``h = sigmoid(o) tanh(BN(c))``; each BN has its own scale, and statistics for each time step.

    Args:
        input_size: Features of a step, F.
        hidden_size: Features of the layer, H.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_weight = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.hidden_weight = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        # What is normalised starts out the same for every sequence only with h_0 = 0.
        self.hidden_norm = StepBatchNorm(4 * hidden_size, bias=False, constant_start=True)
        self.input_norm = StepBatchNorm(4 * hidden_size, bias=False)
        self.cell_norm = StepBatchNorm(hidden_size)
        nn.init.orthogonal_(self.input_weight)
        nn.init.orthogonal_(self.hidden_weight)
        for norm in (self.hidden_norm, self.input_norm, self.cell_norm):
            nn.init.constant_(norm.weight, 0.1)  # section 4: 1 would saturate tanh
        nn.init.constant_(self.bias.data[:hidden_size], 1.0)  # remember at first

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor], span: Span
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over ``x`` ``[T, B, F]`` from ``(h, c)``, each ``[B, H]``."""
        h, c = state
        norms = (self.input_norm, self.hidden_norm, self.cell_norm)
        passes = [begin(norm, span) for norm in norms]
        of_input, of_hidden, of_cell = passes
        projected = (x @ self.input_weight.T).unbind(0)
        outputs = []
        for t in range(span.length):
            gates = of_hidden(h @ self.hidden_weight.T, t) + of_input(projected[t], t) + self.bias
            f, i, o, g = gates.chunk(4, dim=1)
            cell = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(of_cell(cell, t))
            if span.valid is None:
                h, c, output = hidden, cell, hidden
            else:
                valid = span.valid[t, :, None]
                h, c = torch.where(valid, hidden, h), torch.where(valid, cell, c)
                output = torch.where(valid, hidden, torch.zeros_like(hidden))
            outputs.append(output)
        for each in passes:
            each.close()
        return torch.stack(outputs), (h, c)


class BNLSTM(SequenceLayer):
    """Layers of the batch-normalised LSTM (Cooijmans et al., 2017); arguments as `LSTM`'s.

    Training needs at least two sequences, which have seen equally many steps: a ValueError says so.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        stacking: str = "plain",
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, batch_first=batch_first)
        _check("bn-lstm", num_layers, hidden_size, dropout, stacking=stacking)
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(BNLSTMCell(size, hidden_size) for size in sizes)
        self.hidden_size = hidden_size
        self.residual = stacking == "residual"
        self.dropout = nn.Dropout(dropout)

    def state_shapes(self, batch: tuple[int, ...]) -> dict[str, Sequence[int]]:
        """``(h, c, steps)``: two ``[num_layers, B, H]``, and the steps each sequence has seen.

        Statistics are found by ``steps``, ``[B]``.
        """
        part = (len(self.layers), *batch, self.hidden_size)
        return {"h": part, "c": part, "steps": batch}

    def run(
        self, x: Tensor, state: State | None, lengths: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, State]:
        """One layer after the other."""
        T, B, _ = x.shape
        if state is None:
            zeros = x.new_zeros(len(self.layers), B, self.hidden_size)
            state = (zeros, zeros, torch.zeros(B, dtype=torch.long, device=x.device))
        h, c, first = state
        if self.training:
            check_training_batch(first.tolist())
        running = (B,) * T if valid is None else tuple(valid.sum(1).tolist())
        span = Span(first, T, 1, valid, running, self.training)
        states = []
        for i, layer in enumerate(self.layers):
            output, after = layer(x, (h[i], c[i]), span)
            output = self.dropout(output)
            x = x + output if self.residual and i else output
            states.append(after)
        h, c = (torch.stack(parts) for parts in zip(*states, strict=True))
        return x, (h, c, first + (T if lengths is None else lengths))


CELLS_IN_BLOCK = 3


class StackedResidualBiLSTM(SequenceLayer):
    """Blocks of three bidirectional LSTM cells with residual connections (Chevalier, 2016).

    With three blocks this is the network of 18 cells (3 x 3, in both directions) that the LARNN
    paper names at 93.35 % (repository HAR-stacked-residual-bidir-LSTMs). Each direction has H / 2
    features, the two are concatenated; in a block every cell but the first adds to what it reads; a
    batch norm over batch and time ends the block.

    Args:
        input_size: Features of a step, F.
        hidden_size: Features of a block, H, an even number.
        num_layers: Blocks; 3 are the published network.
        dropout: Share of each block's outputs dropped in training.
        batch_first: Whether ``x`` and ``output`` begin with the batch.

    Raises:
        ValueError: If ``hidden_size`` is odd.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 3,
        *,
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        super().__init__(input_size, batch_first=batch_first)
        _check("residual-bi-lstm", num_layers, hidden_size, dropout)
        self.hidden_size = hidden_size
        sizes = [input_size] + [hidden_size] * (num_layers * CELLS_IN_BLOCK - 1)
        self.cells = nn.ModuleList(
            nn.LSTM(size, hidden_size // 2, bidirectional=True) for size in sizes
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden_size) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout)

    def state_shapes(self, batch: tuple[int, ...]) -> dict[str, Sequence[int]]:
        """``(h, c)``, each ``[cells x 2, B, H / 2]``.

        The second direction starts at the end, so a sequence fed in pieces is not one fed whole.
        """
        return dict.fromkeys("hc", (2 * len(self.cells), *batch, self.hidden_size // 2))

    def run(
        self, x: Tensor, state: State | None, lengths: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, State]:
        """One block after the other."""
        states = []
        for i, cell in enumerate(self.cells):
            here = slice(2 * i, 2 * i + 2)
            before = None if state is None else (state[0][here], state[1][here])
            output, after = _run(cell, x, before, lengths)  # type: ignore[arg-type]  # list of LSTMs
            x = output if i % CELLS_IN_BLOCK == 0 else x + output
            if i % CELLS_IN_BLOCK == CELLS_IN_BLOCK - 1:
                x = self.dropout(self._normalise(self.norms[i // CELLS_IN_BLOCK], x, valid))
            states.append(after)
        return x, tuple(torch.cat(parts) for parts in zip(*states, strict=True))

    def _normalise(self, norm: nn.Module, x: Tensor, valid: Tensor | None) -> Tensor:
        """Batch norm over the valid steps of ``x`` ``[T, B, H]``; the others stay 0."""
        if valid is None:
            return norm(x.flatten(0, 1)).view_as(x)  # type: ignore[no-any-return]  # untyped module
        result = torch.zeros_like(x)
        result[valid] = norm(x[valid])
        return result
