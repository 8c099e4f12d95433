"""Reports that a real peer's refusal leads to, read by parsers that others wrote."""

import email
import email.policy
import os
import subprocess
from email.message import Message
from pathlib import Path

import pytest
from flufl.bounce import all_failures

import peers
from check_dsn import check
from daemon import REPOSITORY


def faults(home, report):
    """What check_dsn.py finds wrong; a report that a parser chokes on is wrong too."""
    (home / "report.eml").write_bytes(report)
    try:
        return check(str(home / "report.eml"))
    except Exception as error:
        return [repr(error)]


REFUSALS = [peers.Postfix, peers.Exim, peers.OpenSmtpd]


@pytest.mark.parametrize("kind", REFUSALS, ids=lambda kind: kind.name)
def test_a_refused_recipient_is_reported(kind, peer, daemon, tmp_path):
    """One recipient is refused by the peer, one is taken: the sender hears of the first only, in RFC 3464's form."""
    target, home = peer(kind), peer(peers.Aiosmtpd)
    running = daemon()
    good, bad = f"u@{target.domains[0]}", f"refused@{target.domains[0]}"
    content = f"From: Me <me@sender.test>\r\nTo: {good}, {bad}\r\nSubject: what I wrote\r\nMessage-ID: <it@corpus.test>\r\n\r\nmy words\r\n".encode()
    running.drop("report", content, (".toml", f'from = "me@sender.test"\nto = ["{good}", "{bad}"]\nenvid = "QQ314159"\nret = "full"'.encode()))
    # The message and the report on it.
    running.wait_finished(2)
    assert [e["to"] for e in running.events("failed")] == [bad]
    assert len(target.received(1)) == 1

    report, = home.received(1)
    assert (report.sender, report.rcpts) == ("", ["me@sender.test"])
    assert faults(tmp_path, report.content) == []
    temporary, permanent = all_failures(email.message_from_bytes(report.content))
    assert permanent == {bad.encode()} and temporary == set()

    parsed = email.message_from_bytes(report.content, policy=email.policy.default)
    assert not any(part.defects for part in parsed.walk())
    assert parsed.get_content_type() == "multipart/report" and parsed.get_param("report-type") == "delivery-status"
    assert parsed["To"].addresses[0].addr_spec == "me@sender.test"
    assert parsed["Auto-Submitted"].startswith("auto-")
    assert parsed["Date"] and parsed["Message-ID"] and parsed["From"]
    words, status, original = parsed.iter_parts()
    assert words.get_content_type() == "text/plain" and bad in words.get_content()
    message, rcpt = status.get_payload()
    assert isinstance(message, Message)
    assert message["Reporting-MTA"] == "dns; sender.interop.test" and message["Original-Envelope-Id"] == "QQ314159"
    assert rcpt["Final-Recipient"].lower() == f"rfc822; {bad}" and rcpt["Action"] == "failed" and rcpt["Status"].startswith("5.")
    assert rcpt["Remote-MTA"].startswith(f"dns; {target.host}")
    assert rcpt["Diagnostic-Code"].startswith("smtp; 550")
    assert original.get_content_type() == "message/rfc822"
    assert original.get_payload(0).get_payload().splitlines() == ["my words"]
    running.stop()


def test_success_is_reported_by_whom_it_was_handed_to(peer, daemon, tmp_path):
    """NOTIFY=SUCCESS is passed to a peer with DSN (it answers itself), and reported as relayed where the peer has none."""
    home = peer(peers.Aiosmtpd)
    target = peer(peers.OpenSmtpd)
    running = daemon()
    rcpts = [f"u@{target.domains[0]}", "u@a.aio.test"]
    running.drop("asked", b"From: me@sender.test\r\nSubject: x\r\n\r\nmy words\r\n",
                 (".toml", f'from = "me@sender.test"\nto = {rcpts}\nnotify = ["success", "failure"]'.encode()))
    running.wait_finished(2)
    reports = [arrival for arrival in home.received(2) if arrival.sender == ""]
    report, = reports
    assert faults(tmp_path, report.content) == []
    status = email.message_from_bytes(report.content).get_payload(1).get_payload()
    # OpenSMTPD offers DSN, so the report on its recipient is its own affair; aiosmtpd does not.
    assert [(part["Final-Recipient"].split(";")[1].strip(), part["Action"]) for part in status[1:]] == [("u@a.aio.test", "relayed")]
    running.stop()


def test_no_report_on_a_report(peer, daemon):
    target = peer(peers.Postfix)
    running = daemon()
    running.drop("null", b"From: <x@sender.test>\r\nSubject: x\r\n\r\nx\r\n", (".toml", f'from = "<>"\nto = ["refused@{target.domains[0]}"]'.encode()))
    running.wait_finished(1)
    assert len(running.events("failed")) == 1
    assert len(running.events("accepted")) == 1
    assert len(list((running.spool / "failed").glob("*"))) >= 1
    running.stop()


def test_reports_of_every_kind():
    """The samples that the Rust tests of reports write: failed, delayed, relayed, with and without the message, international addresses."""
    samples = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "tmp/dsn"
    if not samples.is_dir():
        subprocess.run(["cargo", "test", "--quiet", "--test", "dsn"], cwd=REPOSITORY, check=True, capture_output=True, timeout=170)
    files = sorted(samples.iterdir())
    assert len(files) >= 5, files
    assert {file.name: wrong for file in files if (wrong := check(str(file)))} == {}


def test_the_check_sees_faults(tmp_path, daemon, peer):
    """A report with its recipient or its form spoilt does not pass."""
    target, home = peer(peers.Postfix), peer(peers.Aiosmtpd)
    running = daemon()
    running.drop("x", b"From: me@sender.test\r\nSubject: x\r\n\r\nx\r\n", (".toml", f'from = "me@sender.test"\nto = ["refused@{target.domains[0]}"]'.encode()))
    running.wait_finished(2)
    report, = home.received(1)
    for old, new in ((b"Action: failed", b"Action: relayed"), (b"report-type=delivery-status", b"report-type=other"), (b"Status: 5", b"Stat: 5"),
                     (b"message/delivery-status", b"text/plain"), (b"\r\n", b"\n")):
        assert old in report.content, old
        assert faults(tmp_path, report.content.replace(old, new)) != [], new
    running.stop()
