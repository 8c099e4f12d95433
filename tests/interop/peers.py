"""Takes an address, hands on a real mail server that listens there and what it received.

Each has the same three things: `start()`, `received(expected)` (what arrived, once its queue is empty), `stop()`.
Only what a peer itself puts on top of a message is taken off here, line by line, and only where it stands.
"""

import os
import re
import shutil
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

from ns import USERS, Box, greets, wait_for

LIMIT = 200 * 1024 * 1024
REFUSED = "refused"  # this local part is refused with 550 by each peer that can be told to


@dataclass
class Arrival:
    """One message as a peer has it: `rcpts` and `content` (CRLF) are what one transaction, or one mailbox file, held."""

    sender: str
    rcpts: list
    content: bytes
    tls: bool = None
    extra: dict = field(default_factory=dict)


class Peer:
    """A mail server at `address`:`port`; `domains` all lead to it."""

    name = ""
    utf8 = False  # offers SMTPUTF8
    transactions = False  # records whole transactions, not one file a recipient
    starttls = False  # offers it, and it works
    broken_starttls = False  # offers it, and it never works
    max_line = 1_000_000  # the longest line that it takes and keeps whole, octets without CRLF
    quoted = True  # takes a local part with quotes
    ends_header = False  # puts an empty line after a header that nothing follows

    def __init__(self, home, address, port, certificate):
        self.home, self.address, self.port = Path(home), address, port
        self.certificate, self.key = certificate
        self.home.mkdir(parents=True)

    @property
    def domains(self):
        return [f"{label}.{self.name}.test" for label in ("a", "b", "c", "d")]

    @property
    def host(self):
        return f"mx.{self.name}.test"

    def ready(self):
        def up():
            assert self.box.process.poll() is None, f"{self.name} ended at once:\n{self.box.output()}"
            return greets(self.address, self.port)
        wait_for(lambda: f"{self.name} listens at {self.address}:{self.port}\n{self.box.output()}", up)
        return self

    def stop(self):
        self.box.stop()

    def mailbox(self, directory, read, queues, expected, seconds):
        """Reads a maildir once the server's own queues are empty."""
        def quiet():
            return not any(any(True for _ in queue.rglob("*") if _.is_file()) for queue in queues if queue.exists())
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            # Twice, because a message is for a moment in neither its queue nor the mailbox.
            count = len(_files(directory))
            if quiet() and count >= expected and count == len(_files(directory)) and quiet():
                break
            time.sleep(0.05)
        return [read(path.read_bytes().replace(b"\n", b"\r\n")) for path in _files(directory)]


def _files(directory):
    return sorted(directory.glob("new/*"))


def _strip(pattern, content, who):
    found = re.match(pattern, content)
    assert found, f"{who} put something else on top than expected: {content[:400]!r}"
    return found, content[found.end():]


