"""config/smtp-direct.service: as strict as it claims, and the daemon does its work under it, started, reloaded, watched and stopped by systemd."""

import json
import os
import re
import subprocess
import time

import pytest

import peers
from daemon import REPOSITORY, binary
from ns import USERS, wait_for
from oracle import HOSTNAME
from systemd import Systemd

UNIT = REPOSITORY / "config/smtp-direct.service"
THRESHOLD = 1.5


def test_exposure(record):
    """`systemd-analyze security` calls up to 2.0 fine; 10 is no protection at all."""
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", f"--threshold={THRESHOLD * 10:.0f}", "--no-pager", UNIT],
                          capture_output=True, text=True, timeout=60)
    overall = re.search(r"Overall exposure level for smtp-direct.service: ([\d.]+)", done.stdout)
    assert overall, done.stdout + done.stderr
    record(f"exposure {overall[1]} of 10 (limit {THRESHOLD})")
    assert done.returncode == 0 and float(overall[1]) <= THRESHOLD, done.stdout


def test_exposure_is_measured(tmp_path):
    """The same command refuses a unit without protection."""
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", f"--threshold={THRESHOLD * 10:.0f}", "--no-pager", bare],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode != 0


CONFIGURATION = """hostname = "{hostname}"
[dns]
servers = ["{dns}"]
blocked_targets = []
[smtp]
port = {port}
[log]
format = "{log}"
{more}"""


@pytest.fixture
def machine(net, tmp_path):
    """A systemd that has the unit, the binary, a configuration, and the spool as README.md says to make it."""
    started = []

    def start(more="", units=None, log="json"):
        files = {
            "/etc/systemd/interop/smtp-direct.service": UNIT,
            "/etc/smtp-direct/smtp-direct.toml": CONFIGURATION.format(hostname=HOSTNAME, dns=net.dns, port=net.port, log=log, more=more),
            "/usr/local/bin/smtp-direct": binary(),
            **(units or {}),
        }
        machine = Systemd(tmp_path / "machine", files)
        started.append(machine)
        machine.spool = machine.box.own("spool/smtp-direct", "smtp-direct", 0o2750)
        for name in ("tmp", "drop"):
            machine.box.own(f"spool/smtp-direct/{name}", "smtp-direct", 0o2770)
        # A user who may drop: not the daemon's, but of its group.
        group = machine.box.etc / "group"
        group.write_text(group.read_text().replace(f"smtp-direct:x:{USERS['smtp-direct']}:", f"smtp-direct:x:{USERS['smtp-direct']}:recorder"))
        return machine.start()
    yield start
    for machine in started:
        machine.stop()


def drop(machine, name, rcpt):
    """As a user of the group: umask 027, build in tmp/, rename into drop/."""
    script = ("umask 027; cd /var/spool/smtp-direct && "
              f"printf 'From: s@sender.test\\nTo: {rcpt}\\nX-Corpus-Key: {name}\\nSubject: x\\n\\ntext\\n' > tmp/{name}.eml && mv tmp/{name}.eml drop/")
    machine.run("setpriv", f"--reuid={USERS['recorder']}", f"--regid={USERS['recorder']}", "--init-groups", "sh", "-c", script)


def test_the_daemon_works_under_the_unit(machine, peer, net):
    target, other = peer(peers.Aiosmtpd, starttls=True), peer(peers.SmtpSink)
    host = machine()
    # Returns when the daemon has said READY=1: Type=notify.
    host.run("systemctl", "start", "smtp-direct")
    assert host.property("smtp-direct", "ActiveState") == "active"
    pid = int(host.property("smtp-direct", "MainPID"))

    status = host.run("cat", f"/proc/{pid}/status").stdout
    assert re.search(r"(?m)^Uid:\t(\d+)", status)[1] == str(USERS["smtp-direct"])
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in status, status

    drop(host, "first", "u@a.aio.test")
    wait_for(lambda: f"delivered\n{host.journal()[-3000:]}", lambda: host.events("finished"), 20, 0.2)
    event, = host.events("delivered")
    assert event["to"] == "u@a.aio.test" and event["tls"].startswith("TLSv1.")
    assert b"X-Corpus-Key: first\r\n" in target.received(1)[0].content

    # A new route by `systemctl reload`.
    rule = f'[[dns.override]]\ndomain = "a.aio.test"\nserver = "mx.sink.test:{net.port}"'
    host.run("sh", "-c", f"echo '{rule}' >> /etc/smtp-direct/smtp-direct.toml")
    host.run("systemctl", "reload", "smtp-direct")
    wait_for("the reload", lambda: host.events("configuration reloaded"), 10, 0.2)
    drop(host, "second", "u@a.aio.test")
    wait_for(lambda: f"delivered\n{host.journal()[-3000:]}", lambda: len(host.events("finished")) == 2, 20, 0.2)
    assert [b"X-Corpus-Key: second\r\n" in arrival.content for arrival in other.received(1)] == [True]
    assert int(host.property("smtp-direct", "MainPID")) == pid

    host.run("systemctl", "stop", "smtp-direct")
    assert host.property("smtp-direct", "Result") == "success"
    assert host.property("smtp-direct", "ExecMainStatus") == "0"
    # The group may look into what is kept, others may not.
    for path in host.spool.rglob("*"):
        assert path.stat().st_mode & 0o007 == 0, path
    assert not [e for e in host.journal().splitlines() if '"level":"ERROR"' in e or "panicked" in e]


