"""config/debian: the Debian package, installed, used, upgraded, removed and purged by dpkg on a private copy of this machine."""

import gzip
import os
import re
import shutil
import subprocess

import pytest

import peers
from daemon import REPOSITORY, binary
from ns import cache, private, wait_for
from oracle import HOSTNAME

# All that is written goes to a tmpfs over the machine's own root; the test's directory is /srv.
_MOUNTS = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cd /mnt/root
mount --rbind /dev dev
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount --bind "$HOME" srv
echo up
exec sleep 1000
"""

SPOOL = "/var/spool/smtp-direct"
CONFIG = "/etc/smtp-direct/smtp-direct.toml"


class Machine:
    """A copy of this machine; dies with this process."""

    def __init__(self, home):
        self.home = home
        self.process = subprocess.Popen([*private("--mount", "--pid", "--fork", "--kill-child"), "sh", "-c", _MOUNTS], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, env={"PATH": os.environ["PATH"], "HOME": str(home)}, cwd="/")
        assert self.process.stdout.readline() == b"up\n"
        pid = self.process.pid
        self.first = open(f"/proc/{pid}/task/{pid}/children").read().split()[0]

    def start(self, *argv, **options):
        """Starts a command inside, as root."""
        return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "nsenter", "--target", self.first, "--mount", "--pid", "chroot", "/mnt/root", *map(str, argv)],
                                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}, text=True, **options)

    def run(self, *argv, code=0, stdin=""):
        """Runs a command inside, hands on what it said."""
        process = self.start(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said, _ = process.communicate(stdin, timeout=120)
        assert process.returncode == code, f"{argv}: exit code {process.returncode}\n{said}"
        return said

    def is_there(self, path):
        return self.run("sh", "-c", f"test -e {path} || test -L {path} && echo yes || true") == "yes\n"

    def modes(self, *paths):
        """Mode, user, group of each."""
        return self.run("stat", "--format=%a %U %G", *paths).splitlines()

    def stop(self):
        self.process.kill()
        self.process.wait(10)


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """The package, of the binary that is tested."""
    home = tmp_path_factory.mktemp("package")
    env = {**os.environ, "SMTP_DIRECT": str(binary()), "PATH": f"{cache()}/cargo/bin:{os.environ['PATH']}", "CARGO_NET_OFFLINE": "true"}
    done = subprocess.run([REPOSITORY / "config/debian/build", home], capture_output=True, text=True, timeout=170, env=env)
    assert done.returncode == 0, done.stderr
    built = done.stdout.strip()
    # The same as a later version with another default configuration.
    tree = home / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", built, tree], check=True)
    control, config = tree / "DEBIAN/control", tree / CONFIG[1:]
    control.write_text(re.sub(r"(?m)^Version: (.*)$", r"Version: \1.1", control.read_text()))
    config.write_text(config.read_text() + "# A later version.\n")
    (tree / "DEBIAN/md5sums").unlink(missing_ok=True)
    later = home / "later.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, later], check=True, capture_output=True)
    return built, later


@pytest.fixture
def machine(package, tmp_path):
    for number, file in enumerate(package):
        shutil.copy(file, tmp_path / f"{number}.deb")
    machine = Machine(tmp_path)
    yield machine
    machine.stop()


def configure(machine, net):
    """As an administrator changes the configuration: what stands there is kept, some keys are set."""
    text = machine.run("cat", CONFIG)
    for old, new in [('#hostname = "mail.example.com"', f'hostname = "{HOSTNAME}"'), ("servers = []", f'servers = ["{net.dns}"]'),
                     ("port = 25", f"port = {net.port}"), ('format = "auto"', 'format = "json"')]:
        assert text.count(f"\n{old}\n") == 1, old
        text = text.replace(f"\n{old}\n", f"\n{new}\n")
    text = re.sub(r"(?s)blocked_targets = \[.*?\n\]", "blocked_targets = []", text)
    # Written in place: owner and mode stay.
    machine.run("sh", "-c", f"cat > {CONFIG}", stdin=text)
    return text


def test_from_installation_to_purge(machine, net, peer):
    target = peer(peers.SmtpSink)
    machine.run("dpkg", "--install", "/srv/0.deb")

    # User, directories, configuration, unit, pages, completions.
    assert re.fullmatch(rf"smtp-direct:x:\d+:\d+:[^:]*:{SPOOL}:/usr/sbin/nologin\n", machine.run("getent", "passwd", "smtp-direct"))
    assert machine.modes(SPOOL, f"{SPOOL}/tmp", f"{SPOOL}/drop", CONFIG) == [
        "2750 smtp-direct smtp-direct", "2770 smtp-direct smtp-direct", "2770 smtp-direct smtp-direct", "640 root smtp-direct"]
    assert machine.is_there("/etc/systemd/system/multi-user.target.wants/smtp-direct.service")
    assert "Daemon that delivers mail" in machine.run("man", "-P", "cat", "smtp-direct")
    assert "[spool]" in machine.run("man", "-P", "cat", "smtp-direct.toml")
    machine.run("bash", "-n", "/usr/share/bash-completion/completions/smtp-direct")

    # The daemon, by the unit's command, as its user.
    changed = configure(machine, net)
    unit = machine.run("cat", "/usr/lib/systemd/system/smtp-direct.service")
    command = re.search(r"(?m)^ExecStart=(.*)$", unit)[1].split()
    machine.run("setpriv", "--reuid=smtp-direct", "--regid=smtp-direct", "--init-groups", command[0], "check", "--config", CONFIG)
    with open(machine.home / "log", "w") as log:
        daemon = machine.start("setpriv", "--reuid=smtp-direct", "--regid=smtp-direct", "--init-groups",
                               "sh", "-c", 'umask 007; echo $$ > /tmp/pid; exec "$@"', "sh", *command,
                               stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    # A message by the sendmail that programs call, of a user who is in the group.
    as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--groups=smtp-direct"]
    for name in ("/usr/sbin/sendmail", "/usr/lib/sendmail"):
        machine.run(*as_user, name, "-i", "-f", "s@sender.test", "u@a.sink.test", stdin="Subject: x\n\ntext\n")
    history = wait_for("the history", lambda: (h := machine.run("smtp-direct", "history", "--json")).count("\n") == 2 and h, 10, 0.2)
    assert history.count('"delivered"') == 2, history
    assert [arrival.rcpts for arrival in target.received(2)] == [["u@a.sink.test"]] * 2
    assert machine.run("mailq") == machine.run("smtp-direct", "queue", "list")
    assert machine.run("newaliases") == ""
    denied = machine.run("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "/usr/sbin/sendmail", "u@a.sink.test", code=77)
    assert "members of the group smtp-direct" in denied

    # Over itself, and over a later version, with a changed configuration.
    machine.run("dpkg", "--install", "/srv/0.deb")
    machine.run("dpkg", "--install", "--force-confold", "/srv/1.deb")
    assert machine.run("cat", CONFIG) == changed
    assert machine.run("cat", f"{CONFIG}.dpkg-dist").endswith("# A later version.\n")
    assert machine.modes(SPOOL, f"{SPOOL}/drop", CONFIG) == ["2750 smtp-direct smtp-direct", "2770 smtp-direct smtp-direct", "640 root smtp-direct"]
    assert machine.run("readlink", "-f", "/usr/sbin/sendmail") == "/usr/bin/smtp-direct\n"
    # Not by the helper that waits for it outside.
    machine.run("kill", "-TERM", machine.run("cat", "/tmp/pid").strip())
    assert daemon.wait(40) == 0, (machine.home / "log").read_text()

    # Removed: configuration and spool stay, and with them what waits.
    machine.run(*as_user, "/usr/sbin/sendmail", "-i", "-f", "s@sender.test", "u@a.sink.test", stdin="Subject: waits\n\ntext\n")
    machine.run("dpkg", "--remove", "smtp-direct")
    for gone in ("/usr/bin/smtp-direct", "/usr/sbin/sendmail", "/usr/bin/mailq", "/etc/alternatives/mta", "/usr/lib/systemd/system/smtp-direct.service"):
        assert not machine.is_there(gone), gone
    assert machine.run("cat", CONFIG) == changed and machine.is_there(f"{SPOOL}/queue/state.db")

    # Purged: mail that nobody got is kept, and it is said.
    said = machine.run("dpkg", "--purge", "smtp-direct")
    assert f"{SPOOL} is kept: it holds 2 files of mail" in said and "the user smtp-direct is kept" in said, said
    assert not machine.is_there("/etc/smtp-direct") and machine.is_there(f"{SPOOL}/queue/state.db")
    assert not machine.is_there("/etc/systemd/system/multi-user.target.wants/smtp-direct.service")
    machine.run("sh", "-c", f"rm {SPOOL}/drop/*")
    # Installed again, it takes up what is there; purged with nothing undelivered, it leaves nothing but its user.
    machine.run("dpkg", "--install", "/srv/0.deb")
    machine.run("sh", "-c", "echo secret > /etc/smtp-direct/isp-password")
    said = machine.run("dpkg", "--purge", "smtp-direct")
    assert "/etc/smtp-direct is kept" in said and not machine.is_there(SPOOL), said
    assert machine.run("ls", "/etc/smtp-direct") == "isp-password\n"
    left = machine.run("find", "/etc", "/usr", "/var", "-xdev", "-cnewer", "/srv/0.deb", "-not", "-path", "/var/cache/man/*",
                       "(", "-name", "*smtp-direct*", "-or", "-name", "mta*", ")")
    assert left.split() == ["/etc/smtp-direct"], left


def test_another_mail_servers_sendmail_stays(machine):
    machine.run("sh", "-c", "echo '#!/bin/sh' > /usr/sbin/sendmail")
    said = machine.run("dpkg", "--install", "/srv/0.deb")
    assert "/usr/sbin/sendmail belongs to another mail server and stays" in said, said
    assert machine.run("cat", "/usr/sbin/sendmail") == "#!/bin/sh\n"
    machine.run("dpkg", "--purge", "smtp-direct")
    assert machine.run("cat", "/usr/sbin/sendmail") == "#!/bin/sh\n"


def test_what_the_administrator_set_stays(machine):
    """Modes and owners by dpkg-statoverride, a user of the same name that was there before."""
    machine.run("adduser", "--system", "--group", "--quiet", "--no-create-home", "--home", "/srv", "smtp-direct")
    machine.run("dpkg-statoverride", "--add", "root", "mail", "3775", f"{SPOOL}/drop")
    machine.run("dpkg", "--install", "/srv/0.deb")
    machine.run("dpkg-statoverride", "--update", "--force-all", "--add", "root", "root", "600", CONFIG)
    machine.run("dpkg", "--install", "/srv/1.deb")
    assert ":/srv:" in machine.run("getent", "passwd", "smtp-direct")
    assert machine.modes(CONFIG) == ["600 root root"]
    assert machine.modes(f"{SPOOL}/tmp") == ["2770 smtp-direct smtp-direct"]


def test_what_checkers_say(package, tmp_path, record):
    """mandoc on each page, lintian on the whole."""
    tree = tmp_path / "tree"
    subprocess.run(["dpkg-deb", "--extract", package[0], tree], check=True)
    pages = sorted(tree.glob("usr/share/man/man*/*.gz"))
    assert len(pages) >= 15
    for page in pages:
        plain = tmp_path / page.stem
        plain.write_bytes(gzip.decompress(page.read_bytes()))
        done = subprocess.run([cache() / "root/mandoc/usr/bin/mandoc", "-Tlint", "-W", "warning", plain], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr
    broken = tmp_path / "broken.1"
    broken.write_text(".TH x 1\n.SH NAME\n.PP\n.XX\n")
    assert subprocess.run([cache() / "root/mandoc/usr/bin/mandoc", "-Tlint", "-W", "warning", broken], capture_output=True, timeout=30).returncode != 0
    # What does not apply has its reason in config/debian/lintian-overrides; one that applies to nothing is a remark as well.
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning", "--display-info", package[0]], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unused-override" not in done.stdout, done.stdout
    record(f"lintian: {len(done.stdout.splitlines())} remarks, no error, no warning")
