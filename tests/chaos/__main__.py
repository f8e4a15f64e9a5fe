"""``python -m tests.chaos [SECONDS] [SEED]``: ten minutes of misfortune (`make chaos`)."""

import json
import random
import sys
import time

from tests.chaos.storm import run
from tests.trials_tests.conftest import server_folder

if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    started = time.monotonic()
    print(f"seed {seed}; python -m tests.chaos {seconds:g} {seed} does the same again")
    with server_folder() as folder:
        told = run(folder, seconds, 60, seed, say=lambda line: print(line, flush=True))
    print(json.dumps(told, indent=2))
    print(f"all invariants held for {time.monotonic() - started:.0f} s")
