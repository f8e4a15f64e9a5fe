"""Log lines on stderr: readable ones for people, JSON ones for machines."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

FORMATS = ("text", "json")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, perhaps a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record down."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up_logging(log_format: str, debug: bool) -> None:
    """Send this process's log to stderr, as one of `FORMATS`."""
    handler = logging.StreamHandler()
    readable = logging.Formatter("%(asctime)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else readable)
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    # Libraries speak up only when something is wrong.
    for name in ("pymongo", "matplotlib", "hyperopt", "torch"):
        logging.getLogger(name).setLevel(logging.WARNING)
