"""Runs an experiment in this process, as a user would from the command line."""

import contextlib
import io

from experiments import cli


def run_main(module, *argv):
    """(exit status, standard output, standard error) of an experiment."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(module, argv)
    return status, out.getvalue(), err.getvalue()
