"""The command line: parse, call, print. Everything heavy is imported where it is used.

Exit codes: 0 done, 1 some of the work failed (the rest is kept), 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import shlex
import sys

import click

from bnsweep._version import __version__
from bnsweep.cli.answers import claims, query, report
from bnsweep.cli.common import INTERRUPTED
from bnsweep.cli.job import job
from bnsweep.cli.launch import launch
from bnsweep.cli.search import search
from bnsweep.cli.service import cancel, serve, submit, token
from bnsweep.cli.spec import spec
from bnsweep.cli.stores import store
from bnsweep.cli.sweeps import models, plan, run, status
from bnsweep.errors import BnsweepError

__all__ = ["cli", "main"]


EXIT_CODES = "Exit codes: 0 done, 1 some of the work failed (the rest is kept), 2 bad input, 130 interrupted."


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="bnsweep")
def cli() -> None:
    """Which batch-normalization layers should a network keep on analog hardware?

    A sweep trains every (model, BN placement, seed), perturbs each trained network's weights many times,
    keeps one row per noise draw in Parquet, and answers with SQL.
    """


def main() -> None:
    """Run the command line; errors of the user's become one message, never a traceback."""
    try:
        sys.exit(cli(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BnsweepError as error:
        click.echo(f"bnsweep: {error}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _interrupted()
    except RuntimeError as error:
        if str(error) != "Query interrupted":  # so DuckDB says Ctrl-C, wherever it is at work
            raise
        _interrupted()
    except BrokenPipeError:
        # The reader has seen enough (`| head`).
        sys.stderr.close()
        sys.exit(0)


for command in (
    spec,
    models,
    plan,
    run,
    search,
    launch,
    status,
    query,
    report,
    claims,
    store,
    serve,
    token,
    submit,
    cancel,
    job,
):
    cli.add_command(command)


def _interrupted() -> None:
    again = shlex.join(["bnsweep", *sys.argv[1:]])
    click.echo(f"bnsweep: interrupted; what has landed in a store is kept. To go on: {again}", err=True)
    sys.exit(INTERRUPTED)
