"""Both stores, and a real mongod for the one that needs it."""

import contextlib
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from trials import embedded
from trials.embedded import embedded_server
from trials.memory_store import MemoryStore
from trials.mongo_store import MongoStore
from trials.retrying import Retrying

T = TypeVar("T")
MEMORY_DISK = Path("/dev/shm")  # noqa: S108  # chosen for speed, and left clean
ROOM_BYTES = 2 * 2**30


@contextlib.contextmanager
def server_folder() -> Iterator[Path]:
    """A folder for a mongod, in memory where there is room: it syncs its journal all the time."""
    is_roomy = MEMORY_DISK.is_dir() and shutil.disk_usage(MEMORY_DISK).free > ROOM_BYTES
    parent = MEMORY_DISK if is_roomy else None
    with tempfile.TemporaryDirectory(prefix="larnn-test-", dir=parent) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """A private mongod for the whole run."""
    with server_folder() as folder, embedded_server(folder) as uri:
        yield uri


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A folder for a test's own mongod, which is stopped afterwards."""
    with server_folder() as folder:
        yield folder / "state"
        embedded.stop(folder / "state")
        assert embedded.status(folder / "state").pid is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 MB; only who may mount one can run the test."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system here")
    yield place
    # Lazily: a server that a failed test left behind would keep it.
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Fill a disk; the file to delete when there should be room again."""
    filler = disk / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while file.write(bytes(2**20)):
            file.flush()
    return filler


@pytest.fixture
def mongo_store(mongo_uri: str) -> Iterator[MongoStore]:
    """A store in a database of its own."""
    with MongoStore(mongo_uri, f"test_{uuid.uuid4().hex}", retry_for_s=2) as store:
        yield store
        store._client.drop_database(store._database.name)


@dataclass(frozen=True)
class Forgetful(Retrying):
    """Loses the answer of every operation, and so sends it again."""

    def __call__(self, operation: Callable[[], T]) -> T:
        first = super().__call__(operation)
        # What was deleted or taken back is told by the try that did it.
        return super().__call__(operation) or first


@pytest.fixture(
    params=[
        "memory",
        pytest.param("mongo", marks=pytest.mark.mongo),
        pytest.param("mongo, every answer lost", marks=pytest.mark.mongo),
    ]
)
def store(request: pytest.FixtureRequest) -> MemoryStore | MongoStore:
    """Each store in turn."""
    if request.param == "memory":
        return MemoryStore()
    made: MongoStore = request.getfixturevalue("mongo_store")
    if "lost" in request.param:
        made._retrying = Forgetful(made.where, for_s=2)
    return made
