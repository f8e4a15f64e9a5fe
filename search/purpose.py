"""What a study is for: to choose settings, to train chosen ones again, or to judge them."""

from __future__ import annotations

from enum import StrEnum

from search.derivation import TOGETHER
from search.launch import JUDGING_OBJECTIVE
from trials.study import Study


class Purpose(StrEnum):
    """What a study is for."""

    SEARCH = "search"
    """It chooses settings."""
    AGAIN = "again"
    """A ranking or ablation: chosen settings again, with other seeds, on validation people."""
    TEST = "test"
    """A final: chosen settings, judged on the test people."""
    FOLDS = "folds"
    """A final over all people, each judged once, by models that did not train on them."""

    @property
    def is_final(self) -> bool:
        """Whether it judges people who took no part, and chooses nothing."""
        return self in (Purpose.TEST, Purpose.FOLDS)


def purpose_of(study: Study) -> Purpose:
    """What a study is for, by its objective and space."""
    if study.spec.objective == JUDGING_OBJECTIVE:
        is_test = study.spec.fixed.get("judged") == Purpose.TEST
        return Purpose.TEST if is_test else Purpose.FOLDS
    return Purpose.AGAIN if study.spec.space.get("derive") == TOGETHER else Purpose.SEARCH
