"""An objective that takes the time it is told to take."""

import time


def sleep(params):
    time.sleep(params["seconds"])
    return {"loss": params["x"], "status": "ok"}
