import dataclasses
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
import uvicorn

from search.cli import run_command
from search.dashboard import make_app
from search.plots import DRAW
from tests.search_tests.browser import CHROMIUM, TEXT, Browser
from tests.search_tests.sample_study import START, WORKERS, sample_study, sample_trials
from trials.memory_store import MemoryStore
from trials.store import WorkerInfo
from trials.study import StudyState
from trials.trial import Failure, FailureKind, Outcome, Report, TrialState

TOKEN = "known-to-this-test"  # noqa: S105  # no secret


@contextmanager
def served(store, **options):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        app = make_app(store, token=TOKEN, port=port, **options)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join()


def ask(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def authorized(port, path, method="GET", **headers):
    return ask(port, path, method, Authorization=f"Bearer {TOKEN}", **headers)


@pytest.fixture
def store():
    """Twenty trials, two of which a worker runs under this test's claims."""
    store = MemoryStore()
    store.restore_study(sample_study(), sample_trials(20, running=2))
    for number, worker in enumerate(sorted(set(WORKERS))):
        trial = store.reserve("quick", worker, worker.split("-")[0], f"token-{number}")
        store.report(trial.claim, [Report(1, 0.9), Report(2, 0.7), Report(3, 0.5)])
        slot = {"device": "cpu", "study": "quick", "number": trial.number, "state": "RUNNING"}
        store.beat_worker(WorkerInfo(worker, worker.split("-")[0], 7, (slot,)))
    return store


def finish(store, loss):
    trial = store.list_trials("quick", [TrialState.RUNNING])[0]
    store.finish(trial.claim, Outcome(TrialState.COMPLETE, loss))
    return trial


def fail(store, message):
    trial = store.list_trials("quick", [TrialState.RUNNING])[0]
    failure = Failure(FailureKind.OUT_OF_MEMORY, message, "w", "h", 1)
    store.finish(trial.claim, Outcome(TrialState.FAILED, failure=failure))
    return trial


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 401),
        ("/studies.json", {}, 401),
        ("/study/quick/best.png", {}, 401),
        ("/?token=wrong", {}, 401),
        ("/studies.json", {"Authorization": "Bearer wrong"}, 401),
        ("/studies.json", {"Cookie": "larnn_search_PORT=wrong"}, 401),
        ("/studies.json", {"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"}, 400),
        ("/?token=" + TOKEN, {"Host": "evil.example"}, 400),
        ("/studies.json", {"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil"}, 403),
        ("/studies.json", {"Authorization": f"Bearer {TOKEN}"}, 200),
        ("/study/nothing.json", {"Authorization": f"Bearer {TOKEN}"}, 404),
        ("/study/quick/sketch.png", {"Authorization": f"Bearer {TOKEN}"}, 404),
        ("/../setup.cfg", {"Authorization": f"Bearer {TOKEN}"}, 404),
    ],
)
def test_only_who_knows_the_token_is_served_and_only_by_this_machines_names(
    store, path, headers, status
):
    with served(store) as port:
        headers = {name: value.replace("PORT", str(port)) for name, value in headers.items()}
        found, body, answered = ask(port, path, **headers)
    assert found == status
    assert TOKEN.encode() not in body
    if status != 400:
        assert "default-src 'none'" in answered["Content-Security-Policy"]


def test_the_links_token_becomes_a_cookie_and_leaves_the_address(store):
    with served(store) as port:
        status, _, headers = ask(port, f"/?token={TOKEN}")
        assert (status, headers["Location"]) == (303, "/")
        assert "HttpOnly" in headers["Set-Cookie"]
        assert "samesite=strict" in headers["Set-Cookie"].lower()
        cookie = headers["Set-Cookie"].split(";")[0]
        assert ask(port, "/", Cookie=cookie)[0] == 200


@pytest.mark.parametrize("other", ['prefs={"a":1}', "a@b=1", "no equals sign", 'x="'])
def test_cookies_that_other_programs_of_this_machine_set_do_no_harm(store, other):
    with served(store) as port:
        own = f"larnn_search_{port}={TOKEN}"
        assert ask(port, "/", Cookie=f"{other}; {own}")[0] == 200
        assert ask(port, "/", Cookie=f"{own}; {other}")[0] == 200
        assert ask(port, "/", Cookie=other)[0] == 401


def test_a_study_is_told_as_status_tells_it(store):
    with served(store) as port:
        told = json.loads(authorized(port, "/study/quick.json")[1])
    assert told["counts"]["RUNNING"] == 2
    assert [r["loss"] for r in told["running"][0]["reports"][:3]] == [0.9, 0.7, 0.5]
    assert told["best_settings"]["window_size"] == told["best"]["params"]["window_size"]
    figures = {one["kind"]: one["is_costly"] for one in told["figures"]}
    assert (figures["best"], figures["importance"]) == (False, True)
    assert "again" not in figures  # it is a search


def test_figures_are_drawn_anew_only_after_a_trial_has_ended(store):
    with served(store) as port:
        first = authorized(port, "/study/quick/best.png")[1]
        again = authorized(port, "/study/quick/best.png")[1]
        finish(store, 0.001)
        after = authorized(port, "/study/quick/best.png")[1]
    assert first.startswith(b"\x89PNG")
    assert first == again != after