def test_the_journal_has_each_field(machine, peer):
    """log.format = "auto", the default: what an administrator asks journalctl for, and what is read without asking."""
    peer(peers.Aiosmtpd)
    host = machine(log="auto")
    host.run("systemctl", "start", "smtp-direct")
    for name, rcpt in (("one", "u@a.aio.test"), ("two", "refused@a.aio.test")):
        drop(host, name, rcpt)

    def entries(*matches):
        lines = host.run("journalctl", "--no-pager", "-o", "json", "-u", "smtp-direct", *matches, check=False).stdout.splitlines()
        return [json.loads(line) for line in lines]
    # The two messages, and the report on one of them.
    wait_for(lambda: f"finished\n{host.journal()[-3000:]}", lambda: len(entries("SMTP_EVENT=finished")) == 3, 20, 0.2)
    refused, = entries("SMTP_EVENT=failed")
    assert (refused["SMTP_TO"], refused["SMTP_CODE"], refused["SMTP_DSN"], refused["PRIORITY"]) == ("refused@a.aio.test", "550", "5.1.1", "4")
    assert (refused["SYSLOG_IDENTIFIER"], refused["SYSLOG_FACILITY"], refused["_SYSTEMD_UNIT"]) == ("smtp-direct", "2", "smtp-direct.service")
    assert refused["MESSAGE"].startswith(f"failed id={refused['SMTP_ID']} from=s@sender.test to=refused@a.aio.test "), refused
    way = [entry["SMTP_EVENT"] for entry in entries(f"SMTP_ID={refused['SMTP_ID']}")]
    assert way == ["accepted", "failed", "reported", "finished"], way
    host.run("systemctl", "stop", "smtp-direct")


def test_the_journal_has_the_lines_of_postfix(machine, peer):
    """log.format = "postfix" under systemd: the programs' names are the entries' own, so that journalctl prints what a file would have."""
    peer(peers.Aiosmtpd)
    host = machine(log="postfix")
    host.run("systemctl", "start", "smtp-direct")
    drop(host, "one", "u@a.aio.test")

    def lines():
        return host.run("journalctl", "--no-pager", "-o", "short", "-u", "smtp-direct", check=False).stdout
    wait_for(lambda: f"removed\n{lines()[-3000:]}", lambda: ": removed\n" in lines(), 20, 0.2)
    assert re.search(r"(?m)^\w{3} [ \d]\d [\d:]{8} \S+ postfix/smtp\[\d+\]: \w{26}: to=<u@a.aio.test>, relay=mx.aio.test\[[\d.]+\]:\d+, "
                     r"delay=[\d.]+, delays=[\d./]+, dsn=2.0.0, status=sent \(250 .*\)$", lines()), lines()
    host.run("systemctl", "stop", "smtp-direct")


def test_a_crash_is_followed_by_a_start(machine, peer):
    target = peer(peers.SmtpSink)
    host = machine()
    host.run("systemctl", "start", "smtp-direct")
    pid = host.property("smtp-direct", "MainPID")
    host.run("kill", "-KILL", pid)
    drop(host, "meanwhile", "u@a.sink.test")
    wait_for("the next start", lambda: host.property("smtp-direct", "MainPID") not in (pid, "0"), 20, 0.2)
    wait_for(lambda: f"delivered\n{host.journal()[-3000:]}", lambda: host.events("finished"), 20, 0.2)
    assert len(target.received(1)) == 1
    host.run("systemctl", "stop", "smtp-direct")


