"""The one connection to MongoDB: collections, indexes, schema, and what an outage does."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import parse_qsl

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConfigurationError, PyMongoError
from pymongo.write_concern import WriteConcern

from trials.address import address, split_uri
from trials.blobs import Blobs
from trials.documents import SCHEMA_VERSION, Document, schema_message
from trials.errors import InvalidValueError, SchemaVersionError, StoreUnavailableError
from trials.indexes import make_indexes
from trials.retrying import Retrying, retried, translated

DATABASE = "larnn_search"
LEAST_SERVER = (6, 0)
FIRST_ANSWER_MS = 3000
"""How long a server may take to be found: a command tells a wrong address in under 5 s in all."""
SILENCE_MS = 30_000
"""After this long without an answer a connection is given up, and made anew."""
PROMPT_S = 5.0
"""As `SILENCE_MS`, for heartbeats: four connections may be dead, and the lease is still kept."""
FAREWELL_S = 0.5
"""For a server to hear that a client leaves."""
QUIET_MS = 60_000
"""Idle connections are closed by us, before a firewall forgets them and tells nobody."""
DURABLE = WriteConcern(w="majority", j=True)
FLEETING = WriteConcern(w=1)
"""For heartbeats: one that is lost is followed by the next."""
LEGIBLE: CodecOptions[Document] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    tzinfo=UTC,
    # What cannot be read must not make its neighbours unreadable: it is refused when decoded.
    unicode_decode_error_handler="replace",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)


class MongoBase:
    """Connects at once, and says clearly why it cannot.

    Args:
        uri: ``mongodb://`` or ``mongodb+srv://``; never shown, never logged.
        database: Its name; default: the one the URI names, else ``larnn_search``.
        retry_for_s: Seconds for which an operation is tried again through an outage.
        password: The URI's user's password, when it does not stand in the URI.
        any_schema: Open a database of another version too, to upgrade it.
        sleep: How to wait between two tries.
        clock: Monotonic seconds.
        random: Uniform in [0, 1).

    Raises:
        InvalidValueError: If the URI cannot be read.
        StoreUnavailableError: If the server cannot be reached, is too old, or refuses the login.
        SchemaVersionError: If another version of this project wrote the database.
    """

    def __init__(
        self,
        uri: str,
        database: str | None = None,
        retry_for_s: float = 60.0,
        *,
        password: str | None = None,
        any_schema: bool = False,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.where = address(uri)
        self._client = _client(uri, password)
        self._retrying = Retrying(self.where, retry_for_s, sleep, clock, random)
        silence_s = self._client.options.pool_options.socket_timeout or PROMPT_S
        self._prompt_s = min(PROMPT_S, silence_s)
        name = database or self._client.get_default_database(DATABASE).name
        self._database = self._client.get_database(name, LEGIBLE, write_concern=DURABLE)
        self._studies = self._database["studies"]
        self._trials = self._database["trials"]
        self._workers = self._database["workers"].with_options(write_concern=FLEETING)
        self._meta = self._database["meta"]
        self._blobs = Blobs(self._database, DURABLE)
        self._is_prepared = False
        self._left_out: set[str] = set()
        """What was told of documents that cannot be read."""
        try:
            self._check_server(any_schema)
        except BaseException:
            self.close()
            raise

    @property
    def database(self) -> Database[Document]:
        """The database itself, for those who administrate it."""
        return self._database

    def close(self) -> None:
        """Let go of connections; a server that is silent is not told for long."""
        with pymongo.timeout(FAREWELL_S):
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_server(self, any_schema: bool) -> None:
        try:
            found = self._client.server_info()
            schema = self._meta.find_one({"_id": "schema"})
        except PyMongoError as error:
            raise translated(error, self.where) from error
        if tuple(found["versionArray"][:2]) < LEAST_SERVER:
            raise StoreUnavailableError(
                f"MongoDB 6.0 or newer is needed, {self.where} runs {found['version']}: upgrade it"
            )
        version = SCHEMA_VERSION if schema is None else schema.get("version")
        if version != SCHEMA_VERSION and not any_schema:
            raise SchemaVersionError(schema_message("the database", version))

    @retried
    def prepare(self) -> None:
        """Make what a new database needs: indexes, and the schema's version. Done once a store."""
        if self._is_prepared:
            return
        self._meta.update_one(
            {"_id": "schema"}, {"$setOnInsert": {"version": SCHEMA_VERSION}}, upsert=True
        )
        make_indexes(self._database)
        self._is_prepared = True

    @retried
    def now(self) -> datetime:
        """The database's clock."""
        return self._now()

    def _now(self) -> datetime:
        """As `now`, for what is inserted; updates use ``$$NOW``."""
        told: datetime = self._database.client.admin.command("hello")["localTime"]
        return told.replace(tzinfo=UTC)


def _client(uri: str, password: str | None) -> MongoClient[Document]:
    options: dict[str, Any] = {
        "serverSelectionTimeoutMS": FIRST_ANSWER_MS,
        "connectTimeoutMS": FIRST_ANSWER_MS,
        "socketTimeoutMS": SILENCE_MS,
        "maxIdleTimeMS": QUIET_MS,
        "appname": "larnn-search",
    }
    parts = split_uri(uri)
    chosen = {name.lower() for name, _ in parse_qsl(parts.options)}
    ours = {name: value for name, value in options.items() if name.lower() not in chosen}
    # `Retrying` does it, for every operation and every kind of server. The driver's own way fails
    # on a standalone whose connections were cut (PyMongo 4.17: "Transaction numbers are only
    # allowed on a replica set member").
    ours |= {"retryWrites": False, "retryReads": False}
    if password is not None:
        ours["password"] = password
    try:
        if not uri.startswith(("mongodb://", "mongodb+srv://")) or not parts.hosts:
            raise ValueError("no scheme, or no host")
        return MongoClient(uri, **ours)
    except OSError as error:
        raise InvalidValueError(
            f"a file that the MongoDB URI names (tlsCAFile, say) cannot be used: {error}"
        ) from None
    except (ConfigurationError, ValueError, TypeError) as error:
        if "DNS" in str(error):
            raise StoreUnavailableError(
                f"the name service knows no MongoDB at {address(uri)} (mongodb+srv:// asks it for "
                "the SRV entry _mongodb._tcp.HOST): is it spelt right, and is there a network?"
            ) from None
        # The driver's own words may quote the URI, and with it a password.
        raise InvalidValueError(
            "the MongoDB URI cannot be used: expected mongodb://USER@HOST:PORT/DATABASE?OPTIONS "
            f"with special characters percent-encoded (host found: {address(uri)}, "
            f"{type(error).__name__})"
        ) from None
