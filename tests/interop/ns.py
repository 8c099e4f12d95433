"""Takes a command, hands on a process that sees a private machine: packages unpacked over /usr, its own /etc, /var and /run.

Every box dies with this process, so a run leaves nothing behind: the first process of its pid namespace is a shell that is told of its parent's death
(a server would not do: that order is forgotten when a process changes its user) and takes all others with it.
"""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

CACHE = Path(os.environ["INTEROP_CACHE"]) if "INTEROP_CACHE" in os.environ else None

# Users that the packages' install scripts would make. The numbers are free on Debian (over 60000 and below nobody's).
USERS = {
    "postfix": 61001,
    "postdrop": 61002,
    "Debian-exim": 61003,
    "opensmtpd": 61004,
    "opensmtpq": 61005,
    "recorder": 61006,
    "knot": 61007,
    "unbound": 61008,
    "smtp-direct": 61009,
}

_MOUNTS = """
set -e
[ -z "$ROOT" ] || mount -t overlay -o "lowerdir=$ROOT/usr:/usr" overlay /usr
mount -t overlay -o "lowerdir=$ETC:/etc" overlay /etc
mount --bind "$VAR" /var
mount -t tmpfs -o mode=755 tmpfs /run
unset ROOT ETC VAR
"$@" &
wait $!
"""


class Box:
    """A private machine below `home`: `etc/` is laid over /etc, `var/` is /var, the package `root` is laid over /usr."""

    def __init__(self, home, root=None):
        self.home = Path(home)
        self.etc = self.home / "etc"
        self.var = self.home / "var"
        self.root = None if root is None else cache() / "root" / root
        self.process = None
        for directory in (self.etc, self.var, self.var / "log", self.var / "lib", self.var / "spool", self.var / "mail"):
            directory.mkdir(parents=True, exist_ok=True)
        (self.var / "tmp").mkdir(exist_ok=True)
        (self.var / "run").symlink_to("/run")
        (self.var / "tmp").chmod(0o1777)
        passwd, group = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
        for name, number in USERS.items():
            passwd = _without(passwd, name) + f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n"
            group = _without(group, name) + f"{name}:x:{number}:\n"
        (self.etc / "passwd").write_text(passwd)
        (self.etc / "group").write_text(group)

    def own(self, path, user, mode=0o755):
        """Makes a directory in the box's /var, owned by one of `USERS`."""
        path = self.var / path
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, USERS[user], USERS[user])
        path.chmod(mode)
        return path

    def start(self, *argv):
        """Runs `argv` in the box; its output goes to `home`/output."""
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", "ROOT": str(self.root or ""), "ETC": str(self.etc), "VAR": str(self.var)}
        env["LD_LIBRARY_PATH"] = "/usr/lib/postfix"
        with open(self.home / "output", "ab") as output:
            self.process = subprocess.Popen(
                [*private("--mount", "--pid", "--fork", "--kill-child", "--mount-proc"), "sh", "-c", _MOUNTS, "sh", *map(str, argv)],
                env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        return self.process

    def stop(self):
        """Ends the whole box, and returns when nothing of it is left."""
        if self.process is not None and self.process.poll() is None:
            pid = self.process.pid
            first = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
            # The first process of the namespace follows, and is gone when all others are.
            wait_for("the end of a box", lambda: not any(_runs(child) for child in first), 10)

    def output(self):
        """What the box has said so far, cut."""
        return (self.home / "output").read_text(errors="replace")[-4000:]


def private(*options):
    """The start of a command line: die with the parent, in new namespaces."""
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *options]


def cache():
    """Where setup.sh put things."""
    assert CACHE is not None, "run through tests/interop/run, or set INTEROP_CACHE to what setup.sh printed"
    return CACHE


def _without(table, name):
    return "".join(line + "\n" for line in table.splitlines() if line.split(":")[0] != name)


def _runs(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def free_port(addresses, kinds=(socket.SOCK_STREAM,)):
    """A port that is free on all of these addresses. They stay free: nothing else on the machine is given ports of 127.x.y.z by chance."""
    for _ in range(100):
        held = []
        try:
            port = 0
            for address in addresses:
                for kind in kinds:
                    held.append(socket.socket(socket.AF_INET, kind))
                    held[-1].bind((address, port))
                    port = held[-1].getsockname()[1]
            return port
        except OSError:
            continue
        finally:
            for each in held:
                each.close()
    raise RuntimeError(f"no port is free on all of {addresses}")


def wait_for(what, condition, seconds=30.0, step=0.02):
    """Waits until `condition()` is true and returns its value; fails by name when it is not in time."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(step)


def greets(address, port):
    """Whether a mail server answers there."""
    try:
        with socket.create_connection((address, port), 1) as peer:
            peer.settimeout(5)
            greeting = peer.recv(512)
            peer.sendall(b"QUIT\r\n")
            while peer.recv(512):
                pass
            return greeting.startswith(b"220")
    except OSError:
        return False
