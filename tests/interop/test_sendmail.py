"""Programs that hand their mail to sendmail, as Debian has them: what each calls, and what is in the spool then."""

import os
import shutil
import subprocess
import tomllib
from email import message_from_bytes, policy
from types import SimpleNamespace

import pytest

import peers
from daemon import binary
from ns import USERS, cache, private, wait_for

HOST = "mail.sender.test"
ME = f"joe@{HOST}"
UID, GROUP = 61100, USERS["smtp-direct"]

# The clients' packages and this sendmail over /usr, a user and a configuration over /etc.
_MOUNTS = """
set -e
mount -t overlay -o "lowerdir=$LOCAL:$ROOT/usr:/usr" overlay /usr
mount -t overlay -o "lowerdir=$ETC:/etc" overlay /etc
exec setpriv --reuid "$AS" --regid "$AS" --groups "$GROUPS_OF" "$@"
"""


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The binary where every user may run it: the build's own directory may be closed to others."""
    home = tmp_path_factory.mktemp("program")
    opened(home)
    return shutil.copy(binary(), home)


def opened(path):
    """Lets everybody through, up to pytest's own directory for this user."""
    for directory in [path, *path.parents][:3]:
        directory.chmod(0o755)


@pytest.fixture
def machine(tmp_path, program):
    """A machine with sendmail in its usual places, and a spool as README.md makes it. run(argv, stdin) → what is in drop/ then."""
    opened(tmp_path)
    spool, etc, local = tmp_path / "spool", tmp_path / "etc", tmp_path / "local"
    for directory, mode in [(spool, 0o2750), (spool / "tmp", 0o2770), (spool / "drop", 0o2770)]:
        directory.mkdir()
        os.chown(directory, GROUP, GROUP)
        directory.chmod(mode)
    (etc / "smtp-direct").mkdir(parents=True)
    config = etc / "smtp-direct/smtp-direct.toml"
    config.write_text(f'hostname = "{HOST}"\n[spool]\npath = "{spool}"\n')
    passwd, group = open("/etc/passwd").read(), open("/etc/group").read()
    (etc / "passwd").write_text(passwd + f"joe:x:{UID}:{UID}:Joe Doe,,,:/tmp:/bin/sh\n")
    # For PAM: not expired.
    (etc / "shadow").write_text("joe:*:20000:0:99999:7:::\n")
    (etc / "group").write_text(group + f"joe:x:{UID}:\nsmtp-direct:x:{GROUP}:joe\n")
    (etc / "mailname").write_text(HOST + "\n")
    for place in ["sbin/sendmail", "lib/sendmail", "bin/mailq", "bin/newaliases"]:
        (local / place).parent.mkdir(parents=True, exist_ok=True)
        (local / place).symlink_to(program)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, UID, UID)

    def line(argv, user=UID, groups=GROUP):
        """A command on this machine: its words, and what subprocess is to be told besides."""
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": str(home), "LOGNAME": "joe", "USER": "joe", "AS": str(user),
               "GROUPS_OF": str(groups), "ROOT": str(cache() / "root/clients"), "ETC": str(etc), "LOCAL": str(local)}
        words = [*private("--mount", "--pid", "--fork", "--kill-child", "--mount-proc"), "sh", "-c", _MOUNTS, "sh", *map(str, argv)]
        return words, {"env": env, "cwd": home}

    def call(argv, stdin=b"", groups=GROUP):
        words, options = line(argv, groups=groups)
        return subprocess.run(words, input=stdin, capture_output=True, timeout=60, **options)

    def run(argv, stdin=b""):
        done = call(argv, stdin)
        assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout.decode()}{done.stderr.decode()}"
        return taken()

    def taken():
        """The one message: envelope, header fields, body. Owned so that the daemon can read it."""
        assert not list((spool / "tmp").iterdir())
        eml, = (spool / "drop").glob("*.eml")
        sidecar = eml.with_suffix(".toml")
        for file in (eml, sidecar):
            found = file.stat()
            assert (found.st_gid, found.st_mode & 0o777) == (GROUP, 0o640), file
        content, envelope = eml.read_bytes(), tomllib.loads(sidecar.read_text())
        eml.unlink()
        sidecar.unlink()
        assert not list((spool / "drop").iterdir())
        assert b"\n" not in content.replace(b"\r\n", b""), content
        message = message_from_bytes(content, policy=policy.default)
        for name in ["From", "Date", "Message-ID"]:
            assert len(message.get_all(name, [])) == 1, content
        assert "Bcc" not in message
        return SimpleNamespace(envelope=envelope, message=message, lines=message.get_body().get_content().strip("\r\n").splitlines())

    return SimpleNamespace(run=run, call=call, line=line, taken=taken, home=home, etc=etc, spool=spool, config=config)


