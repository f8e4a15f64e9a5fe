"""The manifests agree with their schemas, with our command line, and with each other."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest

from search.cli import cli
from tests.deploy_tests.commands import (
    COMPOSE_FILES,
    KUBERNETES_FILES,
    ROOT,
    SLURM_FILE,
    SPOT_FILE,
    command_lines,
    documents,
)

COMPOSE = documents(COMPOSE_FILES[0])[0]
KUBERNETES = [document for path in KUBERNETES_FILES for document in documents(path)]
TEMPLATES = [one["spec"]["template"] for one in KUBERNETES if "template" in one["spec"]]
PODS = {one["metadata"]["labels"]["app"]: one["spec"] for one in TEMPLATES}
VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?")


@pytest.mark.parametrize("path", KUBERNETES_FILES, ids=lambda path: path.name)
def test_kubernetes_manifests_fit_the_schema(path: Path) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, "1.30", strict=True)


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_pods_fit_the_restricted_standard_of_pod_security(pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}


def test_mongodb_is_open_to_the_pods_that_use_it_alone() -> None:
    (policy,) = [one["spec"] for one in KUBERNETES if one["kind"] == "NetworkPolicy"]
    ((rule,),) = [rule["from"] for rule in policy["ingress"]]
    (let_in,) = rule["podSelector"]["matchExpressions"]
    users = {app for app, pod in PODS.items() if "LARNN_MONGO_URI" in str(pod)}
    assert set(let_in["values"]) == users
    assert policy["podSelector"]["matchLabels"]["app"] in set(PODS) - users


def test_the_schema_check_can_fail() -> None:
    (job,) = documents(ROOT / "deploy" / "kubernetes" / "search.yaml")
    job["spec"]["template"]["spec"]["contianers"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="contianers"):
        kubernetes_validate.validate(job, "1.30", strict=True)


@pytest.mark.parametrize(
    ("source", "words"), list(command_lines()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_command_line_is_one_of_ours(
    source: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in ("WORKER", "READER"):
        monkeypatch.setenv(f"LARNN_{user}_PASSWORD_FILE", __file__)
    words = [VARIABLE.sub("1", word).replace("1}", "1") for word in words]
    command: click.Command = cli
    while isinstance(command, click.Group):
        assert words[0] in command.commands, f"{source}: no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))  # parses; runs nothing


def test_all_parts_are_covered_by_the_command_line_test() -> None:
    found = {source for source, _ in command_lines()}
    files = {COMPOSE_FILES[0], COMPOSE_FILES[1], *KUBERNETES_FILES, SPOT_FILE, SLURM_FILE}
    assert found == {path.name for path in files}


def test_compose_publishes_on_this_machine_only() -> None:
    published = [
        port for service in COMPOSE["services"].values() for port in service.get("ports", [])
    ]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_mongo_is_stopped_after_all_that_use_it() -> None:
    # Compose 1.29 does not follow dependencies through `mongo-init`, which has ended by then.
    users = [
        s for s in COMPOSE["services"].values() if "LARNN_MONGO_URI" in s.get("environment", {})
    ]
    assert len(users) == 5
    assert all("mongo" in service["depends_on"] for service in users)


def test_passwords_come_from_files_alone() -> None:
    for path in (*COMPOSE_FILES, *KUBERNETES_FILES, SPOT_FILE):
        for uri in re.findall(r"mongodb://\S+", path.read_text()):
            assert ":" not in uri.removeprefix("mongodb://").split("@")[0], f"{path.name}: {uri}"


def test_mongod_with_a_certificate_is_told_its_ca_too() -> None:
    # Newer ones refuse to start without (SERVER-72839); they then ask clients for a certificate,
    # unless they are told that a password is enough.
    for path in (*COMPOSE_FILES, *KUBERNETES_FILES):
        if "--tlsCertificateKeyFile" in (text := path.read_text()):
            assert "- --tlsCAFile\n" in text
            assert "- --tlsAllowConnectionsWithoutCertificates\n" in text


def test_a_certificate_stays_one_in_the_spot_machines_file() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMIIBfake\nlines==\n-----END CERTIFICATE-----\n"
    text = SPOT_FILE.read_text()
    (placeholder,) = re.findall(r"^( +content: .*\n?.*)CA_CERTIFICATE", text, re.MULTILINE)
    indent = placeholder.rpartition("\n")[2]
    filled = text.replace("CA_CERTIFICATE", pem.strip().replace("\n", f"\n{indent}"))
    (written,) = [f for f in documents_of(filled)["write_files"] if f["path"].endswith(".pem")]
    assert written["content"] == pem


@pytest.mark.parametrize("overlay", COMPOSE_FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("compose", [["docker", "compose"], ["docker-compose"]], ids=" ".join)
def test_compose_programs_read_the_files(compose: list[str], overlay: Path) -> None:
    version = [*compose, "version"]
    if not shutil.which(compose[0]) or subprocess.run(version, capture_output=True).returncode:
        pytest.skip(f"this machine has no {' '.join(compose)}")
    files = [word for path in dict.fromkeys((COMPOSE_FILES[0], overlay)) for word in ("-f", path)]
    done = subprocess.run(
        [*compose, *files, "config"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "MONGO_ADDRESS": "10.0.0.5"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    settled = documents_of(done.stdout)["services"]
    worker = settled["worker"]
    assert worker["command"][0] == "worker"
    assert ("tls=true" in str(worker["environment"])) == (overlay.name.endswith(".tls.yml"))
    assert ("nvidia" in str(worker["deploy"])) == (overlay.name.endswith(".gpu.yml"))


def documents_of(text: str) -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load(text))


def test_env_example_shows_every_setting_and_its_default() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    shown = [tuple(line.split("=", 1)) for line in lines if line and not line.startswith("#")]
    found = {pair for path in COMPOSE_FILES[:2] for pair in VARIABLE.findall(path.read_text())}
    # Copied as it is, the file changes nothing: one default a name, and that one is shown.
    assert len({name for name, _ in shown}) == len(shown)
    assert set(shown) == found


def test_docker_ignores_all_but_what_the_image_is_made_of() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert kept >= {"model", "search", "trials", "setup.cfg", "pyproject.toml", "constraints.txt"}
    assert all((ROOT / name).exists() for name in kept)


def test_make_secrets_writes_them_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    make = ["make", "-C", str(ROOT), "secrets", f"SECRETS_DIR={folder}"]
    subprocess.run(make, check=True, capture_output=True)
    first = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(first) == set(COMPOSE["secrets"])
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in first.values())
    assert len(set(first.values())) == 4
    # MongoDB's user reads the files, and nobody else on this machine gets into the folder.
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}
    subprocess.run(make, check=True, capture_output=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == first


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """What Slurm gives a task on a node, where `apptainer` shows its arguments and the address."""
    fake = tmp_path / "apptainer"
    fake.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$APPTAINERENV_LARNN_MONGO_URI" '
        '"GPUs $APPTAINERENV_CUDA_VISIBLE_DEVICES" "$@"\n'
    )
    fake.chmod(0o755)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LARNN_MONGO_URI": "mongodb://worker@mongo.example.org/larnn_search?tls=true",
        "LARNN_MONGO_PASSWORD_FILE": "/home/me/.larnn/worker_password",
        "LARNN_IMAGE": "/home/me/larnn-search.sif",
        "SLURM_CPUS_PER_TASK": "4",
    }


def run_slurm(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SLURM_FILE], env=environment, capture_output=True, text=True, check=False
    )


def test_a_slurm_task_works_on_its_cores(slurm: dict[str, str]) -> None:
    words = run_slurm(slurm).stdout.splitlines()
    assert words[-4:] == [slurm["LARNN_IMAGE"], "worker", "--slots", "4"]
    assert words[0] == slurm["LARNN_MONGO_URI"]
    assert not any("mongodb://" in word for word in words[1:])  # others see the command line


def test_a_slurm_task_sees_the_certificate_that_its_address_names(slurm: dict[str, str]) -> None:
    words = run_slurm(
        slurm | {"LARNN_MONGO_CA": "/home/me/.larnn/mongo_ca.pem"}
    ).stdout.splitlines()
    secret = slurm["LARNN_MONGO_PASSWORD_FILE"]
    assert [words[at + 1] for at, word in enumerate(words) if word == "--bind"] == [
        f"{secret}:{secret}:ro",
        "/home/me/.larnn/mongo_ca.pem:/run/secrets/mongo_ca:ro",
    ]


def test_a_slurm_task_works_on_its_gpus(slurm: dict[str, str]) -> None:
    given = {"SLURM_JOB_GPUS": "2,3", "CUDA_VISIBLE_DEVICES": "2,3"}
    words = run_slurm(slurm | given).stdout.splitlines()
    assert words[1] == "GPUs 2,3"
    assert words[-5:] == ["--nv", slurm["LARNN_IMAGE"], "worker", "--slots", "auto"]


@pytest.mark.parametrize("name", ["LARNN_MONGO_URI", "LARNN_MONGO_PASSWORD_FILE", "LARNN_IMAGE"])
def test_a_slurm_task_says_what_is_missing(slurm: dict[str, str], name: str) -> None:
    del slurm[name]
    done = run_slurm(slurm)
    assert done.returncode != 0
    assert f"{name}: set it to" in done.stderr
