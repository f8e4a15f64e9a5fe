import dataclasses

from search import plots
from search.notebook import follow
from tests.search_tests.sample_study import sample_study, sample_trials
from trials.study import StudyState
from trials.transfer import dump


def test_a_running_study_is_drawn_again_until_it_is_over(tmp_path):
    path = tmp_path / "quick.jsonl"
    study, drawn, slept = sample_study(), [], []

    def write(count, state):
        lines = dump(dataclasses.replace(study, state=state), sample_trials(count))
        path.write_text("".join(lines))

    def draw(data):
        drawn.append(len(data.trials))
        return plots.best_loss_over_trials(data.frame)

    def sleep(seconds):
        slept.append(seconds)
        write(4 + 4 * len(slept), StudyState.COMPLETE if len(slept) == 2 else StudyState.ACTIVE)

    write(4, StudyState.ACTIVE)
    data = follow(str(path), draw, every_s=10, sleep=sleep)
    assert (drawn, slept) == ([4, 8, 12], [10, 10])
    assert data.study.state is StudyState.COMPLETE


def test_without_a_pace_it_is_drawn_once(tmp_path):
    path = tmp_path / "quick.jsonl"
    path.write_text("".join(dump(sample_study(), sample_trials(4))))
    drawn = []

    def draw(data):
        drawn.append(data)
        return plots.best_loss_over_trials(data.frame)

    assert follow(str(path), draw) is drawn[0]
