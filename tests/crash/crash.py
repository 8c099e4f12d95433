"""Kills smtp-direct at random instants and at each kind of system call, cuts its power, and counts what was lost and what came twice.

    tests/crash/run [--kills N] [--power-cuts N] [--seed N]

Root on Linux, for strace, loop devices and private mounts. Only loopback is dialled.
"""

import argparse
import collections
import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
DOMAINS = [f"d{n:02}.test" for n in range(20)]
SITES = 4
# What makes something durable, visible or irrevocable: at the n-th of these, before it happens, the process is gone.
POINTS = ["rename", "fsync", "fdatasync", "pwrite64", "write", "unlink", "unlinkat", "mkdir", "openat", "sendto", "recvfrom", "ftruncate",
          "connect", "read"]


def binary():
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    path = Path(os.environ.get("SMTP_DIRECT", target / "release/smtp-direct")).resolve()
    assert path.is_file(), f"{path} is missing: cargo build --release, or set SMTP_DIRECT"
    return path


def wait_for(what, condition, seconds):
    """The condition's first true value; an error after so many seconds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{seconds} s have passed without {what() if callable(what) else what}")
        time.sleep(0.005)
    return value


def is_free(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


class Sink:
    """The oracle's process."""

    def __init__(self, books, seed):
        self.books = books
        self.process = subprocess.Popen([sys.executable, HERE / "sink.py", books, str(SITES), str(seed)], stdout=subprocess.PIPE, text=True)
        self.ports = self.process.stdout.readline().split()

    def arrivals(self):
        """(key, id, recipient) in the order of arrival."""
        return [line.split() for line in self.books.read_text().splitlines()]

    def count(self):
        return self.books.stat().st_size if self.books.exists() else 0

    def stop(self):
        self.process.kill()
        self.process.wait()


