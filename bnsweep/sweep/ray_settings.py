"""Environment variables that Ray and Tune read when they are imported: set before, and nowhere else."""

from __future__ import annotations

import os
import secrets

__all__ = ["HEALTH", "prepare_ray"]

# Without these, work on a host whose link is cut is waited for seven minutes (300 s + 120 s). They must be set where
# Ray's nodes are started and where the driver runs, or in neither place: a node without them closes a connection that
# asks every 10 s ("too many pings"), and what was being trained over it counts as failed.
HEALTH = {
    "RAY_grpc_client_keepalive_time_ms": "10000",  # a silent connection is asked after 10 s ...
    "RAY_grpc_client_keepalive_timeout_ms": "20000",  # ... and dead after 20 s without an answer
    "RAY_health_check_period_ms": "3000",  # the head asks each node every 3 s,
    "RAY_health_check_timeout_ms": "10000",  # waits 10 s for an answer,
    "RAY_health_check_failure_threshold": "3",  # and takes it for dead after three silences
}


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
        "RAY_ENABLE_AUTO_CONNECT": "0",  # else Tune's thread starts a Ray of its own when ours has been shut down
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_task_oom_retries": "2",  # a block that needs too much memory is tried as often as one that fails otherwise
    }
    if own_cluster:
        defaults |= HEALTH  # of a cluster that somebody else started only its environment knows
        # Ray starts workers beforehand: on two cores four, two of which it kills unused while the others import torch.
        defaults["RAY_prestart_worker_first_driver"] = "0"
    if own_cluster and "RAY_AUTH_MODE" not in os.environ:
        # Left alone, Ray would write a token into the home directory; without one, any user of this machine
        # could run code as us. This token lives as long as this process.
        defaults |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
