"""Damage to the daemon's own files while it does not run: it starts, says what it found, and every message is accounted for.

A message arrives whole, or stands in failed/, or was named in the log; nothing that is damaged is sent.
"""

import random
import re
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from ns import wait_for
from test_disk import message, world  # noqa: F401, a fixture

NAMES = [f"m{number:02}" for number in range(40)]
PAGE = 4096


def filled(world, clean):
    """A queue of messages that nobody has taken yet, and the daemon at its end."""
    running, peer = world(listen=False)
    for name in NAMES:
        running.drop(name, message(name, 3000))
    wait_for("all of them are accepted", lambda: len(running.events("accepted")) == len(NAMES))
    wait_for("and moved", lambda: not any((running.spool / "drop").iterdir()))
    if clean:
        running.stop()
    else:
        running.kill()
    return running, peer


class Starter:
    """Starts it again when it ends, as systemd does: what it finds damaged while it runs is put right by the next start."""

    def __init__(self, running):
        self.running, self.starts, self.before = running, 0, len(running.events())

    def refuses(self):
        """Whether it does not even start, with nothing touched; else it runs."""
        while self.running.process is None or self.running.process.poll() is not None:
            self.starts += 1
            assert self.starts < 6, f"it does not stay:\n{self.running.said()}"
            try:
                self.running.start()
            except AssertionError:
                said = str(self.running.events()[self.before:])
                if "the queue database has schema" in said or "another program" in said:
                    return True
        return False


def accounted(running, peer):
    """Names that arrived, names in failed/."""
    failed = set()
    for path in (running.spool / "failed").glob("*.eml"):
        assert path.with_suffix(".reason").exists(), path
        found = re.search(rb"Subject: (\S+)", path.read_bytes())
        failed.add(found[1].decode() if found else path.stem)
    return set(peer.names()), failed


def still_queued(running):
    """Names of messages that a flipped bit made wait: held, or due another time."""
    later = (time.time() + 60) * 1000
    try:
        with sqlite3.connect(f"file:{running.spool}/queue/state.db?mode=ro", uri=True) as db:
            rows = db.execute("SELECT m.source FROM messages m JOIN copies c ON c.message = m.seq WHERE m.finished_at IS NULL AND "
                              "(c.state NOT IN (0, 3) OR c.state = 0 AND (c.due_at > ? OR c.priority NOT IN (0, 1, 2)))", [later]).fetchall()
    except sqlite3.DatabaseError:
        return set()
    return {source.removesuffix(".eml") for source, in rows}


def whole(peer):
    """Nothing arrived in part."""
    for arrival in peer.arrivals:
        if b"multipart/report" in arrival.content:
            continue
        name = re.search(rb"Subject: (\S+)", arrival.content)[1].decode()
        assert arrival.content.endswith(message(name, 3000)), name


