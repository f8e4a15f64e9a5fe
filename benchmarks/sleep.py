"""An objective that takes the time it is told to take."""

import time
from collections.abc import Mapping
from typing import Any


def sleep(params: Mapping[str, Any]) -> dict[str, Any]:
    time.sleep(params["seconds"])
    return {"loss": params["x"], "status": "ok"}
