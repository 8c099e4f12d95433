"""Disk, descriptors and database that fail for a while: one line says so, nothing is lost, nothing is sent twice, and it goes on by itself.

Faults are real where they can be (a file system that is full, a lock, a limit), and else answers of the kernel that strace puts in place of
the real ones for as long as it is attached.
"""

import asyncio
import os
import re
import resource
import signal
import sqlite3
import subprocess
import threading
from types import SimpleNamespace

import pytest

import daemon as daemons
from ns import free_port, wait_for
from peers import Aiosmtpd

NOT_WRITTEN = "the queue cannot be written until this is put right: what is under way is kept, and all of it is tried again"
WRITTEN_AGAIN = "the queue can be written again"
LEFT = "files are left in drop/ and tried again"
TAKEN_AGAIN = "files are taken again"
TOO_LITTLE = "no files are taken: too little space is free; make room, or lower spool.min_free. What is queued is sent"
SPACE = "files are taken again: there is space"


class Peer(Aiosmtpd):
    """Answers the end of a message when its gate is open; counts what it took by the message's name."""

    def __init__(self, home, port):
        super().__init__(home, "127.0.0.1", port, (None, None))
        self.gate, self.waiting = threading.Event(), threading.Event()
        self.gate.set()

    async def handle_DATA(self, server, session, envelope):
        self.waiting.set()
        # Asked for again and again: the gate is another thread's.
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        return await super().handle_DATA(server, session, envelope)

    def names(self):
        return sorted(re.search(rb"Subject: (\S+)", arrival.content)[1].decode() for arrival in self.arrivals)


class Fault:
    """The kernel answers `calls` of the daemon with `error`, all of them or those on `path`, until the end of the block."""

    def __init__(self, running, calls, error, path=None):
        only = [] if path is None else ["-P", str(path)]
        self.pid = running.process.pid
        self.command = ["setpriv", "--pdeathsig", "KILL", "strace", "-f", "-qq", "-o", "/dev/null", "-p", str(self.pid), *only,
                        "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"]

    def __enter__(self):
        self.strace = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        wait_for("strace to be attached", self.attached, 10)
        return self

    def attached(self):
        assert self.strace.poll() is None, "strace ended"
        states = [open(f"/proc/{self.pid}/task/{task}/status").read() for task in os.listdir(f"/proc/{self.pid}/task")]
        return all("TracerPid:\t0\n" not in state for state in states)

    def __exit__(self, *_):
        self.strace.send_signal(signal.SIGINT)
        self.strace.wait(10)


@pytest.fixture
def world(tmp_path):
    """A daemon whose every message goes to one peer, on a file system of its own if `size` is given."""
    started, mounted = [], []

    def start(size=None, settings=None, files=None, listen=True, **options):
        port = free_port(["127.0.0.1"])
        settings = {"retry": {"schedule": ["500ms"]}, "sending": {"site_down_min": "500ms", "site_down_max": "500ms"}, **(settings or {})}
        settings["spool"] = {"rescan": "500ms", "settle": "0s", **settings.get("spool", {})}
        override = {"domain": "*", "server": f"127.0.0.1:{port}", "tls": "none"}
        running = daemons.Daemon(tmp_path / "daemon", SimpleNamespace(dns="127.0.0.1:9", port=port), None, [override])
        # Over the ones that it makes: the path stays.
        settings["spool"]["path"] = str(running.spool)
        running.configure(settings, [override])
        if size is not None:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", running.spool], check=True)
            mounted.append(running.spool)
        peer = Peer(tmp_path / "peer", port)
        started.extend([running.kill, peer.gate.set])
        if listen:
            peer.start()
            started.append(peer.stop)
        running.start(**options)
        return running, peer

    yield start
    for end in reversed(started):
        end()
    for path in mounted:
        subprocess.run(["umount", path], check=True)


