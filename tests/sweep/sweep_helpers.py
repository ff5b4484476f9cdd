"""What the tests of sweeps share: real processes, and rows as they can be compared."""

import os
import subprocess
import sys
import time
from pathlib import Path

from bnsweep.store.schema import KEYS, SCHEMAS, VOLATILE
from bnsweep.store.store import Store
from bnsweep.store.verify import verify_location


def rows(store, table="trials"):
    """What identifies and says something, in the order of the key."""
    columns = [name for name in SCHEMAS[table].names if name not in VOLATILE or name in KEYS[table]]
    return (
        Store.open(store).read(table, columns=columns).sort_by([(key, "ascending") for key in KEYS[table]]).to_pylist()
    )


def lose(location, *tables):
    """Change a byte of each part of these tables, and set them aside."""
    for table in tables:
        for part in Store.open(location).parts(table):
            path = Path(location, part.path)
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 255
            path.write_bytes(data)
    assert verify_location(location, repair=True).ok


def bnsweep(*arguments):
    command = [sys.executable, "-m", "bnsweep", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=quiet_env(), check=False)


def quiet_env():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def wait_until(true, timeout_s=240):
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)
