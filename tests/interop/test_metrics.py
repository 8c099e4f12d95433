"""The daemon's metrics, read by Prometheus' own linter."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

import peers
from ns import cache

# tests/metrics.rs proves that these are the daemon's.
SAMPLE = Path(__file__).with_name("metrics.txt").read_text()


def lint(text):
    """What promtool says of it: nothing is good."""
    promtool = cache() / "root/prometheus/usr/bin/promtool"
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, env={"PATH": os.environ["PATH"]})
    return done.returncode, done.stdout + done.stderr


def scrape(spool):
    """GET /metrics on the control socket: the head and the body."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(str(spool / "control.sock"))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        octets = b"".join(iter(lambda: connection.recv(65536), b""))
    head, body = octets.decode().split("\r\n\r\n", 1)
    return head.lower(), body


def test_a_running_daemon(peer, daemon):
    target = peer(peers.SmtpSink, dump=False)
    running = daemon()
    running.drop("m", f"From: s@sender.test\r\nTo: u@{target.domains[0]}\r\nSubject: x\r\n\r\ntext\r\n".encode())
    running.wait_finished(1)
    head, body = scrape(running.spool)
    assert head.startswith("http/1.1 200") and "content-type: text/plain; version=0.0.4; charset=utf-8" in head, head
    assert lint(body) == (0, "")
    lines = body.splitlines()
    for line in ('recipient_outcomes_total{outcome="delivered",code="2xx"} 1', "messages_finished_total 1", "queue_messages 0"):
        assert f"smtp_direct_{line}" in lines, line
    running.stop()


def test_nothing_to_complain_of():
    assert lint(SAMPLE) == (0, "")


@pytest.mark.parametrize("spoil", [
    lambda text: text.replace("# HELP smtp_direct_workers ", "# nothing "),
    lambda text: text.replace("messages_finished_total", "messages_finished"),
    lambda text: text + "not a sample\n",
], ids=["no help", "no total", "no sample"])
def test_the_linter_sees_faults(spoil):
    assert lint(spoil(SAMPLE)) != (0, "")