def addressed(arrived, sender, *to):
    assert (arrived.envelope["from"], arrived.envelope["to"]) == (sender, list(to)), arrived.envelope


# Tables and marks of cron's own, which go with it.
_CRON = """
set -e
mount -t tmpfs tmpfs /run
# A machine without cron has no folder for it.
mount -t tmpfs tmpfs /var/spool
mkdir -p /var/spool/cron
mkdir -m 1730 /var/spool/cron/crontabs
install -o joe -m 600 "$HOME/table" /var/spool/cron/crontabs/joe
exec cron -f
"""


def test_cron(machine):
    """Debian's cron itself, with a user's table that is run as it starts: what a job prints arrives as mail."""
    (machine.etc / "pam.d").mkdir()
    shutil.copy(cache() / "root/clients/etc/pam.d/cron", machine.etc / "pam.d")
    # The system's own jobs are no part of this.
    (machine.etc / "crontab").write_text("")
    table = machine.home / "table"
    table.write_text('MAILTO=joe,you@example.org\n@reboot printf "grüße\\\\n.\\\\nend\\\\n"\n')
    words, options = machine.line(["sh", "-c", _CRON], user=0, groups=0)
    cron = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    try:
        wait_for("mail of cron's", lambda: list((machine.spool / "drop").glob("*.eml")), 30)
    finally:
        cron.kill()
        said = cron.communicate(timeout=10)[0]
    arrived = machine.taken()
    assert (arrived.envelope["from"], arrived.envelope["to"]) == (ME, [ME, "you@example.org"]), said
    assert arrived.message["Subject"].startswith("Cron <joe@") and arrived.message["From"] == f"root@{HOST}", arrived.message
    assert arrived.lines == ["grüße", ".", "end"]


def test_php(machine):
    """mail() with sendmail_path as php.ini has it by default, and with a sender of its own."""
    code = r'exit(mail("you@example.org, Two <two@example.org>", "Gr\u{fc}\u{df}e", "line\n.\nend\n", ["From" => "web@shop.test", "Bcc" => "b@shop.test"], "-fbounce@shop.test") ? 0 : 1);'
    arrived = machine.run(["php8.2", "-d", "sendmail_path=/usr/sbin/sendmail -t -i", "-r", code])
    addressed(arrived, "bounce@shop.test", "you@example.org", "two@example.org", "b@shop.test")
    assert arrived.message["From"] == "web@shop.test" and arrived.lines == ["line", ".", "end"]


@pytest.mark.parametrize("told", [["--sendmail-cmd=/usr/sbin/sendmail"], []], ids=["told", "finds it"])
def test_git_send_email(machine, told):
    """With the program named, and with git's own look for it."""
    patch = machine.home / "0001-x.patch"
    patch.write_text("From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\nFrom: Joe Doe <joe@work.test>\n"
                     "Date: Sun, 22 Nov 2026 10:00:00 +0100\nSubject: [PATCH] one\n\nbody\n---\n")
    arrived = machine.run(["/usr/lib/git-core/git-send-email", *told, "--from=Joe Doe <joe@work.test>",
                           "--envelope-sender=bounce@work.test", "--to=list@example.org", "--cc=cc@example.org", "--bcc=hidden@example.org",
                           "--confirm=never", "--suppress-cc=all", patch])
    addressed(arrived, "bounce@work.test", "list@example.org", "cc@example.org", "hidden@example.org")
    assert arrived.message["Subject"] == "[PATCH] one" and "body" in arrived.lines


