from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime

from search.logs import JsonFormatter


def test_a_json_line_holds_all_there_is_to_a_record() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.LogRecord(
            "larnn.worker", logging.ERROR, __file__, 1, "trial %d\nfails", (3,), sys.exc_info()
        )
    record.created = 0.0
    (line,) = JsonFormatter().format(record).split("\n")
    told = json.loads(line)
    assert datetime.fromisoformat(told["time"]) == datetime(1970, 1, 1, tzinfo=UTC)
    assert (told["level"], told["logger"]) == ("error", "larnn.worker")
    assert told["message"] == "trial 3\nfails"
    assert told["traceback"].endswith("ValueError: broken")


def test_the_command_line_chooses_the_format() -> None:
    code = (
        "import logging; from search.cli import cli; "
        "cli(['--log-format', 'json', 'spaces'], standalone_mode=False); "
        "logging.getLogger('x').info('hello')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr)["message"] == "hello"


def test_torch_speaks_up_only_when_something_is_wrong() -> None:
    code = (
        "from search.cli import run_command; run_command(['spaces']); import torch, logging; "
        "logging.getLogger('torch._subclasses.fake_tensor').info('FakeTensor cache stats:')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
