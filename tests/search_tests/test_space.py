"""Spaces: what may be searched, how users write their own, and what a mistake is told."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.classifier import SequenceClassifier
from model.config import TrialConfig
from search.named_spaces import NAMED_SPACES, resolve
from search.parameter import Parameter
from search.presets import PRESETS
from search.screens import print_space
from search.space import Space, check_larnn, parse_assignment
from search.suggest import Suggester

EVERY = [*NAMED_SPACES.values(), *(preset.space_of() for preset in PRESETS.values())]


@pytest.mark.parametrize("space", EVERY, ids=lambda space: space.name)
def test_every_corner_of_every_space_is_a_valid_larnn_trial(space: Space) -> None:
    check_larnn(space, {})
    for _, params in space.corners():
        config = TrialConfig.from_params(params)
        assert space.sampled(params) is not None
        assert config.model.cell == space.fixed.get("cell", "larnn")


@pytest.mark.parametrize("space", EVERY, ids=lambda space: space.name)
def test_spaces_survive_being_stored(space: Space) -> None:
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def widths(space: Space) -> tuple[float, float]:
    """Least and largest hidden size."""
    heads, sizes = space["num_heads"].bounds, space["head_size"].bounds
    return heads[0] * sizes[0], heads[1] * sizes[1]


def test_card_searches_what_the_larnn_is_about() -> None:
    card = NAMED_SPACES["card"]
    assert [row.name for row in card.rows] == [
        "window_size", "num_heads", "head_size", "num_layers", "attention_activation", "mode",
        "norm", "learning_rate", "dropout", "weight_decay",
    ]  # fmt: skip
    assert (card["window_size"].kind, card["window_size"].bounds) == ("logint", (4, 64))
    assert card["num_layers"].bounds == (1, 3)
    assert {row.name for row in card.rows if row.is_log} == {
        "window_size", "learning_rate", "weight_decay"
    }  # fmt: skip
    assert widths(card) == (8, 128)
    assert all(row.doc for row in card.rows)


@pytest.mark.parametrize("name", ["lstm", "bn-lstm", "residual-bi-lstm"])
def test_other_cells_search_their_width_and_nothing_of_attention(name: str) -> None:
    space = NAMED_SPACES[name]
    names = {row.name for row in space.rows}
    assert "hidden_size" in names
    assert not names & {"window_size", "num_heads", "head_size", "attention_activation", "mode"}
    assert space.fixed == {"cell": name}


def test_paper_rounds_have_the_authors_ranges() -> None:
    first, second = NAMED_SPACES["paper-round-1"], NAMED_SPACES["paper-round-2"]

    def times(middle: float, reach: float) -> Any:
        return pytest.approx((middle * math.exp(-reach), middle * math.exp(reach)))

    assert first["learning_rate"].bounds == times(0.005, 0.5)
    assert second["learning_rate"].bounds == times(0.006, 0.4)
    assert first["weight_decay"].bounds == times(0.005, 1.3)
    assert second["weight_decay"].bounds == times(0.002, 1.3)
    assert first["hidden_size"].bounds == times(64, 0.6)
    assert second["hidden_size"].bounds == times(68, 0.3)
    assert (first["num_heads"].bounds, second["num_heads"].bounds) == ((6, 36), (20, 40))
    assert (first["window_size"].bounds, second["window_size"].bounds) == ((10, 50), (25, 100))
    assert (first["decay_every"].bounds, second["decay_every"].bounds) == ((3, 10), (6, 50))
    assert (first.fixed["epochs"], second.fixed["epochs"]) == (25, 100)
    assert first["attention_activation"].choices == ("none", "elu")
    assert (second.fixed["attention_activation"], second.fixed["num_layers"]) == ("elu", 3)


@pytest.mark.parametrize(
    ("hidden", "heads", "head_size"), [(64.0, 6, 11), (35.2, 36, 1), (50, 36, 1)]
)
def test_a_derived_head_size_is_what_trains(hidden: float, heads: int, head_size: int) -> None:
    params = NAMED_SPACES["paper-round-1"].complete({"hidden_size": hidden, "num_heads": heads})
    assert params["head_size"] == head_size
    assert "hidden_size" not in params


def test_params_that_no_derivation_gives_cannot_be_expressed() -> None:
    space = NAMED_SPACES["paper-round-1"]
    params = space.example()
    assert space.sampled(params) is not None
    assert space.sampled({**params, "head_size": 50}) is None


def test_quick_is_small() -> None:
    quick = PRESETS["quick"].space_of()
    assert widths(quick)[1] <= 48
    assert [row.name for row in quick.rows] == [row.name for row in NAMED_SPACES["card"].rows]
    assert {"epochs", "time_stride"} <= set(PRESETS["quick"].fixed)
    for preset in PRESETS.values():
        check_larnn(preset.space_of(), preset.fixed)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"kind": "unifrom", "low": 0, "high": 1},
            r"unknown type 'unifrom'; did you mean 'uniform'",
        ),
        (
            {"kind": "uniform", "low": 1, "high": 1},
            "empty range: low must be below high, got low 1",
        ),
        (
            {"kind": "int", "low": 5, "high": 2},
            "empty range: low must be below high, got low 5 and",
        ),
        (
            {"kind": "loguniform", "low": 0, "high": 1},
            "of type loguniform needs low above 0, got 0",
        ),
        ({"kind": "logint", "low": -1, "high": 4}, "of type logint needs low above 0, got -1"),
        ({"kind": "int", "low": 0.5, "high": 4}, "needs low as a whole number, got 0.5"),
        ({"kind": "uniform", "low": 1}, "of type uniform needs high as a number, got None"),
        ({"kind": "uniform", "low": "a", "high": 1}, "needs low as a number, got 'a'"),
        ({"kind": "uniform", "low": 0, "high": math.inf}, "needs finite bounds"),
        ({"kind": "uniform", "low": 0, "high": 1, "choices": (1, 2)}, "not choices"),
        ({"kind": "choice", "choices": ()}, r"needs at least 2 choices, got \[\]"),
        ({"kind": "choice", "choices": ("a", "a")}, "names a choice twice"),
        ({"kind": "choice", "choices": ("a", [1])}, r"has choice \[1\]"),
        ({"kind": "choice", "choices": ("a", "b"), "low": 0}, "takes choices, not low and high"),
    ],
)
def test_impossible_rows_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^parameter 'p' .*{message}"):
        Parameter("p", **row)


SWITCH = Parameter("switch", "choice", choices=("on", "off"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((SWITCH, SWITCH), "names parameter 'switch' twice"),
        (
            (SWITCH, Parameter("x", "uniform", 0, 1, when={"swich": "on"})),
            "'swich' is no choice here; did you mean 'switch'",
        ),
        (
            (SWITCH, Parameter("x", "uniform", 0, 1, when={"switch": "up"})),
            "'switch' has only the choices",
        ),
        (
            (
                Parameter("a", "choice", choices=(1, 2), when={"b": 1}),
                Parameter("b", "choice", choices=(1, 2), when={"a": 1}),
            ),
            "conditions in a circle: a -> b -> a",
        ),
    ],
)
def test_impossible_spaces_are_refused(rows: tuple[Parameter, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Space("s", rows)


NESTED = Space(
    "nested",
    (
        SWITCH,
        Parameter("gear", "choice", choices=(1, 2), when={"switch": "on"}),
        Parameter("speed", "uniform", 0, 1, when={"gear": 2}),
        Parameter("plain", "int", 1, 2),
    ),
)


def test_conditions_hold_through_their_parents() -> None:
    assert NESTED.conditions(NESTED["speed"]) == {"switch": "on", "gear": 2}
    corners = [params for _, params in NESTED.corners()]
    assert {"switch": "on", "gear": 2, "speed": 1.0, "plain": 1} in corners
    assert {"switch": "off", "plain": 1} in corners
    assert all(NESTED.sampled(params) == params for params in corners)


def test_fixing_a_choice_settles_the_rows_that_depend_on_it() -> None:
    off = NESTED.fix("switch", "off")
    assert [row.name for row in off.rows] == ["plain"]
    assert off.fixed == {"switch": "off"}
    second = NESTED.fix("switch", "on").fix("gear", 2)
    assert [(row.name, dict(row.when)) for row in second.rows] == [("speed", {}), ("plain", {})]
    with pytest.raises(ValueError, match="num_heads of space 'paper-round-1' cannot be fixed"):
        NAMED_SPACES["paper-round-1"].fix("num_heads", 8)


def test_samples_outside_the_space_cannot_be_expressed() -> None:
    assert NESTED.sampled({"switch": "off", "plain": 3}) is None
    assert NESTED.sampled({"switch": "off", "plain": 1.0}) is None
    assert NESTED.sampled({"switch": "off"}) is None
    assert NESTED.sampled({"switch": "off", "plain": 2, "epochs": 3}) == {
        "switch": "off",
        "plain": 2,
    }


@pytest.mark.parametrize(
    ("space", "fixed", "message"),
    [
        (
            Space("s", (Parameter("lerning_rate", "uniform", 0, 1),)),
            {},
            "unknown parameter 'lerning",
        ),
        (
            Space("s", (Parameter("num_heads", "int", 0, 4),)),
            {},
            "num_heads must be at least 1, got 0",
        ),
        (
            Space("s", (Parameter("dropout", "uniform", 0, 1),)),
            {},
            "dropout must be below 1, got 1.0",
        ),
        (Space("s", (SWITCH,), {"norm": "bath"}), {}, "norm must be one of"),
        (NAMED_SPACES["card"], {"epochs": 0}, "epochs must be at least 1, got 0"),
        (NAMED_SPACES["card"], {"dropout": 0.1}, "dropout is both searched and fixed"),
        (NAMED_SPACES["paper-round-1"], {"head_size": 8}, "head_size is both searched and fixed"),
    ],
)
def test_what_the_larnn_cannot_train_is_refused_before_any_trial(
    space: Space, fixed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_larnn(space, fixed)


@pytest.mark.parametrize(
    "stored",
    [{}, {"name": "s", "rows": 3}, {"name": "s", "rows": [{"name": "x", "$where": 1}]}, []],
)
def test_stored_spaces_that_do_not_fit_are_refused(stored: Any) -> None:
    with pytest.raises(ValueError, match=r"not a stored search space"):
        Space.from_dict(stored)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=10", ("epochs", 10)),
        ("learning_rate=1e-3", ("learning_rate", 0.001)),
        ("norm=none", ("norm", "none")),
        ("flag=true", ("flag", True)),
        ('name="7"', ("name", "7")),
        ("path=a=b", ("path", "a=b")),
        ('name="True"', ("name", "True")),
        ("name=1.2.3", ("name", "1.2.3")),
    ],
)
def test_assignments(text: str, expected: tuple[str, Any]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("space", EVERY, ids=lambda space: space.name)
def test_whatever_is_drawn_of_a_named_space_can_be_trained(space: Space) -> None:
    for new in Suggester(space, "random", seed=1).suggest([], 25):
        config = TrialConfig.from_params(new.params)
        SequenceClassifier(config.model, 3, 2)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("flag=True", "true"),
        ("flag=None", "null"),
        ("rate=.001", "0.001"),
        ("n=1_000", "1000"),
        ("n=+2", "2"),
    ],
)
def test_what_looks_like_a_number_or_truth_value_is_not_taken_for_text(
    text: str, meant: str
) -> None:
    name = text.partition("=")[0]
    with pytest.raises(
        ValueError, match=re.escape(f"written as in JSON, got {text}: write {name}={meant}, ")
    ):
        parse_assignment(text)


@pytest.mark.parametrize("text", ["epochs", "=3", ""])
def test_what_is_no_assignment(text: str) -> None:
    with pytest.raises(ValueError, match="an assignment is written name=value, got"):
        parse_assignment(text)


GOOD = """\
epochs = 10  # pinned