def test_mutt(machine):
    (machine.home / ".muttrc").write_text('set sendmail="/usr/sbin/sendmail -oem -oi"\nset use_envelope_from=yes\nset from="joe@work.test"\n'
                                          "set dsn_notify='failure,delay'\nset dsn_return=hdrs\nset copy=no\n")
    arrived = machine.run(["mutt", "-s", "Hello", "-c", "cc@example.org", "-b", "hidden@example.org", "you@example.org"], b"text\n.\nend\n")
    addressed(arrived, "joe@work.test", "you@example.org", "cc@example.org", "hidden@example.org")
    assert (arrived.envelope["notify"], arrived.envelope["ret"]) == (["failure", "delay"], "headers")
    assert arrived.message["Subject"] == "Hello" and arrived.lines == ["text", ".", "end"]


def test_mailx(machine):
    arrived = machine.run(["bsd-mailx", "-s", "Hello", "-c", "cc@example.org", "-b", "hidden@example.org", "-r", "me@work.test", "you@example.org", "root"],
                          b"text\n")
    assert arrived.envelope["from"] == "me@work.test"
    assert sorted(arrived.envelope["to"]) == sorted(["you@example.org", f"root@{HOST}", "cc@example.org", "hidden@example.org"])
    assert arrived.message["Subject"] == "Hello" and arrived.lines == ["text"]


def test_logwatch(machine):
    """Debian's logwatch with its own mailer: `sendmail -t`."""
    files = {"conf/logwatch.conf": f"TmpDir = {machine.home}\n", "conf/services/box.conf": 'Title = "Box"\nLogFile = NONE\n',
             "scripts/services/box": "#!/bin/sh\nprintf 'all is well\\n.\\nend\\n'\n"}
    for name, content in files.items():
        file = machine.etc / "logwatch" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o755)
    arrived = machine.run(["logwatch", "--output", "mail", "--mailto", "root", "--service", "box", "--range", "all", "--hostname", "box"])
    addressed(arrived, ME, f"root@{HOST}")
    assert (arrived.message["From"], arrived.message["Subject"]) == (f"root@{HOST}", "Logwatch for box (Linux)"), arrived.message
    assert any("Logwatch" in line for line in arrived.lines) and any("all is well" in line for line in arrived.lines), arrived.lines


def test_python(machine):
    """As the examples of Python's documentation have it: subprocess, "-t -oi", bytes of an EmailMessage."""
    code = ("import subprocess\nfrom email.message import EmailMessage\nm = EmailMessage()\nm['To'], m['Cc'] = 'you@example.org', 'cc@example.org'\n"
            "m['Subject'] = 'Grüße'\nm.set_content('text\\n.\\nend\\n')\n"
            "subprocess.run(['/usr/lib/sendmail', '-t', '-oi'], input=m.as_bytes(), check=True)\n")
    arrived = machine.run(["/usr/bin/python3", "-c", code])
    addressed(arrived, ME, "you@example.org", "cc@example.org")
    assert arrived.message["From"] == f"Joe Doe <{ME}>" and arrived.message["Subject"] == "Grüße"
    assert arrived.lines == ["text", ".", "end"]


PYTHON = {
    "apt-listchanges": ("""import sys; sys.path.insert(0, '/usr/share/apt-listchanges')
from types import SimpleNamespace
import apt_listchanges
config = SimpleNamespace(email_address='you@example.org', email_format='text')
apt_listchanges.mail_changes(config, 'text\\n.\\nGrüße\\n', 'News for box')""", f"Joe Doe <{ME}>"),
    "unattended-upgrades": ("""from importlib.machinery import SourceFileLoader
program = SourceFileLoader('program', '/usr/bin/unattended-upgrade').load_module()
exit(program._send_mail_using_sendmail('root', 'you@example.org', 'News for box', 'text\\n.\\nGrüße\\n'))""", f"root@{HOST}"),
}