class Daemon:
    """The real binary on `spool`."""

    def __init__(self, home, spool, sink, hold=False):
        self.home, self.spool, self.sink, self.hold = home, spool, sink, hold
        self.config, self.log, self.process = home / "smtp-direct.toml", home / "log", None

    def configure(self, window):
        lines = ['hostname = "mail.crash.test"', "[spool]", f'path = "{self.spool}"', "[log]", 'format = "json"',
                 "[sending]", "workers = 10", "per_site = 5", "[smtp]", f"window = {window}",
                 "[retry]", 'schedule = ["500ms"]', f'in_doubt = "{"hold" if self.hold else "retry"}"']
        for n, domain in enumerate(DOMAINS):
            lines += ["[[dns.override]]", f'domain = "{domain}"', f'server = "127.0.0.1:{self.sink.ports[n % SITES]}"', 'tls = "none"']
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, wrap=(), wait=True):
        started = self.count_started()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *wrap, binary(), "run", "--config", self.config],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        if wait:
            wait_for(lambda: f"'started'\n{self.said()}", lambda: self.process.poll() is not None or self.count_started() > started, 20)
            assert self.process.poll() is None, self.said()

    def count_started(self):
        return self.log.read_bytes().count(b'"message":"started"') if self.log.exists() else 0

    def said(self):
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    def kill(self):
        """The whole group: strace lets go of what it traces, rather than kill it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        # What strace traced may still be on its way out.
        lock = self.spool / "queue/lock"
        if lock.exists():
            with open(lock, "rb") as file:
                wait_for("the spool's lock", lambda: is_free(file), 10)

    def stop(self):
        self.process.terminate()
        assert self.process.wait(40) == 0, self.said()

    def ask(self, *arguments):
        done = subprocess.run([binary(), *arguments, "--json", "--config", self.config], capture_output=True, text=True, timeout=60, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def is_idle(self):
        """Nothing is dropped or queued, and the files of what is finished are gone: after a power cut they may be back, until they are found."""
        folders = ("drop", "queue/messages")
        return not any(any((self.spool / folder).rglob("*.eml")) for folder in folders) and self.ask("queue", "count")[0]["messages"] == 0


class Writer:
    """Drops messages as the interface wants it, and remembers what must arrive."""

    def __init__(self, random_, durable=False):
        self.random, self.durable, self.expected, self.number = random_, durable, [], 0

    def drop(self, spool):
        self.number += 1
        key, r = f"k{self.number:06}", self.random
        recipients = [f"u{n}@{r.choice(DOMAINS)}" for n in range(r.choice([1, 1, 2, 3, 5, 10, 50]))]
        body = "text\r\n" * r.choice([1, 20, 300, 15000 if r.random() < 0.1 else 5])
        message = f"X-Crash-Key: {key}\r\nDate: Sun, 22 Nov 2026 09:00:00 +0100\r\nMessage-ID: <{key}@crash.test>\r\n\r\n{body}"
        envelope = f'from = "s@sender.test"\nto = {json.dumps(recipients)}\nnotify = ["never"]\n'
        for name, text in [(f"{key}.toml", envelope), (f"{key}.eml", message)]:
            with open(spool / "tmp" / name, "w", newline="", encoding="ascii") as file:
                file.write(text)
                if self.durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.rename(spool / "tmp" / name, spool / "drop" / name)
        if self.durable:
            folder = os.open(spool / "drop", os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        self.expected += [(key, recipient) for recipient in recipients]


def strace(point, when):
    """Kills at the `when`-th call of `point` of a thread, before it happens."""
    return ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={point}", "-e", f"inject={point}:signal=SIGKILL:when={when}")


def progress(what, done, of):
    if sys.stderr.isatty():
        print(f"\r{what}: {done} of {of}", end="" if done < of else "\n", file=sys.stderr, flush=True)
    elif done % max(1, of // 10) == 0:
        print(f"{what}: {done} of {of}", file=sys.stderr, flush=True)


def kills(home, count, seed):
    """SIGKILL, `count` times: half of them at a random instant, half at a system call."""
    r = random.Random(seed)
    spool = home / "spool"
    for folder in ("tmp", "drop"):
        (spool / folder).mkdir(parents=True)
    sink, writer = Sink(home / "books", seed), Writer(r)
    daemon = Daemon(home, spool, sink)
    reached = collections.Counter()
    try:
        for n in range(count):
            daemon.configure(r.choice([1, 1, 4]))
            point = r.choice(POINTS) if n % 2 else None
            # While the database is opened and repairs are made, or later, under load.
            at_start = point and r.random() < 0.25
            for _ in range(r.randrange(12)):
                writer.drop(spool)
            daemon.start(strace(point, r.randrange(1, 4)) if at_start else (), wait=not at_start and r.random() < 0.8)
            began, pause = time.monotonic(), r.uniform(0.001, 0.02)
            end = began + r.uniform(0, 0.25)
            tracer = None
            while daemon.process.poll() is None and time.monotonic() < end + (1.5 if point else 0):
                if writer.number < (n + 1) * 40:
                    writer.drop(spool)
                if point and not at_start and tracer is None and time.monotonic() > end:
                    tracer = subprocess.Popen([*strace(point, 1), "-p", str(daemon.process.pid)], stderr=subprocess.DEVNULL)
                time.sleep(pause)
            reached[point or "instant"] += point is None or daemon.process.poll() is not None
            if tracer:
                tracer.kill()
                tracer.wait()
            daemon.kill()
            progress("kills", n + 1, count)
        report = finish(daemon, sink, writer)
        report["killed"] = dict(reached)
        return report
    finally:
        daemon.kill() if daemon.process else None
        sink.stop()


def finish(daemon, sink, writer):
    """Lets the daemon do what is left, and compares."""
    daemon.configure(1)
    daemon.start()
    wait_for(lambda: f"an empty queue\n{daemon.said()}", daemon.is_idle, 120)
    daemon.stop()
    arrivals = sink.arrivals()
    count = collections.Counter((key, recipient) for key, _, recipient in arrivals)
    expected = collections.Counter(writer.expected)
    ids = collections.defaultdict(set)
    for key, id_, _ in arrivals:
        ids[key].add(id_)
    key_of = {id_: key for key, known in ids.items() for id_ in known}
    history = daemon.ask("history")
    in_doubt = {(key_of.get(row["id"]), row["to"]) for row in history if row["in_doubt"]}
    logged = set()
    for line in daemon.log.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):  # a line that the kill cut off
            fields = json.loads(line)
            if fields.get("message") == "in_doubt":
                logged.add((key_of.get(fields["id"]), fields["to"]))
    repeated = {pair for pair, times in count.items() if times > expected[pair]}
    return {
        "messages": writer.number, "recipients": len(writer.expected), "arrived": len(arrivals),
        "lost": sorted(pair for pair in expected if count[pair] < expected[pair]),
        "unexpected": sorted(pair for pair in count if pair not in expected),
        "accepted twice": sorted(key for key, known in ids.items() if len(known) > 1),
        "repeated": len(repeated), "in doubt": len(in_doubt),
        "repeated and not in doubt": sorted(repeated - in_doubt),
        "in doubt and not logged": sorted(pair for pair in in_doubt - logged if pair[0]),
        "not delivered by the history": sorted((row["id"], row["to"]) for row in history if row["outcome"] != "delivered"),
        "left over": [str(path) for folder in ("drop", "rejected", "failed", "queue/messages") for path in (daemon.spool / folder).rglob("*.eml")],
    }


BAD = ["lost", "unexpected", "accepted twice", "repeated and not in doubt", "in doubt and not logged", "not delivered by the history", "left over"]


class Disk:
    """A file system in an image, from which a power cut takes what was not synced: the image holds what the file system has written out."""

    def __init__(self, home):
        self.home, self.number, self.mount = home, 0, home / "disk"
        self.mount.mkdir()
        subprocess.run(["truncate", "-s", "192M", self.image()], check=True)
        # Nothing is written out by itself within a round: the system's own timers are longer than that.
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image()], check=True)
        self.attach()

    def image(self):
        return self.home / f"image-{self.number}"

    def attach(self):
        subprocess.run(["mount", "-o", "loop,commit=600,nodiscard", self.image(), self.mount], check=True)
        # It is another start of the system.
        boot = self.home / "boot_id"
        boot.write_text(f"00000000-0000-4000-8000-{self.number:012}\n")
        subprocess.run(["mount", "--bind", boot, "/proc/sys/kernel/random/boot_id"], check=True)

    def cut(self, process):
        """The power goes while everything stands still."""
        os.killpg(process.pid, signal.SIGSTOP)
        old = self.image()
        self.number += 1
        subprocess.run(["cp", "--sparse=always", old, self.image()], check=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.detach()
        old.unlink()
        self.attach()

    def detach(self):
        subprocess.run(["umount", "/proc/sys/kernel/random/boot_id"], check=False)
        subprocess.run(["umount", self.mount], check=True)


def power_cuts(home, count, seed):
    """The power goes `count` times: nothing stays but what was synced."""
    r = random.Random(seed)
    disk = Disk(home)
    spool = disk.mount / "spool"
    for folder in ("tmp", "drop"):
        (spool / folder).mkdir(parents=True)
    os.sync()
    sink, writer = Sink(home / "books", seed), Writer(r, durable=True)
    daemon = Daemon(home, spool, sink)
    try:
        for n in range(count):
            daemon.configure(r.choice([1, 1, 4]))
            daemon.start(wait=r.random() < 0.9)
            end = time.monotonic() + r.uniform(0, 0.4)
            while time.monotonic() < end:
                writer.drop(spool)
            assert daemon.process.poll() is None, daemon.said()
            disk.cut(daemon.process)
            progress("power cuts", n + 1, count)
        return finish(daemon, sink, writer)
    finally:
        if daemon.process:
            daemon.kill()
        sink.stop()
        disk.detach()


def show(title, report):
    print(f"\n{title}")
    for name, value in report.items():
        shown = value if not isinstance(value, list) else len(value)
        print(f"  {name:32} {shown}")
        if name in BAD and value:
            print(f"    {value[:10]}")
    return not any(report[name] for name in BAD)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--power-cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="smtp-direct-crash-"))
    print(f"seed {options.seed}, {home}", flush=True)
    good = True
    try:
        for title, work, count in [("kill -9", kills, options.kills), ("power cut", power_cuts, options.power_cuts)]:
            if count:
                (home / work.__name__).mkdir()
                began = time.monotonic()
                report = work(home / work.__name__, count, options.seed)
                good &= show(f"{title}, {count} times, in {time.monotonic() - began:.0f} s", report)
    finally:
        if not options.keep:
            shutil.rmtree(home, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
