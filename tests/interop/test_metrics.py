"""The daemon's metrics, read by Prometheus' own linter."""

import os
import subprocess
from pathlib import Path

import pytest

from ns import cache

# tests/metrics.rs proves that these are the daemon's.
SAMPLE = Path(__file__).with_name("metrics.txt").read_text()


def lint(text):
    """What promtool says of it: nothing is good."""
    promtool = cache() / "root/prometheus/usr/bin/promtool"
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, env={"PATH": os.environ["PATH"]})
    return done.returncode, done.stdout + done.stderr


def test_nothing_to_complain_of():
    assert lint(SAMPLE) == (0, "")


@pytest.mark.parametrize("spoil", [
    lambda text: text.replace("# HELP smtp_direct_workers ", "# nothing "),
    lambda text: text.replace("messages_finished_total", "messages_finished"),
    lambda text: text + "not a sample\n",
], ids=["no help", "no total", "no sample"])
def test_the_linter_sees_faults(spoil):
    assert lint(spoil(SAMPLE)) != (0, "")