class Postfix(Peer):
    """Postfix's smtpd, delivering by virtual(8) into one maildir: three fields on top, then its own Received, then the message."""

    name = "postfix"
    utf8 = True
    starttls = True

    def start(self):
        self.box = Box(self.home / "box", "postfix")
        conf = self.box.etc / "postfix"
        conf.mkdir()
        (conf / "main.cf").write_text(f"""
compatibility_level = 3.6
maillog_file = /dev/stdout
myhostname = {self.host}
inet_interfaces = all
inet_protocols = ipv4
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
smtpd_recipient_restrictions = check_recipient_access inline:{{ {{ {REFUSED}@ = 550 5.1.1 No such user here }} }}, reject_unauth_destination
virtual_mailbox_domains = static:all
virtual_mailbox_maps = static:all/
virtual_mailbox_base = /var/mail
virtual_mailbox_limit = 0
virtual_minimum_uid = 1000
virtual_uid_maps = static:{USERS["recorder"]}
virtual_gid_maps = static:{USERS["recorder"]}
message_size_limit = {LIMIT}
# Nothing is rewritten or dropped: by default mail from loopback gets a Date, and Bcc and Return-Path are removed.
local_header_rewrite_clients =
message_drop_headers =
disable_mime_output_conversion = yes
recipient_delimiter =
swap_bangpath = no
allow_percent_hack = no
strict_smtputf8 = no
smtpd_tls_security_level = may
smtpd_tls_cert_file = {self.certificate}
smtpd_tls_key_file = {self.key}
smtpd_tls_received_header = no
""")
        plain = ["cleanup unix n - n - 0 cleanup", "qmgr unix n - n 300 1 qmgr", "rewrite unix - - n - - trivial-rewrite",
                 "bounce unix - - n - 0 bounce", "defer unix - - n - 0 bounce", "trace unix - - n - 0 bounce",
                 "verify unix - - n - 1 verify", "flush unix n - n 1000? 0 flush", "proxymap unix - - n - - proxymap",
                 "error unix - - n - - error", "retry unix - - n - - error", "virtual unix - n n - - virtual",
                 "anvil unix - - n - 1 anvil", "scache unix - - n - 1 scache", "postlog unix-dgram n - n - 1 postlogd",
                 "tlsmgr unix - - n 1000? 1 tlsmgr", "smtp unix - - n - - smtp", "relay unix - - n - - smtp",
                 "pickup unix n - n 60 1 pickup"]
        (conf / "master.cf").write_text(f"{self.address}:{self.port} inet n - n - - smtpd\n" + "\n".join(plain) + "\n")
        shutil.copy(self.box.root / "usr/share/postfix/dynamicmaps.cf", conf)
        for name in ("post-install", "postfix-files", "postfix-script"):
            shutil.copy(self.box.root / "etc/postfix" / name, conf)
        self.box.own("lib/postfix", "postfix", 0o700)
        self.box.own("mail", "recorder")
        (self.box.var / "spool/postfix").mkdir()
        self.box.start("postfix", "start-fg")
        return self.ready()

    def received(self, expected, seconds=60):
        queue = self.box.var / "spool/postfix"
        queues = [queue / name for name in ("maildrop", "incoming", "active", "deferred")]
        return self.mailbox(self.box.var / "mail/all", self._read, queues, expected, seconds)

    def _read(self, content):
        top, content = _strip(rb"Return-Path: <(?P<from>.*)>\r\nX-Original-To: (?P<to>.*)\r\nDelivered-To: .*\r\n", content, self.name)
        received, content = _strip(rb"Received: from .*\r\n(?:[ \t].*\r\n)*", content, self.name)
        assert b"by " + self.host.encode() in received[0]
        return Arrival(top["from"].decode(), [top["to"].decode()], content, tls=b"ESMTPS" in received[0] or b"UTF8SMTPS" in received[0])


