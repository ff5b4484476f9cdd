"""Environment variables that Ray and Tune read when they are imported: set before, and nowhere else."""

from __future__ import annotations

import os
import secrets

__all__ = ["prepare_ray"]


def prepare_ray(*, own_cluster: bool) -> None:
    """Call before `import ray`. What the user has set stays.

    Args:
        own_cluster: Ray is about to be started here, for this process alone.
    """
    defaults = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our rows are the log
        "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables, which verbose=0 does not silence
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of the spec stay valid
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if own_cluster and "RAY_AUTH_MODE" not in os.environ:
        # Left alone, Ray would write a token into the home directory; without one, any user of this machine
        # could run code as us. This token lives as long as this process.
        defaults |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
