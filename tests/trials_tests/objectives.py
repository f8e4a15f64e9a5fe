"""Tiny objectives that child processes run in tests; their params say how they behave."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from trials.errors import TrialRefusedError

HERE = "tests.trials_tests.objectives"
SICK = "LARNN_TEST_SICK"
"""Environment variable, for `needs_health`."""


def square(params):
    return {"loss": params["x"] ** 2, "status": "ok", "pid": os.getpid()}


def sleepy(params):
    time.sleep(params["seconds"])
    return {"loss": params.get("x", 0.0), "status": "ok"}


def misbehave(params, context):
    return globals()[f"_{params['how']}"](params, context)


def steps(params, context):
    """Counts to ``steps``, one checkpoint and report a step; waits while ``gate`` is no file.

    Each loss is lower than the one before, but for that of ``bad_step``. Its last deeds are to keep
    ``weights`` bytes, and to write the file ``done``, if it was told to.
    """
    saved = context.load_checkpoint()
    done = json.loads(saved)["done"] if saved else 0
    while done < params["steps"]:
        if done >= params.get("gate_from", 1):
            while not Path(params["gate"]).exists():
                if context.stop_reason() and not params.get("stubborn"):
                    context.save_checkpoint(json.dumps({"done": done}).encode())
                    return {"status": "stopped", "done": done}
                time.sleep(0.005)
        done += 1
        loss = 9.0 if done == params.get("bad_step") else 1 / done
        context.report(done, loss, accuracy=done / 10)
        context.save_checkpoint(json.dumps({"done": done}).encode())
    if "weights" in params:
        context.save_weights(os.urandom(params["weights"]))
    if "done" in params:
        Path(params["done"]).touch()
    started_at = json.loads(saved)["done"] if saved else 0
    return {"loss": 1 / done, "status": "ok", "resumed_from": started_at}


def needs_health(params, context):
    """Dies at once on a machine that is told to be sick."""
    if os.environ.get(SICK):
        os._exit(3)
    return {"loss": 0.0, "status": "ok"}


def look_around(params, context):
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LARNN_MONGO_URI")
    context.save_weights(b"\x00weights")
    return {
        "loss": 0.0,
        "environment": {name: os.environ.get(name) for name in names},
        "path_end": sys.path[-1],
        "told": [context.number, context.attempt, context.seed, context.threads],
        "told_device": context.device,
        "requirements": dict(context.requirements),
    }


def meets(params, context):
    """Ends once trials on ``gpus`` different GPUs have begun: no GPU can take them all."""
    here = Path(params["folder"])
    here.joinpath(os.environ["CUDA_VISIBLE_DEVICES"]).touch()
    while len(list(here.iterdir())) < params["gpus"]:
        if context.stop_reason():
            return {"status": "stopped"}
        time.sleep(0.005)
    return {"loss": 0.0, "seen": os.environ["CUDA_VISIBLE_DEVICES"]}


def spawns(params, context):
    """Starts a process of its own, says both process ids, then runs for ever.

    With ``stuck`` it does so in C code that holds Python's lock, so that no other thread runs.
    """
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(params["pids"] + ".new").write_text(f"{os.getpid()} {grandchild.pid}")
    os.replace(params["pids"] + ".new", params["pids"])
    if params.get("stuck"):
        re.match("(a+)+$", "a" * 60 + "b")
    while True:
        time.sleep(0.05)


def _raise(params, context):
    raise ValueError("learning rate is on holiday")


def _exit(params, context):
    sys.exit("enough")


def _die(params, context):
    print("about to go", flush=True)
    os._exit(3)


def _segfault(params, context):
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def _memory_error(params, context):
    raise MemoryError("no room")


def _cuda_memory(params, context):
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _nan(params, context):
    return {"loss": float("nan"), "status": "ok", "message": "try less", "epochs_run": 2}


def _no_dict(params, context):
    return 3


def _no_loss(params, context):
    return {"accuracy": 1.0}


def _word_loss(params, context):
    return {"loss": "low"}


def _odd_value(params, context):
    return {"loss": 1.0, "model": object()}


def _huge(params, context):
    return {"loss": 1.0, "text": "x" * (20 << 20)}


def _stopped(params, context):
    return {"status": "stopped"}


def _refuse(params, context):
    raise TrialRefusedError("this machine has other data")


def _forever(params, context):
    while True:
        time.sleep(0.01)


def _hog(params, context):
    context.kept = bytearray(os.urandom(1 << 20) * 300)
    while True:
        time.sleep(0.01)


def _hog_in_child(params, context):
    code = "import os, time; x = bytearray(os.urandom(1 << 20) * 300); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code])
    while True:
        time.sleep(0.01)


def _chatter(params, context):
    print("first words")
    os.write(1, b"x" * 1_000_000)
    print("last words", file=sys.stderr)
    return {"loss": 0.0}


def _mute(params, context):
    sys.stdout.close()
    sys.stderr = object()
    return {"loss": 0.0}


def _nonsense(params, context):
    context.pipe.send({"type": "report", "step": "one"})
    time.sleep(60)
