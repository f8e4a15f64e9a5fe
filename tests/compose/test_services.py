"""The running services: who may do what, and from where."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pymongo
import pytest
from pymongo.errors import OperationFailure

from tests.compose.stack import Stack, wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]
OURS = ("worker", "feeder", "notebook")
SECRETS = ("mongo_root_password", "worker_password", "reader_password", "notebook_token")


def test_every_service_becomes_healthy(stack: Stack) -> None:
    for service, count in {"mongo": 1, "worker": 2, "feeder": 1, "notebook": 1}.items():
        wait_until(lambda s=service, n=count: stack.is_healthy(s, n), 120, f"{service} healthy")
    (init,) = stack.containers("mongo-init", running=False)
    assert stack.inspect(init)["State"]["ExitCode"] == 0


def test_nothing_listens_beyond_this_machine(stack: Stack) -> None:
    published = {}
    for service in ("mongo", *OURS):
        for container in stack.containers(service):
            ports = stack.inspect(container)["NetworkSettings"]["Ports"]
            published.update({(service, p): hosts for p, hosts in ports.items() if hosts})
    assert set(published) == {("mongo", "27017/tcp"), ("notebook", "8888/tcp")}
    assert {host["HostIp"] for hosts in published.values() for host in hosts} == {"127.0.0.1"}


@pytest.mark.parametrize("service", OURS)
def test_our_containers_have_few_rights_and_bounded_memory(stack: Stack, service: str) -> None:
    for container in stack.containers(service):
        found = stack.inspect(container)
        assert found["Config"]["User"] in ("larnn", "1000:1000")
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["Init"]
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert 0 < host["Memory"] <= 4 << 30
        assert host["RestartPolicy"]["Name"] == "unless-stopped"


def test_workers_have_the_cores_they_were_given(stack: Stack) -> None:
    for container in stack.containers("worker"):
        assert stack.inspect(container)["HostConfig"]["NanoCpus"] == 1_000_000_000


def test_mongod_runs_as_its_own_user(stack: Stack) -> None:
    (container,) = stack.containers("mongo")
    users = stack.docker("top", container, "-o", "pid,uid,comm")
    assert [line.split()[1] for line in users.splitlines() if "mongod" in line] == ["999"]
    assert stack.inspect(container)["HostConfig"]["Memory"] > 0


def test_no_password_shows_in_docker_or_the_logs(stack: Stack) -> None:
    shown = stack.compose("logs", "--no-color")
    for service in ("mongo", "mongo-init", *OURS):
        for container in stack.containers(service, running=False):
            shown += json.dumps(stack.inspect(container))
    for container in stack.containers("worker") + stack.containers("mongo"):
        shown += stack.docker("top", container, "-o", "pid,args")
    assert [name for name in SECRETS if stack.secret(name) in shown] == []


def test_mongo_refuses_strangers(stack: Stack) -> None:
    with (
        pymongo.MongoClient("127.0.0.1", stack.mongo_port) as stranger,
        pytest.raises(OperationFailure, match=r"[Aa]uthentication|requires"),
    ):
        stranger["larnn_search"]["trials"].find_one()
    login = {"username": "worker", "password": "wrong", "authSource": "larnn_search"}
    with (
        pymongo.MongoClient("127.0.0.1", stack.mongo_port, **login) as impostor,
        pytest.raises(OperationFailure, match="Authentication failed"),
    ):
        impostor["larnn_search"]["trials"].find_one()


def _client(stack: Stack, user: str) -> pymongo.MongoClient[dict[str, object]]:
    return pymongo.MongoClient(
        "127.0.0.1", stack.mongo_port, username=user, password=stack.secret(f"{user}_password"),
        authSource="larnn_search",
    )  # fmt: skip


def test_the_reader_only_reads(stack: Stack) -> None:
    with _client(stack, "reader") as client:
        assert client["larnn_search"]["trials"].find_one({"study": "nobody's"}) is None
        with pytest.raises(OperationFailure, match="not authorized"):
            client["larnn_search"]["trials"].insert_one({"study": "nobody's"})


def test_the_worker_reaches_nothing_but_the_queue(stack: Stack) -> None:
    with _client(stack, "worker") as client:
        for forbidden in (
            lambda: client["elsewhere"]["things"].insert_one({}),
            lambda: client["admin"]["system.users"].find_one(),
            lambda: client["larnn_search"].command("dropDatabase"),
            lambda: client["larnn_search"].command("createRole", "x", privileges=[], roles=[]),
        ):
            with pytest.raises(OperationFailure, match="not authorized"):
                forbidden()


def _ask_notebook(stack: Stack, path: str, token: str | None) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{stack.notebook_port}{path}")
    if token is not None:
        request.add_header("Authorization", f"token {token}")
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  # http, above
        body: bytes = answer.read()
    return body


def test_the_notebook_wants_its_token(stack: Stack) -> None:
    wait_until(lambda: stack.is_healthy("notebook"), 120, "notebook healthy")
    listing = json.loads(_ask_notebook(stack, "/api/contents", stack.secret("notebook_token")))
    assert {"notebooks", "results"} <= {entry["name"] for entry in listing["content"]}
    for token in (None, "wrong"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            _ask_notebook(stack, "/api/contents", token)
        assert refused.value.code == 403
        refused.value.close()


def test_the_image_holds_the_data_set(stack: Stack) -> None:
    load = "from model import data; print(len(data.load('har').x))"
    offline = ("--rm", "--network", "none", "--read-only", "--entrypoint", "python")
    shown = stack.docker("run", *offline, "larnn-search-test", "-c", load)
    assert shown.split() == ["10411"]
