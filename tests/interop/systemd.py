"""Takes unit files, hands on a real systemd that runs them: first process of its own namespaces, with a control group of its own."""

import json
import os
import secrets
import shutil
import subprocess
from pathlib import Path

from ns import Box, private, wait_for

# What smtp-direct.service and the journal want to exist. The machine's own units stay out.
TARGETS = ["basic", "sysinit", "multi-user", "network-online", "nss-lookup", "shutdown", "umount", "exit", "sockets", "initrd-switch-root"]
JOURNAL = ["systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket"]

_OUTER = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/cgroup
mount -t cgroup2 cgroup2 /mnt/cgroup
mkdir "/mnt/cgroup/$GROUP"
echo $$ > "/mnt/cgroup/$GROUP/cgroup.procs"
exec unshare --mount --cgroup --pid --uts --ipc --fork --kill-child --mount-proc sh -c "$INNER"
"""

_INNER = """
set -e
umount -l /mnt
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "$DEV" "$CHANGES"
mount -t tmpfs -o mode=755 tmpfs "$CHANGES"
mkdir "$CHANGES/upper" "$CHANGES/work"
mount -t overlay -o "lowerdir=$ETC:/etc,upperdir=$CHANGES/upper,workdir=$CHANGES/work" overlay /etc
mount --bind "$LOCAL" /usr/local
mount --bind "$VAR" /var
mount -t tmpfs -o mode=755 tmpfs "$DEV"
while read -r name major minor; do
    mknod -m 666 "$DEV/$name" c "$major" "$minor"
done <<NODES
kernel 1 11
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
NODES
mkdir "$DEV/shm" "$DEV/pts" "$DEV/mqueue"
mount -t tmpfs -o mode=1777 tmpfs "$DEV/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$DEV/pts"
ln -s pts/ptmx "$DEV/ptmx"
ln -s /proc/self/fd "$DEV/fd"
mount --move "$DEV" /dev
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
exec env -i container=interop SYSTEMD_UNIT_PATH=/etc/systemd/interop PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=multi-user.target --log-level=info --log-target=journal --show-status=no
"""


class Systemd:
    """`files`: {path: content or file} put over /etc and /usr/local; `spool` is /var/spool inside."""

    def __init__(self, home, files):
        self.box = Box(home)
        self.home = self.box.home
        self.local = self.home / "local"
        self.group = f"smtp-direct-interop-{secrets.token_hex(8)}"
        units = self.box.etc / "systemd/interop"
        units.mkdir(parents=True)
        self.local.mkdir()
        for name in TARGETS:
            (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\nDefaultDependencies=no\n")
        for name in JOURNAL:
            shutil.copy(Path("/lib/systemd/system", name), units)
        (units / "multi-user.target").write_text("[Unit]\nDescription=all\nDefaultDependencies=no\nWants=systemd-journald.service\n")
        (self.box.etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (self.box.etc / "hostname").write_text("interop\n")
        for path, content in files.items():
            place = (self.local if path.startswith("/usr/local/") else self.box.etc) / path.removeprefix("/usr/local/").removeprefix("/etc/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copy(content, place)
            else:
                place.write_text(content)

    def start(self):
        env = {"PATH": os.environ["PATH"], "GROUP": self.group, "INNER": _INNER, "ETC": str(self.box.etc), "VAR": str(self.box.var),
               "LOCAL": str(self.local), "DEV": str(self.home / "dev"), "CHANGES": str(self.home / "changes")}
        with open(self.home / "output", "wb") as output:
            self.box.process = subprocess.Popen([*private("--mount"), "sh", "-c", _OUTER], env=env, stdin=subprocess.DEVNULL,
                                                stdout=output, stderr=output, cwd="/")

        def up():
            assert self.box.process.poll() is None, self.box.output()
            return self.first() and self.run("systemctl", "show", "--property=Version", check=False).returncode == 0
        wait_for(lambda: f"systemd is up\n{self.box.output()}", up, 30, 0.1)
        return self

    def first(self):
        """The pid of systemd, seen from here."""
        pid = self.box.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return children[0] if children else None

    def run(self, *argv, check=True):
        """Runs a command inside, as root."""
        done = subprocess.run(["nsenter", "--target", self.first(), "--mount", "--pid", "--uts", "--ipc", "--cgroup", *argv],
                              capture_output=True, text=True, timeout=60, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}\n{self._everything()[-3000:]}\n{self.box.output()}"
        return done

    def property(self, unit, name):
        """One property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def journal(self, unit="smtp-direct"):
        """What a unit wrote to the journal."""
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit, check=False).stdout

    def _everything(self):
        return self.run("journalctl", "--no-pager", "-o", "short-monotonic", check=False).stdout

    def events(self, verb):
        """Its events of one verb."""
        found = []
        for line in self.journal().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            fields = event.get("fields", event)
            if fields.get("message") == verb:
                found.append(fields)
        return found

    def stop(self):
        self.box.stop()
        # The control group outlives its processes, and is busy until the kernel has done with the last of them.
        clear = f"mount -t cgroup2 cgroup2 /mnt && find /mnt/{self.group} -depth -type d -exec rmdir {{}} + ; test ! -e /mnt/{self.group}"
        wait_for(f"the end of control group {self.group}",
                 lambda: subprocess.run(["unshare", "--mount", "sh", "-c", clear], capture_output=True, timeout=30).returncode == 0, 10, 0.1)
