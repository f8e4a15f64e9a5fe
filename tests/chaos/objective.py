"""An objective whose true loss is known, however often it was interrupted on its way."""

import json
import math
import time

STEPS = 4
STEP_SECONDS = 0.08
SLOW_SECONDS = 1.2
"""A step of every fourth trial, whose four last longer than a lease: who wakes too late finds it
running elsewhere."""


def known(params, context):
    saved = context.load_checkpoint()
    done, total = json.loads(saved) if saved else (0, 0.0)
    resumed = done
    while done < STEPS:
        if context.stop_reason() is not None:
            context.save_checkpoint(json.dumps([done, total]).encode())
            return {"status": "stopped"}
        time.sleep(SLOW_SECONDS if params["x"] > 1.5 else STEP_SECONDS)
        done += 1
        total += term(params["x"], done)
        context.report(done, total)
        context.save_checkpoint(json.dumps([done, total]).encode())
    return {"loss": total, "status": "ok", "attempt": context.attempt, "resumed_from": resumed}


def term(x, step):
    return math.sin(x * step) + 1 / step


def true_reports(params):
    """The loss of each step, which the last one's is the trial's."""
    totals, total = [], 0.0
    for step in range(1, STEPS + 1):
        total += term(params["x"], step)
        totals.append(total)
    return totals