class Exim(Peer):
    """Exim, delivering by appendfile into one maildir: Return-path and Envelope-to on top, then its own Received, then the message."""

    name = "exim"
    utf8 = True
    starttls = True
    ends_header = True

    def start(self):
        self.box = Box(self.home / "box", "exim4-daemon-light")
        conf = self.box.etc / "exim4"
        conf.mkdir()
        (conf / "exim4.conf").write_text(f"""
primary_hostname = {self.host}
local_interfaces = {self.address}
daemon_smtp_ports = {self.port}
domainlist local_domains = *
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
host_lookup =
rfc1413_hosts =
# It queues without delivering after ten messages of one connection, and allows twenty connections.
smtp_accept_queue_per_connection = 0
smtp_accept_max = 100
smtp_accept_max_per_connection = 0
message_size_limit = {LIMIT}
# It removes these three on arrival.
return_path_remove = false
envelope_to_remove = false
delivery_date_remove = false
check_spool_space = 0
check_spool_inodes = 0
dsn_advertise_hosts = *
tls_advertise_hosts = *
tls_certificate = /etc/exim4/cert.pem
tls_privatekey = /etc/exim4/key.pem
log_file_path = /var/log/exim4/%slog
# An abstract socket otherwise: one for all that share the network.
notifier_socket =

begin acl
rcpt:
  deny local_parts = {REFUSED}
       message = 5.1.1 No such user here
  accept

begin routers
all:
  driver = accept
  transport = record

begin transports
record:
  driver = appendfile
  directory = /var/mail/all
  maildir_format
  create_directory
  user = recorder
  group = recorder
  return_path_add
  envelope_to_add
  delivery_date_add = false
  batch_max = 1

begin retry
* * F,1h,1m
""")
        shutil.copy(self.certificate, conf / "cert.pem")
        shutil.copy(self.key, conf / "key.pem")
        (conf / "key.pem").chmod(0o640)
        os.chown(conf / "key.pem", 0, USERS["Debian-exim"])
        (conf / "exim4.conf").chmod(0o644)
        self.box.own("spool/exim4", "Debian-exim", 0o750)
        self.box.own("log/exim4", "Debian-exim", 0o750)
        self.box.own("mail/all", "recorder")
        self.box.own("mail", "recorder")
        self.box.start("/usr/sbin/exim4", "-bdf", "-q5s")
        return self.ready()

    def received(self, expected, seconds=60):
        return self.mailbox(self.box.var / "mail/all", self._read, [self.box.var / "spool/exim4/input"], expected, seconds)

    def _read(self, content):
        top, content = _strip(rb"Return-path: <(?P<from>.*)>\r\nEnvelope-to: (?P<to>.*)\r\n", content, self.name)
        received, content = _strip(rb"Received: from .*\r\n(?:[ \t].*\r\n)*", content, self.name)
        assert b"by " + self.host.encode() in received[0]
        return Arrival(top["from"].decode(), [top["to"].decode()], content, tls=b"(TLS" in received[0])


class OpenSmtpd(Peer):
    """OpenSMTPD, delivering by its maildir agent: Return-Path and Delivered-To on top, then its own Received, then the message."""

    name = "opensmtpd"
    # Offered, and every handshake ends in an internal error: Debian 12's build with OpenSSL 3 cannot sign in its separate key process.
    broken_starttls = True
    quoted = False
    max_line = 65_532  # 65,535 with a stuffed dot and CRLF; beyond that "500 Line too long"

    def start(self):
        self.box = Box(self.home / "box", "opensmtpd")
        conf = self.box.etc / "opensmtpd"
        conf.mkdir()
        shutil.copy(self.certificate, conf / "cert.pem")
        shutil.copy(self.key, conf / "key.pem")
        (conf / "key.pem").chmod(0o600)
        (conf / "smtpd.conf").write_text(f"""
pki {self.host} cert "/etc/opensmtpd/cert.pem"
pki {self.host} key "/etc/opensmtpd/key.pem"
smtp max-message-size "{LIMIT}"
table all {{ "@" = recorder }}
listen on {self.address} port {self.port} tls pki {self.host} hostname {self.host}
action "record" maildir "/var/mail/all" virtual <all>
match from any for rcpt-to regex "^{REFUSED}@" reject
match from any for any action "record"
""")
        (self.box.var / "lib/opensmtpd/empty").mkdir(parents=True)
        (self.box.var / "spool/smtpd").mkdir(mode=0o711)
        self.box.own("mail/all", "recorder")
        self.box.own("mail", "recorder")
        self.box.start("/usr/sbin/smtpd", "-d", "-f", "/etc/opensmtpd/smtpd.conf")
        return self.ready()

    def broken_handshakes(self):
        """How often a client tried."""
        return (self.home / "box/output").read_text(errors="replace").count("SSL routines")

    def received(self, expected, seconds=60):
        spool = self.box.var / "spool/smtpd"
        return self.mailbox(self.box.var / "mail/all", self._read, [spool / "queue", spool / "incoming"], expected, seconds)

    def _read(self, content):
        # No Return-Path where the sender is null.
        top, content = _strip(rb"(?:Return-Path: <?(?P<from>[^\r>]*)>?\r\n)?Delivered-To: (?P<to>.*)\r\n", content, self.name)
        received, content = _strip(rb"Received: from .*\r\n(?:[ \t].*\r\n)*", content, self.name)
        assert b"by " + self.host.encode() in received[0]
        return Arrival((top["from"] or b"").decode(), [top["to"].decode()], content, tls=b"(TLS" in received[0])