def database_harms():
    chance = random.Random(11)
    for share in (0.0001, 0.1, 0.35, 0.6, 0.9, 0.999):
        yield f"cut-{share}", lambda octets, share=share: octets[:int(len(octets) * share)]
    for _ in range(8):
        at = chance.random()
        yield f"zeroed-{at:.3f}", lambda octets, at=at: zeroed(octets, int(at * (len(octets) // PAGE)))
    for _ in range(12):
        at, bit = chance.random(), chance.randrange(8)
        yield f"flipped-{at:.3f}", lambda octets, at=at, bit=bit: flipped(octets, int(at * len(octets)), bit)


def zeroed(octets, page):
    return octets[:page * PAGE] + bytes(PAGE) + octets[(page + 1) * PAGE:]


def flipped(octets, at, bit):
    return octets[:at] + bytes([octets[at] ^ 1 << bit]) + octets[at + 1:]


@pytest.mark.parametrize("file", ["state.db", "state.db-wal"])
def test_the_database(world, file):
    """One spool after the other, each harmed in its own way, on one daemon's files."""
    running, peer = filled(world, clean=file == "state.db")
    kept = running.home / "kept"
    subprocess.run(["cp", "-a", running.spool, kept], check=True)
    peer.start()
    try:
        for label, harm in database_harms():
            subprocess.run(f"rm -rf '{running.spool}'/* && cp -a '{kept}'/. '{running.spool}'", shell=True, check=True)
            path = running.spool / "queue" / file
            path.write_bytes(harm(path.read_bytes()))
            peer.arrivals.clear()
            starter = Starter(running)
            if starter.refuses():
                continue

            def done():
                starter.refuses()
                arrived, failed = accounted(running, peer)
                return arrived | failed | still_queued(running) >= set(NAMES) or None

            def what():
                arrived, failed = accounted(running, peer)
                rows = subprocess.run(["sqlite3", f"file:{running.spool}/queue/state.db?mode=ro", "SELECT m.source, m.finished_at, c.* FROM messages m "
                                       "LEFT JOIN copies c ON c.message = m.seq WHERE m.finished_at IS NULL"], capture_output=True, text=True)
                return f"{label}: {sorted(set(NAMES) - arrived - failed)} are missing\n{rows.stdout}{running.said()}"
            wait_for(what, done, 30)
            whole(peer)
            running.kill()
    finally:
        peer.stop()


def test_a_message_file_of_another_length_is_kept_and_its_sender_told(world):
    running, peer = filled(world, clean=True)
    files = {re.search(rb"Subject: (\S+)", path.read_bytes())[1].decode(): path for path in running.spool.glob("queue/messages/*/*.eml")}
    short, long, empty, gone = (files[name] for name in NAMES[:4])
    short.write_bytes(short.read_bytes()[:-1])
    long.write_bytes(long.read_bytes() + b"more\r\n")
    empty.write_bytes(b"")
    gone.unlink()
    (running.spool / "queue/foreign.txt").write_text("x")
    (running.spool / "queue/messages/notes").write_text("x")
    peer.start()
    try:
        running.start()
        running.wait_finished(len(NAMES))
        wait_for("the reports", lambda: len(peer.arrivals) == len(NAMES))
        reports = [arrival for arrival in peer.arrivals if b"multipart/report" in arrival.content]
        assert len(reports) == 4
        for report in reports:
            assert b"Status: 5.3.0" in report.content and b"some text of the message" not in report.content
        assert {name for name in peer.names() if name in NAMES} == set(NAMES[4:])
        whole(peer)
    finally:
        peer.stop()
    kept = sorted(path.name for path in (running.spool / "failed").iterdir())
    expected = [f"{path.stem}.{ending}" for path in (short, long, empty) for ending in ("eml", "reason")] + [f"{gone.stem}.reason"]
    assert kept == sorted(expected)
    assert "octets" in (running.spool / "failed" / f"{short.stem}.reason").read_text()
    strangers = [event["path"] for event in running.events() if "does not belong" in str(event.get("message"))]
    assert str(running.spool / "queue/foreign.txt") in strangers
    running.stop()


def test_backup_and_restore(world):
    """The README's commands, to the letter."""
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    section = readme.split("### Backup and restore")[1].split("\n### ")[0].split("\n## ")[0]
    backup, restore = re.findall(r"```sh\n(.*?)```", section, re.S)
    running, peer = world(listen=False)
    for name in NAMES[:20]:
        running.drop(name, message(name, 3000))
    wait_for("all of them are accepted", lambda: len(running.events("accepted")) == 20)
    target = running.home / "backup"
    paths = {"/var/spool/smtp-direct": str(running.spool), "/var/backups/smtp-direct": str(target), "systemctl stop smtp-direct": "true",
             "systemctl start smtp-direct": "true", "chown -R smtp-direct: ": "true "}

    def run(text):
        for path, here in paths.items():
            text = text.replace(path, here)
        subprocess.run(["sh", "-euc", text], check=True, timeout=60)

    # Beside a daemon that works: others come while it is made.
    for name in NAMES[20:30]:
        running.drop(name, message(name, 3000))
    run(backup)
    for name in NAMES[30:]:
        running.drop(name, message(name, 3000))
    with sqlite3.connect(target / "state.db") as copy:
        rows, = copy.execute("SELECT count(*) FROM messages").fetchone()
    assert rows >= 20
    running.kill()
    subprocess.run(f"rm -rf '{running.spool}'/*", shell=True, check=True)
    run(restore)
    peer.start()
    try:
        running.start()
        wait_for(running.said, lambda: set(peer.names()) >= set(NAMES[:20]))
        wait_for("an empty queue", lambda: running.count()["messages"] == 0)
        whole(peer)
        assert len(peer.arrivals) == rows and len(set(peer.names())) == rows
    finally:
        peer.stop()
    running.stop()