[learning_rate]
type = "loguniform"
low = 1e-4
high = 1e-1

[optimizer]
type = "choice"
choices = ["sgd", "adam"]

["momentum"]
type = "uniform"
low = 0
high = 0.99
when = {optimizer = "sgd"}
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_space_file(tmp_path: Path) -> None:
    space = resolve(written(tmp_path, GOOD))
    assert space == Space(
        "mine",
        (
            Parameter("learning_rate", "loguniform", 1e-4, 1e-1),
            Parameter("optimizer", "choice", choices=("sgd", "adam")),
            Parameter("momentum", "uniform", 0, 0.99, when={"optimizer": "sgd"}),
        ),
        {"epochs": 10},
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "low = 1e-4",
            "lo = 1e-4",
            r"line 5: \[learning_rate\] has unknown key 'lo'; did you mean",
        ),
        (
            "loguniform",
            "lognormal",
            r"line 3: parameter 'learning_rate' has unknown type 'lognormal'",
        ),
        ("low = 1e-4", "low = 1.0", r"line 3: parameter 'learning_rate' has an empty range"),
        (
            '["sgd", "adam"]',
            '"sgd"',
            r"line 10: choices of \[optimizer\] must be a list, got 'sgd'",
        ),
        ('{optimizer = "sgd"}', "3", r"line 16: when of \[momentum\] must be a table, got 3"),
        ('{optimizer = "sgd"}', '{optimiser = "sgd"}', r"line 12: .*did you mean 'optimizer'"),
        ('type = "uniform"\n', "", r"line 12: \[momentum\] needs a type"),
        ("low = 0\n", "low = \n", r"is not TOML: Invalid value \(at line 14"),
    ],
)
def test_a_typo_in_a_space_file_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    with pytest.raises(ValueError, match=rf"mine\.toml {message}"):
        resolve(written(tmp_path, GOOD.replace(old, new)))


def test_a_parameter_that_the_larnn_does_not_know_is_told_with_its_line(tmp_path: Path) -> None:
    space = resolve(written(tmp_path, GOOD.replace("[learning_rate]", "[learning_rat]")))
    with pytest.raises(ValueError, match=r"mine\.toml line 3: unknown parameter 'learning_rat'"):
        check_larnn(space, {})


def test_an_empty_space_file_and_missing_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="searches nothing"):
        resolve(written(tmp_path, "epochs = 3\n"))
    with pytest.raises(ValueError, match=r"cannot read space file .*none\.toml: No such file"):
        resolve(str(tmp_path / "none.toml"))
    with pytest.raises(ValueError, match=r"unknown space 'crd'; did you mean 'card'\?"):
        resolve("crd")


def test_spaces_are_read_without_torch_or_hyperopt() -> None:
    code = (
        "import sys, search.presets; print([m for m in ('torch', 'hyperopt') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_derived_space_says_how_and_what_rows_mean(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_space(NAMED_SPACES["paper-round-1"])
    said = capsys.readouterr().out
    assert "Derived: head_size = max(1, round(hidden_size / num_heads))" in said
    assert "before they are divided among its heads" in said