def test_a_bad_configuration_is_not_tried_for_ever(machine):
    host = machine(more="no_such_key = 1\n")
    assert host.run("systemctl", "start", "smtp-direct", check=False).returncode != 0
    assert host.property("smtp-direct", "ExecMainStatus") == "78"
    # A start that is to come would show as "activating" by now.
    time.sleep(0.5)
    assert host.property("smtp-direct", "ActiveState") == "failed", "it would be started again"
    assert "no_such_key" in host.journal()


# Run in place of the daemon: prints what it could do. Each is something that a daemon taken over by an attacker would like; all but the
# last two must fail under the unit, and all succeed without it.
PROBE = r"""
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    if libc.syscall(*args) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def listen(family, address):
    s = socket.socket(family)
    if isinstance(address, str) and os.path.exists(address):
        os.unlink(address)
    s.bind(address)
    s.listen()
def write(path):
    with open(path, "w") as f:
        f.write("x")
def writable_code():
    libc.mmap.restype = ctypes.c_void_p
    if libc.mmap(None, 4096, 7, 0x22, -1, 0) in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
ATTEMPTS = {
    "listen on a port": lambda: listen(socket.AF_INET, ("127.0.0.1", 0)),
    "listen on a local socket": lambda: listen(socket.AF_UNIX, "/var/spool/smtp-direct/tmp/socket"),
    "write below /etc": lambda: write("/etc/smtp-direct/x"),
    "write below /usr": lambda: write("/usr/local/bin/x"),
    "write elsewhere in /var": lambda: write("/var/log/x"),
    "writable and executable memory": writable_code,
    "a user namespace": lambda: call(272, 0x10000000),
    "a new mount": lambda: call(165, b"none", b"/mnt", b"tmpfs", 0, None),
    "ptrace": lambda: call(101, 0, 0, 0, 0),
    "a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
    "a kernel parameter": lambda: write("/proc/sys/kernel/domainname"),
    "the kernel's log": lambda: call(103, 10, None, 0),
    "the clock": lambda: call(164, None, None),
    "another user": lambda: os.setuid(0),
    "a key ring": lambda: call(248, b"user", b"x", b"x", 1, -3),
    "a device of the machine": lambda: open("/dev/kernel"),
    "other processes": lambda: os.stat("/proc/1/exe"),
    "home directories": lambda: os.listdir("/root"),
    "the spool": lambda: write("/var/spool/smtp-direct/tmp/probe"),
    "a connection": lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5).close(),
}
for name, attempt in ATTEMPTS.items():
    # In a process of its own: an attempt that succeeds may take privileges away.
    if os.fork() == 0:
        try:
            attempt()
            print(f"could: {name}", flush=True)
        except Exception as error:
            print(f"could not: {name} ({error})", flush=True)
        os._exit(0)
    os.wait()
"""


def test_what_the_unit_forbids_is_forbidden(machine, net):
    """A program tries what an attacker would, with the unit's protection and, to see that each attempt is a real one, without."""
    command = f"ExecStart=/usr/bin/python3 -I /etc/smtp-direct/probe.py {net.dns.rsplit(':')[1]}"
    guarded = re.sub(r"(?m)^ExecStart=.*", command, UNIT.read_text())
    guarded = re.sub(r"(?m)^(Type|NotifyAccess|Restart\w*|WatchdogSec)=.*", "", guarded) + "\n[Service]\nType=oneshot\n"
    bare = f"[Service]\n{command}\nType=oneshot\n"
    host = machine(units={"/etc/systemd/interop/guarded.service": guarded, "/etc/systemd/interop/bare.service": bare, "/etc/smtp-direct/probe.py": PROBE})

    def could(unit):
        host.run("systemctl", "start", unit)
        wait_for("the probe", lambda: ": a connection" in host.journal(unit), 10, 0.2)
        lines = host.journal(unit).splitlines()
        assert len(lines := [line for line in lines if line.startswith("could")]) == 21, lines
        return [line.removeprefix("could: ") for line in lines if line.startswith("could: ")], lines
    free, lines = could("guarded")
    # Listening is for the control socket, and for [control] listen.
    assert free == ["listen on a port", "listen on a local socket", "the spool", "a connection"], lines
    free, lines = could("bare")
    assert len(free) == 21, "\n".join(lines)
