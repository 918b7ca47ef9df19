"""Namespaces of its own for a run as root: then no process and no mount outlives it, however it ends."""

import os
import shutil
import signal
import subprocess
import sys

COMMAND = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child"]
MARK = "CHAOS_OWN_MOUNTS"


def go_apart(module: str) -> None:
    """Replaces this process by one of the same arguments in such namespaces, where that is allowed."""
    if os.environ.get(MARK):
        # Nothing is told to the first process of a namespace that it did not ask for.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return
    if os.geteuid() != 0 or not shutil.which(COMMAND[0]):
        return
    if subprocess.run([*COMMAND, "true"], check=False, capture_output=True).returncode != 0:
        return
    command = [*COMMAND, sys.executable, "-m", module, *sys.argv[1:]]
    os.execvpe(command[0], command, os.environ | {MARK: "1"})
