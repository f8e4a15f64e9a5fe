"""What must hold while everything breaks, and afterwards."""

import itertools
from collections import Counter

from tests.chaos.objective import true_reports
from trials.errors import StoreUnavailableError
from trials.store import CHECKPOINT
from trials.study import StudySpec, StudyState
from trials.trial import TrialState

SPACE = {
    "name": "line",
    "rows": [{"name": "x", "kind": "uniform", "low": -3.0, "high": 3.0}],
}
MANY = 10_000


class Observer:
    """Keeps two searches going, and compares all that it sees with what is true."""

    def __init__(self, store, max_trials):
        self._store = store
        self._max_trials = max_trials
        self._numbers = itertools.count()
        self._finished = {}
        self.kinds = Counter()
        self.complete = 0
        self.studies = {}

    def launch(self):
        """Two studies that share the workers, one with three times the other's share."""
        for priority in (1, 3):
            if priority not in self.studies:
                name = f"chaos-{next(self._numbers)}"
                self._store.create_study(
                    StudySpec(
                        name=name, objective="tests.chaos.objective:known", space=SPACE,
                        algorithm="random", max_trials=self._max_trials, max_retries=MANY,
                        priority=priority,
                    )
                )  # fmt: skip
                self.studies[priority] = name

    def look(self):
        """Check what can be seen now; how many trials have finished so far."""
        for priority, name in list(self.studies.items()):
            is_over = self._store.get_study(name).state is StudyState.COMPLETE
            self.check(name)
            if is_over:
                self.check_complete(name)
                del self.studies[priority]
        return len(self._finished)

    def busy(self):
        """Process ids of the workers that own a running trial; None while the database is away."""
        running = []
        try:
            for name in self.studies.values():
                running += self._store.list_trials(name, [TrialState.RUNNING], with_reports=False)
        except StoreUnavailableError:
            return None
        return {int(trial.worker.rsplit("-", 2)[1]) for trial in running}

    def look_if_possible(self):
        """As `look`; None while the database is away."""
        try:
            return self.look()
        except StoreUnavailableError:
            return None

    def check(self, name):
        trials = self._store.list_trials(name)
        assert [trial.number for trial in trials] == list(range(len(trials)))
        finished = [trial for trial in trials if trial.state.is_finished]
        assert len(finished) <= self._max_trials
        for trial in finished:
            # What has ended stays as it is, whoever comes late.
            assert self._finished.setdefault((name, trial.number), trial) == trial

    def check_complete(self, name):
        trials = self._store.list_trials(name)
        states = Counter(trial.state for trial in trials)
        odd = [trial for trial in trials if trial.state is not TrialState.COMPLETE]
        assert states == {TrialState.COMPLETE: self._max_trials}, (states, odd)
        for trial in trials:
            true = true_reports(trial.params)
            assert trial.loss == true[-1]
            reports = [(report.step, report.loss) for report in trial.reports]
            assert reports == list(enumerate(true, 1)), trial
            # The result is the latest attempt's; every attempt before it left one failure.
            assert trial.result["attempt"] == trial.attempt, trial
            assert len(trial.failures) <= trial.attempt - 1
            assert self._store.load_blob(name, trial.number, CHECKPOINT) is None
        self.kinds.update(f.kind.value for trial in trials for f in trial.failures)
        self.complete += len(trials)
