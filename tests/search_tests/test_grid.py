import dataclasses

import pytest

from search.grid import grid
from search.launch import Request, build_spec
from search.parameter import Parameter
from search.space import Space
from search.suggest import Suggester
from tests.search_tests.test_suggest import finished
from trials.trial import TrialState

SPACE = Space(
    "grid",
    (
        Parameter("momentum", "choice", choices=(0.5, 0.9), when={"optimizer": "sgd"}),
        Parameter("optimizer", "choice", choices=("sgd", "adam")),
        Parameter("layers", "int", 1, 3),
    ),
)


def test_a_grid_holds_every_combination_once_and_respects_conditions():
    points = grid(SPACE)
    assert len(points) == 3 * (2 + 1)
    assert len({tuple(sorted(point.items())) for point in points}) == len(points)
    assert all(("momentum" in point) == (point["optimizer"] == "sgd") for point in points)


def test_infinite_and_huge_grids_are_refused():
    with pytest.raises(ValueError, match="parameter 'rate' is of type uniform: name its values"):
        grid(Space("s", (Parameter("rate", "uniform", 0, 1),)))
    with pytest.raises(ValueError, match="a grid may have 100000 points, space 's' has more"):
        grid(Space("s", tuple(Parameter(name, "int", 1, 1000) for name in "ab")))


def test_a_grid_is_not_built_to_be_refused():
    space = Space("s", (Parameter("x", "int", 0, 10**12),))
    with pytest.raises(ValueError, match="a grid may have 100000 points"):
        grid(space)


def test_points_come_in_order_once_each_and_a_restart_goes_on():
    suggester, trials = Suggester(SPACE, "grid"), []
    for _ in range(4):
        (new,) = suggester.suggest(trials, 1)
        trials.append(finished(len(trials), new, 1.0))
    trials += [
        finished(len(trials) + i, new, 1.0)
        for i, new in enumerate(Suggester(SPACE, "grid").suggest(trials, 5))
    ]
    assert [dict(trial.params) for trial in trials] == grid(SPACE)


def test_what_was_cancelled_is_tried_before_anything_is_repeated():
    space = Space("seeds", (Parameter("seed", "choice", choices=(0, 1, 2, 3)),))
    suggester, trials = Suggester(space, "grid"), []

    def go_on(count, state=TrialState.COMPLETE):
        proposed = suggester.suggest(trials, count)
        trials.extend(
            dataclasses.replace(finished(len(trials) + i, new, 1.0), state=state)
            for i, new in enumerate(proposed)
        )
        return [new.params["seed"] for new in proposed]

    assert go_on(1) == [0]
    assert go_on(2, TrialState.CANCELLED) == [1, 2]  # `stop`, then `resume`
    assert go_on(1) == [3]
    assert go_on(1, TrialState.CANCELLED) == [1]
    assert go_on(2) == [2, 1]
    assert go_on(5) == [0, 3, 2, 1, 0]


def test_a_study_ends_with_its_grid(tmp_path):
    file = tmp_path / "space.toml"
    file.write_text('[a]\ntype = "int"\nlow = 1\nhigh = 4\n')
    request = Request("s", objective="math:sqrt", space=str(file), algorithm="grid")
    assert build_spec(request, print).max_trials == 4
    assert build_spec(dataclasses.replace(request, max_trials=9), print).max_trials == 4
    assert build_spec(dataclasses.replace(request, max_trials=3), print).max_trials == 3
