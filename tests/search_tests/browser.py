"""A headless Chromium, driven over its debugging pipe: no driver, no port."""

import json
import os
import shutil
import subprocess
import time

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page of a Chromium that lives as long as the ``with`` block."""

    def __init__(self, profile):
        self._profile = profile
        self._sent = 0
        self._buffer = b""
        self.log = []

    def __enter__(self):
        command_read, self._write = os.pipe()
        self._read, answer_write = os.pipe()
        flags = (
            "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run "
            "--hide-scrollbars --remote-debugging-pipe --window-size=1200,1500"
        )
        # Chromium reads commands from descriptor 3 and answers on 4.
        line = f'exec "$0" {flags} --user-data-dir="$1" 3<&{command_read} 4>&{answer_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, CHROMIUM, str(self._profile)],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(timeout=30)
        os.close(self._read)
        os.close(self._write)

    def send(self, method, **params):
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params}
        if getattr(self, "_session", None) and not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                return answer["result"]
            self.log.append(answer)

    def _next(self):
        while b"\0" not in self._buffer:
            piece = os.read(self._read, 1 << 16)
            assert piece, "Chromium has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, address):
        self.send("Page.navigate", url=address)

    def value(self, expression):
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def wait_for(self, expression, seconds=30):
        """The expression's value once it is truthy."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := self.value(expression):
                return found
            time.sleep(0.05)
        raise AssertionError(f"not so within {seconds} s: {expression}\n{self.value(TEXT)}")

    def requested(self):
        """Addresses of everything the page has asked for."""
        sent = (one for one in self.log if one.get("method") == "Network.requestWillBeSent")
        return [one["params"]["request"]["url"] for one in sent]

    def complaints(self):
        """Errors of scripts, and what the content policy refused."""
        return [
            one["params"]
            for one in self.log
            if one.get("method") == "Runtime.exceptionThrown"
            or (
                one.get("method") == "Log.entryAdded"
                and one["params"]["entry"]["level"] == "error"
                and "favicon" not in one["params"]["entry"].get("url", "")
            )
        ]


TEXT = "document.body ? document.body.innerText : ''"