@pytest.mark.parametrize("package", PYTHON)
def test_python_programs(machine, package):
    """What those packages' own code sends."""
    code, author = PYTHON[package]
    arrived = machine.run(["/usr/bin/python3", "-W", "ignore", "-c", code])
    addressed(arrived, ME, "you@example.org")
    assert (arrived.message["From"], arrived.message["Subject"]) == (author, "News for box")
    assert arrived.lines == ["text", ".", "Grüße"]


PERL = {
    "MIME::Lite": ("""use MIME::Lite; MIME::Lite->new(From => 'me@work.test', To => 'you@example.org', Cc => 'cc@example.org', Subject => 'Hello',
                      Data => "text\\n.\\nend\\n")->send('sendmail', '/usr/sbin/sendmail -t -oi -oem') or die""",
                   ME, ["you@example.org", "cc@example.org"]),
    "Email::Sender": ("""use Email::Sender::Simple qw(sendmail); use Email::Sender::Transport::Sendmail;
                         sendmail("From: me\\@work.test\\nTo: you\\@example.org\\nSubject: Hello\\n\\ntext\\n.\\nend\\n",
                         { from => 'bounce@work.test', to => ['you@example.org', 'hidden@example.org'],
                           transport => Email::Sender::Transport::Sendmail->new })""",
                      "bounce@work.test", ["you@example.org", "hidden@example.org"]),
    "Mail::Mailer": ("""use Mail::Mailer; my $m = Mail::Mailer->new('sendmail'); $m->open({ From => 'me@work.test', To => 'you@example.org',
                        Subject => 'Hello' }); print $m "text\\n..\\nend\\n"; $m->close or die""",
                     ME, ["you@example.org"]),
}


@pytest.mark.parametrize("module", PERL)
def test_perl(machine, module):
    code, sender, to = PERL[module]
    arrived = machine.run(["perl", "-e", code])
    addressed(arrived, sender, *to)
    assert (arrived.message["From"], arrived.message["Subject"]) == ("me@work.test", "Hello")
    # Mail::Mailer calls sendmail without -i: a lone dot would end its message, with any sendmail.
    assert arrived.lines == ["text", ".." if module == "Mail::Mailer" else ".", "end"]


def test_who_is_not_in_the_group(machine):
    """An error that says which group is wanted; a configuration that is closed to users keeps nobody out."""
    done = machine.call(["/usr/sbin/sendmail", "you@example.org"], b"Subject: x\n\n", groups=UID)
    assert done.returncode == 77 and b"members of the group smtp-direct" in done.stderr, done
    machine.config.chmod(0o640)
    done = machine.call(["/usr/sbin/sendmail", "you@example.org"], b"Subject: x\n\n")
    # The default spool, which this machine does not have.
    assert done.returncode == 75 and b"/var/spool/smtp-direct/tmp" in done.stderr, done
    os.chown(machine.config, 0, GROUP)
    addressed(machine.run(["/usr/sbin/sendmail", "you@example.org"], b"Subject: x\n\n"), ME, "you@example.org")


def test_from_sendmail_to_a_peer(net, peer, daemon):
    """The whole way: sendmail, the daemon, a real mail server."""
    target = peer(peers.Aiosmtpd)
    running = daemon()
    done = subprocess.run([binary(), "sendmail", "-C", running.config, "-i", "-f", "s@sender.test", "u@a.aio.test"], input=b"Subject: x\n\n.\nend\n",
                          capture_output=True, timeout=30)
    assert done.returncode == 0, done
    running.wait_finished(1)
    arrival, = target.received(1)
    assert (arrival.sender, arrival.rcpts) == ("s@sender.test", ["u@a.aio.test"])
    assert arrival.content.endswith(b"\r\n\r\n.\r\nend\r\n"), arrival.content
