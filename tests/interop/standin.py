"""Takes samples, sends them with smtplib: a sender whose faults are known, to show that the oracle sees each of them."""

import smtplib
from itertools import groupby

from oracle import HOSTNAME, RECIPIENTS_PER_TRANSACTION, canonical


PER_CONNECTION = 100  # what OpenSMTPD takes at most


def send(samples, target, fault=lambda sample, domain, wire: [wire]):
    """Sends each sample to `target`, a copy per domain. `fault` turns what would be sent into what is: none, one or several."""
    client, sent = None, 0
    for sample, rcpts, wire in _transactions(samples, fault):
        if client is None or sent % PER_CONNECTION == 0:
            if client:
                client.quit()
            client = smtplib.SMTP(target.address, target.port, timeout=60, local_hostname=HOSTNAME)
            client.ehlo()
        _transaction(client, sample, rcpts, wire)
        sent += 1
    if client:
        client.quit()


def _transactions(samples, fault):
    for sample in samples:
        top = f"Received: by {HOSTNAME} with smtp-direct id {sample.key};\r\n\tSun, 22 Nov 2026 09:00:00 +0100\r\n"
        added = {"date": "Date: Sun, 22 Nov 2026 09:00:00 +0100\r\n", "message-id": f"Message-ID: <{sample.key}@x.test>\r\n"}
        wire = (top + "".join(added[name] for name in sorted(sample.lacks))).encode() + sample.expected
        for domain, rcpts in groupby(sorted({canonical(rcpt) for rcpt in sample.rcpts}, key=_domain), _domain):
            rcpts = list(rcpts)
            for begin in range(0, len(rcpts), RECIPIENTS_PER_TRANSACTION):
                for each in fault(sample, domain, wire):
                    yield sample, rcpts[begin:begin + RECIPIENTS_PER_TRANSACTION], each


def _domain(rcpt):
    return rcpt.rpartition("@")[2]


def _transaction(client, sample, rcpts, wire):
    utf8 = [] if all(text.isascii() for text in (*rcpts, sample.sender)) and sample.expected.split(b"\r\n\r\n")[0].isascii() else ["SMTPUTF8"]
    if utf8:
        client.command_encoding = "utf-8"
    _good(client.docmd("MAIL", " ".join([f"FROM:<{canonical(sample.sender)}>", "BODY=8BITMIME", *utf8])))
    for rcpt in rcpts:
        _good(client.docmd("RCPT", f"TO:<{rcpt}>"))
    _good(client.data(wire))


def _good(reply):
    assert reply[0] // 100 == 2, reply
