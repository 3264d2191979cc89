"""What a command of a chain is run in, and what is measured of it."""

import os
import subprocess
import sys

from beit_mm.recipe import process


def test_memory_counts_grandchildren():
    grow = "b = b'x' * (200 << 20); print(1, flush=True); input()"
    nested = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {grow!r}])'
    before = process.tree_rss(os.getpid())
    with subprocess.Popen([sys.executable, '-c', nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert process.tree_rss(os.getpid()) - before > 200 << 20
        child.communicate(b'\n')
