"""Takes the name of a mail server, a folder, where to listen and where to relay to; starts it privately (tests/interop/ns.py), tells "ready"
and the process whose tree it is, and obeys the lines it reads: "release". The end of its input ends it.

Both are set up for ten connections to the one destination, kept open from message to message, without TLS and without DNS.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "interop"))

from ns import USERS, Box, greets, wait_for  # noqa: E402  (the line above finds it)

HOSTNAME = "mail.bench.test"
# Seconds that an order may take.
LIMIT = 120


class Peer:
    """A mail server that listens at `listen` and relays everything to `sink`, each (address, port)."""

    package = ""

    def __init__(self, home, listen, sink, hold):
        self.box = Box(home / "box", self.package)
        self.listen, self.sink, self.hold = listen, sink, hold

    def ready(self):
        def up():
            assert self.box.process.poll() is None, f"{self.package} ended at once:\n{self.box.output()}"
            return greets(*self.listen)
        wait_for(lambda: f"{self.package} listens at {self.listen}\n{self.box.output()}", up, LIMIT)

    def command(self, *argv):
        """Runs a command in the box."""
        pid = self.box.process.pid
        first = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", "LD_LIBRARY_PATH": "/usr/lib/postfix"}
        done = subprocess.run(["nsenter", "--target", first, "--mount", "--pid", *argv], env=env, cwd="/", stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.box.output()}"


class Postfix(Peer):
    """Ten connections to the relay at once and from the start, its connection cache on, the usual services, nothing in a chroot."""

    package = "postfix"

    def start(self):
        conf = self.box.etc / "postfix"
        conf.mkdir()
        relay = f"[{self.sink[0]}]:{self.sink[1]}"
        self.main = conf / "main.cf"
        self.main.write_text(f"""
compatibility_level = 3.6
maillog_file = /var/log/postfix.log
myhostname = {HOSTNAME}
inet_interfaces = all
inet_protocols = ipv4
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
relayhost = {relay}
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtp_tls_security_level = none
message_size_limit = 104857600
mailbox_size_limit = 0
default_destination_concurrency_limit = 10
initial_destination_concurrency = 10
smtp_connection_cache_destinations = {relay}
defer_transports = {"smtp" if self.hold else ""}
""")
        services = ["cleanup unix n - n - 0 cleanup", "qmgr unix n - n 300 1 qmgr", "rewrite unix - - n - - trivial-rewrite",
                    "bounce unix - - n - 0 bounce", "defer unix - - n - 0 bounce", "trace unix - - n - 0 bounce",
                    "verify unix - - n - 1 verify", "flush unix n - n 1000? 0 flush", "proxymap unix - - n - - proxymap",
                    "error unix - - n - - error", "retry unix - - n - - error", "anvil unix - - n - 1 anvil",
                    "scache unix - - n - 1 scache", "postlog unix-dgram n - n - 1 postlogd", "tlsmgr unix - - n 1000? 1 tlsmgr",
                    "smtp unix - - n - - smtp", "relay unix - - n - - smtp", "pickup unix n - n 60 1 pickup"]
        (conf / "master.cf").write_text(f"{self.listen[0]}:{self.listen[1]} inet n - n - - smtpd\n" + "\n".join(services) + "\n")
        shutil.copy(self.box.root / "usr/share/postfix/dynamicmaps.cf", conf)
        for name in ("post-install", "postfix-files", "postfix-script"):
            shutil.copy(self.box.root / "etc/postfix" / name, conf)
        self.box.own("lib/postfix", "postfix", 0o700)
        (self.box.var / "spool/postfix").mkdir()
        self.box.start("postfix", "start-fg")
        self.ready()

    def release(self):
        # In place: to those in the box the file system is read-only, and a new file would not be seen. The last line of a name counts.
        with open(self.main, "a") as main:
            main.write("defer_transports =\n")
        self.command("postfix", "reload")
        self.command("postqueue", "-f")


class OpenSmtpd(Peer):
    """Its own limits, meant for strangers' servers, are lifted: five connections to a route, a new one every few seconds, seconds after
    one has ended, fifty messages in hand. Nothing makes it talk to a host of its own network but `relay host`."""

    package = "opensmtpd"

    def start(self):
        conf = self.box.etc / "opensmtpd"
        conf.mkdir()
        (conf / "smtpd.conf").write_text(f"""
smtp max-message-size "104857600"
mta limit max-conn-per-route 10
mta limit conn-delay-route 0
mta limit conn-delay-host 0
mta limit conn-delay-source 0
mta limit conn-delay-connector 0
mta limit conn-delay-relay 0
mta limit conn-delay-domain 0
mta limit reconn-delay-route 0
mta limit task-hiwat 2000
mta limit task-lowat 1000
mta limit task-release 1000
listen on {self.listen[0]} port {self.listen[1]} hostname {HOSTNAME}
action "relay" relay host smtp://{self.sink[0]}:{self.sink[1]} helo {HOSTNAME}
match from any for any action "relay"
""")
        (self.box.var / "lib/opensmtpd/empty").mkdir(parents=True)
        (self.box.var / "spool/smtpd").mkdir(mode=0o711)
        self.box.start("/usr/sbin/smtpd", "-d", "-f", "/etc/opensmtpd/smtpd.conf", *(["-P", "mta"] if self.hold else []))
        self.ready()

    def release(self):
        # As if it were setgid, which it insists on.
        self.command("setpriv", "--egid", str(USERS["opensmtpq"]), "--keep-groups", "smtpctl", "resume", "mta")


def endpoint(text):
    address, port = text.rsplit(":", 1)
    return address, int(port)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("server", choices=["Postfix", "OpenSMTPD"])
    parser.add_argument("home", type=Path)
    parser.add_argument("listen", type=endpoint)
    parser.add_argument("sink", type=endpoint)
    parser.add_argument("--hold", action="store_true", help="nothing leaves until it is released")
    options = parser.parse_args()
    # Servers that give up their rights have to get to their queues.
    for folder in [options.home, *options.home.parents]:
        assert os.stat(folder).st_mode & 0o001, f"{folder} cannot be entered by the servers' users"
    server = {"Postfix": Postfix, "OpenSMTPD": OpenSmtpd}[options.server](options.home, options.listen, options.sink, options.hold)
    try:
        server.start()
        print("ready", server.box.process.pid, flush=True)
        for line in sys.stdin:
            {"release": server.release}[line.strip()]()
    finally:
        server.box.stop()


if __name__ == "__main__":
    main()
