"""A mongod that a test may kill, and a proxy before it whose connections a test may cut."""

import contextlib
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from pymongo import MongoClient

from tests.ports import free_port
from trials.mongod import find_mongod

START_SECONDS = 60
CHUNK = 1 << 16


class Mongod:
    """A server on a port of its own, this machine's only; keeps its data through a crash."""

    def __init__(self, folder, *flags):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log = self.folder.with_name(self.folder.name + ".log")
        self._flags = flags
        self._process = None

    def start(self):
        command = [find_mongod(), "--dbpath", self.folder, "--port", str(self.port)]
        command += ["--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"]
        command += ["--setParameter", "diagnosticDataCollectionEnabled=false", *self._flags]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            assert not self.has_died(), self.log.read_text()[-2000:]
            assert time.monotonic() < deadline, f"mongod does not listen: see {self.log}"
            time.sleep(0.02)
        return self

    def _listens(self):
        # It listens only once it has read its journal.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def kill(self):
        """As a power cut would: nothing is written any more."""
        self._process.kill()
        self._process.wait()

    def freeze(self):
        """As a machine that hangs: connections stay, and nobody answers."""
        self._process.send_signal(signal.SIGSTOP)

    def has_died(self):
        return self._process.poll() is not None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if not self.has_died():
            self.kill()  # a replica set's member would take 15 s to leave in good order

    def uri(self, options=""):
        return f"mongodb://{self.address}/larnn_search?{options}"

    def client(self, **options):
        return MongoClient(self.uri("directConnection=true"), tz_aware=True, **options)


class Proxy:
    """Passes TCP connections on to a server, until they are cut or fall silent."""

    def __init__(self, port):
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._flows = threading.Event()
        self._dead = []
        self._sockets = set()
        self._lock = threading.Lock()
        self.mend()
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def uri(self, options=""):
        query = "&".join(filter(None, ["directConnection=true", options]))
        return f"mongodb://127.0.0.1:{self.port}/larnn_search?{query}"

    def mend(self):
        self._open.set()
        self._flows.set()

    def cut(self):
        """End all connections, in the midst of whatever they say, and take no new ones."""
        self._open.clear()
        self._drop()

    def silence(self):
        """Let nothing through; the connections stay, as when a cable is pulled."""
        self._flows.clear()

    def forget(self):
        """Let nothing more through the connections there are, and new ones pass: as a firewall."""
        self._flows.clear()
        self._dead.append(self._flows)
        self._flows = threading.Event()
        self._flows.set()

    def close(self):
        self._open.clear()
        self._listener.close()
        self._drop()
        for flows in (*self._dead, self._flows):
            flows.set()

    def _drop(self):
        with self._lock:
            dropped, self._sockets = self._sockets, set()
        for connection in dropped:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            if not self._open.is_set():
                self._drop()
                continue
            for pair in ((client, server), (server, client)):
                arguments = (*pair, self._flows)
                threading.Thread(target=self._pass_on, args=arguments, daemon=True).start()

    def _pass_on(self, source, sink, flows):
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                flows.wait()
                sink.sendall(data)
        with self._lock:
            self._sockets -= {source, sink}
        for connection in (source, sink):
            # Before close: it wakes the other thread out of its recv.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
