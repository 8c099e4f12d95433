"""Takes settings and files to drop, hands on what smtp-direct said and did: the real binary, run as systemd runs it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

from ns import wait_for
from oracle import HOSTNAME

REPOSITORY = Path(__file__).resolve().parents[2]


def binary():
    """The release build: $SMTP_DIRECT, or where cargo puts it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    path = Path(os.environ.get("SMTP_DIRECT", target / "release/smtp-direct"))
    assert path.is_file(), f"{path} is missing: cargo build --release, or set SMTP_DIRECT"
    return path.resolve()


class Notifications:
    """The other end of NOTIFY_SOCKET: every message that the daemon sends to systemd, in order."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="notify")
        self.path = f"{self.directory}/socket"
        self.messages = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        os.chmod(self.path, 0o666)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while True:
            try:
                message = self.socket.recv(4096)
            except OSError:
                return
            if not message:
                return
            self.messages.append(dict(line.split("=", 1) for line in message.decode().splitlines() if "=" in line))

    def having(self, key, value=None, after=0):
        """Messages with this key, from the `after`th message on."""
        return [m for m in self.messages[after:] if key in m and value in (None, m[key])]

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class Daemon:
    """smtp-direct on a spool of its own. `settings`: {"section": {"key": value}} over what a test needs; `overrides`: a list of such tables."""

    def __init__(self, home, net, settings=None, overrides=()):
        self.home, self.net = Path(home), net
        self.spool, self.config, self.log = self.home / "spool", self.home / "smtp-direct.toml", self.home / "log"
        self.spool.mkdir(parents=True)
        self.process, self.notifications, self._read_to, self._events = None, None, 0, []
        self.configure(settings, overrides)

    def configure(self, settings=None, overrides=()):
        """Writes the configuration file."""
        sections = {
            "spool": {"path": str(self.spool)},
            # Every peer is on loopback, which is nobody's mail server outside of tests.
            "dns": {"servers": [self.net.dns], "blocked_targets": []},
            "smtp": {"port": self.net.port},
            "log": {"format": "json"},
        }
        for section, keys in (settings or {}).items():
            sections.setdefault(section, {}).update(keys)
        lines = [f'hostname = "{HOSTNAME}"']
        for section, keys in sections.items():
            lines += [f"[{section}]", *_keys(keys)]
        for override in overrides:
            lines += ["[[dns.override]]", *_keys(override)]
        self.config.write_text("\n".join(lines) + "\n")

    def start(self, watchdog=None, wrap=()):
        """Starts it and returns when it has told systemd that it is ready. `watchdog`: seconds; `wrap`: a command that runs it."""
        self.notifications = Notifications()
        env = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": self.notifications.path}
        if watchdog:
            env["WATCHDOG_USEC"] = str(int(watchdog * 1_000_000))
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *wrap, str(binary()), "run", "--config", str(self.config)],
                env=env, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def ready():
            assert self.process.poll() is None, f"it ended at once:\n{self.said()}"
            return self.notifications.having("READY", "1")
        wait_for(lambda: f"READY=1\n{self.said()}", ready, 20)
        return self

    def stop(self, within=40):
        """SIGTERM; it has to drain and end with 0. Returns its notifications."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"not ended {within} s after SIGTERM:\n{self.said()}") from None
        assert code == 0, f"exit code {code}:\n{self.said()}"
        assert self.notifications.having("STOPPING", "1"), self.notifications.messages
        return self._closed()

    def kill(self):
        """SIGKILL."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        return self._closed()

    def _closed(self):
        if self.notifications is None:
            return []
        messages, self.notifications = self.notifications.messages, self.notifications.close()
        return messages

    def drop(self, name, content, sidecar=None):
        """As the interface wants it: built in tmp/, renamed into drop/, the sidecar first. `sidecar`: (suffix, octets)."""
        for directory in ("tmp", "drop"):
            (self.spool / directory).mkdir(exist_ok=True)
        files = [(name + sidecar[0], sidecar[1])] if sidecar else []
        for file, octets in [*files, (name + ".eml", content)]:
            (self.spool / "tmp" / file).write_bytes(octets)
            (self.spool / "tmp" / file).rename(self.spool / "drop" / file)

    def drop_samples(self, samples):
        for sample in samples:
            self.drop(sample.key, sample.file, sample.sidecar)

    def events(self, verb=None):
        """Events of the log so far, as their fields; those of one verb."""
        if self.log.exists():
            with open(self.log, "rb") as log:
                log.seek(self._read_to)
                chunk = log.read()
            whole = chunk[:chunk.rfind(b"\n") + 1]
            self._read_to += len(whole)
            for line in whole.splitlines():
                try:
                    event = json.loads(line)
                except ValueError:
                    # Not the daemon's log: what the loader or a panic says.
                    event = {"fields": {"message": line.decode(errors="replace")}, "level": "?"}
                self._events.append({**event.get("fields", event), "level": event.get("level")})
        return [event for event in self._events if verb in (None, event.get("message"))]

    def said(self):
        """The end of the log, for messages."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else "(nothing)"

    def wait_finished(self, count, seconds=120):
        """Waits until this many messages are finished, and the queue says that nothing is left."""
        def done():
            assert self.process.poll() is None, f"it ended:\n{self.said()}"
            rejected = self.events("rejected")
            assert not rejected, rejected
            return len(self.events("finished")) >= count
        wait_for(lambda: f"{count} finished; {len(self.events('finished'))} are; {self.count()}\n{self.said()}", done, seconds, 0.1)
        counts = wait_for("an empty queue", lambda: (c := self.count())["messages"] == 0 and c, 10)
        assert counts["recipients"] == 0, counts

    def wait_event(self, verb, seconds=30, **fields):
        """Waits for an event with these fields."""
        def there():
            return next((e for e in self.events(verb) if all(e.get(k) == v for k, v in fields.items())), None)
        return wait_for(lambda: f"{verb} {fields}\n{self.said()}", there, seconds)

    def command(self, *arguments, code=0):
        """Runs a subcommand on this configuration, hands on what it printed."""
        done = subprocess.run([binary(), *arguments, "--config", self.config], capture_output=True, text=True, timeout=30)
        assert done.returncode == code, f"{arguments}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def count(self):
        """`queue count --json`."""
        return json.loads(self.command("queue", "count", "--json"))

    def peak_memory(self):
        """VmHWM in octets: the most that was ever resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def _keys(table):
    # A JSON string, number, boolean or list of strings is TOML too.
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]