class SmtpSink(Peer):
    """Postfix's smtp-sink, which writes each transaction with its envelope: the oracle of who got what how often."""

    name = "sink"
    transactions = True

    def __init__(self, home, address, port, certificate, dump=True, options=()):
        super().__init__(home, address, port, certificate)
        self.dump, self.options = dump, options

    def start(self):
        self.box = Box(self.home / "box", "postfix")
        self.files = self.box.own("mail", "postfix")
        dump = ["-d", "/var/mail/%M%S."] if self.dump else []
        self.box.start("smtp-sink", "-u", "postfix", "-h", self.host, "-m", "500", *dump, *self.options, f"{self.address}:{self.port}", "1000")
        return self.ready()

    def received(self, expected, seconds=60):
        # It ends each file with one empty line of its own, as in an mbox.
        return [self._read(path.read_bytes().removesuffix(b"\n").replace(b"\n", b"\r\n")) for path in sorted(self.files.iterdir())]

    def _read(self, content):
        top, content = _strip(rb"X-Client-Addr: .*\r\nX-Client-Proto: .*\r\nX-Helo-Args: .*\r\nX-Mail-Args: (?P<from>.*)\r\n"
                              rb"(?P<to>(?:X-Rcpt-Args: .*\r\n)+)", content, self.name)
        _, content = _strip(rb"Received: from .*\r\n(?:[ \t].*\r\n)*", content, self.name)
        path = re.compile(rb"<([^>]*)>")
        rcpts = [path.search(line)[1].decode() for line in top["to"].split(b"\r\n") if line]
        return Arrival(path.search(top["from"])[1].decode(), rcpts, content)


class Aiosmtpd(Peer):
    """aiosmtpd in this process, keeping the exact envelope and octets; STARTTLS and AUTH as asked for."""

    name = "aio"
    utf8 = True
    transactions = True

    def __init__(self, home, address, port, certificate, starttls=False, login=None, implicit=False):
        super().__init__(home, address, port, certificate)
        self.starttls, self.login, self.implicit = starttls or implicit, login, implicit
        self.arrivals, self.refused_logins = [], 0

    def start(self):
        peer = self

        class Session(SMTP):
            line_length_limit = peer.max_line + 2

        class Listener(Controller):
            def factory(self):
                return Session(self.handler, **self.SMTP_kwargs)

        context = None
        if self.starttls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self.certificate, self.key)
        options = {"hostname": self.address, "port": self.port, "server_hostname": self.host, "data_size_limit": LIMIT, "enable_SMTPUTF8": True}
        if self.implicit:
            options["ssl_context"] = context
        elif self.starttls:
            options.update(tls_context=context, require_starttls=True)
        if self.login:
            options.update(authenticator=self._authenticate, auth_required=True, auth_require_tls=not self.implicit)
        self.listener = Listener(self, ready_timeout=10, **options)
        self.listener.start()
        return self

    def stop(self):
        self.listener.stop()

    def received(self, expected, seconds=60):
        return list(self.arrivals)

    def _authenticate(self, server, session, envelope, mechanism, data):
        good = (data.login.decode(), data.password.decode()) == self.login
        self.refused_logins += not good
        return AuthResult(success=good, handled=False)

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        if address.split("@")[0] == REFUSED:
            return "550 5.1.1 No such user here"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(rcpt_options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        extra = {"mail_options": list(envelope.mail_options), "login": session.authenticated, "helo": session.host_name}
        sender = "" if envelope.mail_from == "<>" else envelope.mail_from
        self.arrivals.append(Arrival(sender, list(envelope.rcpt_tos), envelope.original_content,
                                     tls=server.transport.get_extra_info("ssl_object") is not None, extra=extra))
        return "250 2.0.0 kept"