def test_a_study_that_was_deleted_and_made_anew_is_another_one(store):
    anew = dataclasses.replace(store.get_study("quick"), created_at=START + timedelta(hours=9))
    as_many = [t if t.loss is None else dataclasses.replace(t, loss=7.0) for t in sample_trials(18)]
    with served(store) as port:
        assert authorized(port, "/study/quick.json")[0] == 200
        before = authorized(port, "/study/quick/best.png")[1]
        store.delete_study("quick")
        assert authorized(port, "/study/quick.json")[0] == 404
        store.restore_study(anew, as_many[:1])  # there is no trial 18, which ran before
        assert authorized(port, "/study/quick.json")[0] == 200
        store.delete_study("quick")
        store.restore_study(anew, as_many)
        assert authorized(port, "/study/quick/best.png")[1] != before


def test_a_figure_that_takes_long_holds_up_no_other(store, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(data):
        begun.set()
        go_on.wait(60)
        return DRAW["best"](data)

    monkeypatch.setitem(DRAW, "importance", slow)
    with served(store) as port:
        asking = threading.Thread(target=authorized, args=(port, "/study/quick/importance.png"))
        asking.start()
        try:
            assert begun.wait(60)
            assert authorized(port, "/study/quick/best.png")[0] == 200
        finally:
            go_on.set()
            asking.join()


def test_the_page_only_reads_unless_asked(store):
    with served(store) as port:
        assert authorized(port, "/study/quick/stop", "POST")[0] == 403
        assert json.loads(authorized(port, "/studies.json")[1])["may_control"] is False
    assert store.get_study("quick").state is StudyState.ACTIVE
    with served(store, may_control=True) as port:
        assert ask(port, "/study/quick/stop", "POST")[0] == 401
        assert authorized(port, "/study/quick/stop", "POST", Origin="http://evil")[0] == 403
        assert authorized(port, "/study/quick/vanish", "POST")[0] == 404
        assert authorized(port, "/study/quick/pause", "POST")[0] == 200
        assert store.get_study("quick").state is StudyState.PAUSED
        assert authorized(port, "/study/quick/resume", "POST")[0] == 200
    assert store.get_study("quick").state is StudyState.ACTIVE


def test_the_page_does_not_resume_what_would_end_at_once(store):
    store.create_study(dataclasses.replace(store.get_study("quick").spec, max_trials=18))
    store.set_study_state("quick", StudyState.COMPLETE)
    with served(store, may_control=True) as port:
        status, told, _ = authorized(port, "/study/quick/resume", "POST")
    assert status == 409
    assert b"give it a larger budget first" in told


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
def test_a_browser_shows_the_running_search_and_changes_when_a_trial_ends(store, tmp_path):
    with served(store, may_control=True) as port, Browser(tmp_path / "profile") as browser:
        browser.open(f"http://127.0.0.1:{port}/?token={TOKEN}")
        browser.wait_for("document.querySelectorAll('svg.curve').length === 2")
        text = browser.value(TEXT)
        assert "18/60 trials" in text
        assert "2 running" in text
        assert TOKEN not in browser.value("location.href")
        browser.wait_for("document.getElementById('figure-best').naturalWidth > 1000")
        before = browser.value("document.getElementById('figure-best').src")

        trial = finish(store, 0.0123)
        browser.wait_for("document.getElementById('best-loss').innerText === '0.0123'")
        assert f"trial {trial.number}" in browser.value("document.getElementById('best').innerText")
        assert "19/60 trials" in browser.value(TEXT)
        after = f"document.getElementById('figure-best').src !== '{before}'"
        browser.wait_for(after)
        browser.wait_for("document.getElementById('figure-best').complete")

        trial = fail(store, "<b>no</b> memory")
        browser.wait_for("document.getElementById('failure').innerText !== ''")
        expected = f"Trial {trial.number} failed: out of memory: <b>no</b> memory"
        assert browser.value("document.getElementById('failure').innerText") == expected

        browser.value("[...document.querySelectorAll('button')][0].click()")
        browser.wait_for("document.getElementById('state').innerText === 'PAUSED'")
        assert store.get_study("quick").state is StudyState.PAUSED
        own = f"http://127.0.0.1:{port}/"
        assert all(url.startswith((own, "about:", "data:")) for url in browser.requested())
        assert browser.complaints() == []

        browser.value("window.resume = [...document.querySelectorAll('button')][0]")
        store.set_study_state("quick", StudyState.CANCELLED)
        browser.value("window.resume.click()")
        browser.wait_for("document.getElementById('trouble').innerText.includes('CANCELLED')")


@pytest.mark.mongo
def test_the_command_prints_its_address_serves_it_and_leaves_on_a_signal(tmp_path, monkeypatch):
    monkeypatch.setenv("LARNN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("LARNN_MONGO_URI", raising=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "search", "dashboard", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = urlsplit(process.stdout.readline().strip())
        token = address.query.removeprefix("token=")
        assert (address.hostname, len(token)) == ("127.0.0.1", 32)
        assert ask(address.port, "/studies.json")[0] == 401
        status, body, _ = ask(address.port, "/studies.json", Authorization=f"Bearer {token}")
        assert (status, json.loads(body)["studies"]) == (200, [])
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        process.stdout.close()


def test_a_port_in_use_is_named(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run_command(["dashboard", "--port", str(port)]) == 2
    told = capsys.readouterr().err
    assert f"port {port} cannot be used (Address already in use): choose another" in told