def message(name, size=200):
    lines = b"some text of the message, again and again\r\n" * (size // 42 + 1)
    return f"From: s@sender.test\r\nTo: u@a.test\r\nSubject: {name}\r\n\r\n".encode() + lines


def build(running, names, size=200):
    """Messages in tmp/, whose space is taken already."""
    for name in names:
        (running.spool / "tmp" / f"{name}.eml").write_bytes(message(name, size))


def release(running, names):
    for name in names:
        (running.spool / "tmp" / f"{name}.eml").rename(running.spool / "drop" / f"{name}.eml")


def fill(running, leave=0):
    """Takes what is free, but for so many octets."""
    free = os.statvfs(running.spool)
    octets = free.f_bavail * free.f_frsize - leave
    with open(running.spool / "filler", "ab", buffering=0) as file:
        while octets > 0:
            try:
                octets -= file.write(bytes(min(octets, 1 << 20)))
            except OSError:
                return


def lines(running, text):
    return [event for event in running.events() if event.get("message") == text]


def all_arrived_once(running, peer, names):
    running.wait_finished(len(names), 40)
    assert peer.names() == sorted(names)
    assert running.events("in_doubt") == []


def keep_one_in_flight(running, peer):
    """Its content is sent, and the peer says nothing yet."""
    peer.gate.clear()
    running.drop("flying", message("flying"))
    assert peer.waiting.wait(30)


def test_little_space_stops_intake_and_nothing_else(world):
    running, peer = world(size="32m", settings={"spool": {"min_free": "8 MB"}}, listen=False)
    running.drop("early", message("early"))
    running.wait_event("deferred")
    fill(running, leave=7_000_000)
    running.drop("late", message("late"))
    line = running.wait_event(TOO_LITTLE)
    assert line["path"] == str(running.spool) and line["min_free"] == "8 MB" and "free" in line
    peer.start()
    try:
        running.wait_event("finished")
        assert peer.names() == ["early"]
        assert (running.spool / "drop/late.eml").exists()
        (running.spool / "filler").unlink()
        running.wait_event(SPACE)
        all_arrived_once(running, peer, ["early", "late"])
    finally:
        peer.stop()
    assert len(lines(running, TOO_LITTLE)) == len(lines(running, SPACE)) == 1
    assert [event for event in running.events() if event["level"] == "ERROR"] == lines(running, TOO_LITTLE)


def test_a_full_disk(world):
    """With what was sent on its way to be recorded, and with files that wait."""
    running, peer = world(size="24m", settings={"spool": {"min_free": "0"}})
    names = [f"m{number}" for number in range(40)]
    build(running, names, 20_000)
    keep_one_in_flight(running, peer)
    fill(running)
    release(running, names)
    line = running.wait_event(NOT_WRITTEN)
    assert "full" in line["reason"] and line["path"].endswith("/queue/state.db")
    peer.gate.set()
    wait_for("the peer has it", lambda: peer.names() == ["flying"])
    # The scheduler, the session and intake had their turns: several tries, one line.
    wait_for("further tries", lambda: len(os.listdir(running.spool / "drop")) == len(names))
    assert running.events("delivered") == []
    (running.spool / "filler").unlink()
    running.wait_event(WRITTEN_AGAIN)
    all_arrived_once(running, peer, ["flying", *names])
    assert len(lines(running, WRITTEN_AGAIN)) == 1
    assert [event["reason"] for event in running.events() if event["level"] == "ERROR"] == [line["reason"]], running.said()
    running.stop()


@pytest.mark.parametrize("calls,error", [("pwrite64", "ENOSPC"), ("pwrite64", "EDQUOT"), ("pwrite64", "EROFS"), ("pwrite64", "EIO"),
                                         ("fdatasync,fsync", "EIO")])
def test_the_database_cannot_be_written(world, calls, error):
    running, peer = world()
    keep_one_in_flight(running, peer)
    with Fault(running, calls, error, running.spool / "queue/state.db-wal"):
        names = [f"m{number}" for number in range(20)]
        for name in names:
            running.drop(name, message(name))
        running.wait_event(NOT_WRITTEN)
        peer.gate.set()
        wait_for("the peer has it", lambda: peer.names() == ["flying"])
        assert running.events("delivered") == []
    running.wait_event(WRITTEN_AGAIN)
    all_arrived_once(running, peer, ["flying", *names])
    assert len(lines(running, NOT_WRITTEN)) == len(lines(running, WRITTEN_AGAIN)) == 1, running.said()
    running.stop()


def test_the_database_is_locked(world):
    running, peer = world()
    keep_one_in_flight(running, peer)
    other = sqlite3.connect(running.spool / "queue/state.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    running.drop("waits", message("waits"))
    peer.gate.set()
    line = running.wait_event(NOT_WRITTEN)
    assert "locked" in line["reason"] and "another program" in line["reason"]
    assert peer.names() == ["flying"] and running.events("delivered") == []
    other.execute("ROLLBACK")
    other.close()
    running.wait_event(WRITTEN_AGAIN)
    all_arrived_once(running, peer, ["flying", "waits"])
    assert len(lines(running, NOT_WRITTEN)) == len(lines(running, WRITTEN_AGAIN)) == 1
    running.stop()


@pytest.mark.parametrize("calls,error", [("rename,renameat,renameat2", "EROFS"), ("rename,renameat,renameat2", "ENOSPC"), ("fdatasync,fsync", "EIO"),
                                         ("fdatasync,fsync", "EDQUOT")])
def test_intake_cannot_work(world, calls, error):
    """A file that cannot be made durable is not accepted; one that is accepted and cannot be moved waits for its place."""
    running, peer = world()
    running.drop("first", message("first"))
    running.wait_finished(1)
    path = [] if "rename" in calls else [running.spool / "drop/second.eml"]
    build(running, ["second"])
    release_by = os.rename
    with Fault(running, calls, error, *path):
        release_by(running.spool / "tmp/second.eml", running.spool / "drop/second.eml")
        line = running.wait_event(LEFT)
        assert line["advice"] and line["path"] == str(running.spool)
        assert len(peer.names()) == 1 and (running.spool / "drop/second.eml").exists()
    running.wait_event(TAKEN_AGAIN)
    all_arrived_once(running, peer, ["first", "second"])
    assert len(lines(running, LEFT)) == len(lines(running, TAKEN_AGAIN)) == 1, running.said()
    running.stop()


def limit_descriptors(running, limit):
    _, hard = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (limit, hard))


def test_no_descriptors(world):
    """Neither files nor sessions can be opened: the site is not to blame, and intake waits."""
    running, peer = world(listen=False)
    running.drop("queued", message("queued"))
    running.wait_event("deferred")
    limit_descriptors(running, 5)
    running.drop("dropped", message("dropped"))
    assert "LimitNOFILE" in running.wait_event(LEFT)["advice"]
    down = len(lines(running, "site is down"))
    wait_for("a try without a socket", lambda: any("cannot open a connection here" in str(e.get("reply", e)) for e in running.events("deferred")))
    assert all(not e.get("reply", "").startswith("site is down") for e in running.events("deferred")[-1:])
    peer.start()
    try:
        limit_descriptors(running, 1024)
        running.wait_event(TAKEN_AGAIN)
        all_arrived_once(running, peer, ["queued", "dropped"])
    finally:
        peer.stop()
    assert len(lines(running, "site is down")) == down
    assert len(lines(running, "no session can be opened: mail is deferred; its sites are not to blame")) == 1
    running.stop()


@pytest.mark.parametrize("error", ["EIO", "EMFILE"])
def test_a_message_file_that_cannot_be_opened_now(world, error):
    """Put off, not failed, and not sent in part."""
    running, peer = world(listen=False)
    running.drop("unreadable", message("unreadable"))
    running.wait_event("deferred")
    file, = running.spool.glob("queue/messages/*/*.eml")
    peer.start()
    try:
        with Fault(running, "openat", error, file):
            wait_for(running.said, lambda: any("cannot read the message file" in str(e) for e in running.events("deferred")))
        all_arrived_once(running, peer, ["unreadable"])
    finally:
        peer.stop()
    assert running.events("failed") == []
    running.stop()


def test_a_finished_file_that_cannot_be_removed(world):
    running, peer = world()
    with Fault(running, "unlink,unlinkat", "EIO"):
        running.drop("stays", message("stays"))
        running.wait_event("the file of a finished message cannot be removed")
    running.wait_event("finished")
    running.stop()
    assert len(list(running.spool.glob("queue/messages/*/*.eml"))) == 1
    running.start()
    wait_for("it is removed", lambda: not list(running.spool.glob("queue/messages/*/*.eml")))
    running.drop("next", message("next"))
    all_arrived_once(running, peer, ["stays", "next"])
    running.stop()


def test_the_log_cannot_be_written(world):
    """Standard error leads to a full disk: mail goes on."""
    running, peer = world(wrap=["sh", "-c", 'exec "$@" 2>/dev/full', "sh"])
    names = [f"m{number}" for number in range(20)]
    for name in names:
        running.drop(name, message(name))
    wait_for("all of them", lambda: peer.names() == sorted(names))
    wait_for("an empty queue", lambda: running.count()["messages"] == 0)
    running.stop()
