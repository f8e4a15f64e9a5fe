"""Both stores, and a real mongod for the one that needs it."""

import uuid
from collections.abc import Iterator

import pytest

from trials.embedded import embedded_server
from trials.memory_store import MemoryStore
from trials.mongo_store import MongoStore


@pytest.fixture(scope="session")
def mongo_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private mongod for the whole run."""
    with embedded_server(tmp_path_factory.mktemp("mongo")) as uri:
        yield uri


@pytest.fixture
def mongo_store(mongo_uri: str) -> Iterator[MongoStore]:
    """A store in a database of its own."""
    with MongoStore(mongo_uri, f"test_{uuid.uuid4().hex}", retry_for_s=2) as store:
        yield store
        store._client.drop_database(store._database.name)


@pytest.fixture(params=["memory", pytest.param("mongo", marks=pytest.mark.mongo)])
def store(request: pytest.FixtureRequest) -> MemoryStore | MongoStore:
    """Each store in turn."""
    if request.param == "memory":
        return MemoryStore()
    made: MongoStore = request.getfixturevalue("mongo_store")
    return made
