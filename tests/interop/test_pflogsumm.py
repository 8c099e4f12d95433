"""log.format = "postfix", read by Debian's pflogsumm: its numbers are what happened."""

import json
import os
import re
import subprocess

import peers
from ns import cache, wait_for


def report(log):
    """pflogsumm's report on a log file, and its grand totals."""
    root = cache() / "root/pflogsumm"
    done = subprocess.run(["perl", root / "usr/sbin/pflogsumm", log], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PERL5LIB": f"{root}/usr/share/perl5", "LC_ALL": "C"})
    assert done.returncode == 0 and not done.stderr, done.stderr
    totals = {name: int(number) for number, name in re.findall(r"(?m)^ +(\d+) +([a-z][a-z/ ]*?)(?: +\(.*\))?$", done.stdout.split("Per-", 1)[0])}
    return done.stdout, totals


def message(sender, *to):
    return b"From: %s\r\nTo: %s\r\nSubject: x\r\n\r\ntext\r\n" % (sender.encode(), ", ".join(to).encode())


def test_the_report_tells_what_happened(net, peer, daemon):
    peer(peers.Aiosmtpd)
    overrides = [
        {"domain": "rejected.test", "action": "reject", "reason": "not from here"},
        {"domain": "held.test", "action": "hold", "reason": "waiting"},
        {"domain": "discarded.test", "action": "discard"},
        # Nobody listens there.
        {"domain": "down.test", "server": f"{net.addresses['exim']}:{net.port}"},
    ]
    running = daemon({"log": {"format": "postfix"}}, overrides)
    dropped = [
        message("s@sender.test", "one@a.aio.test", "two@a.aio.test"),
        message("t@sender.test", "three@a.aio.test"),
        message("t@sender.test", "four@a.aio.test", "five@b.aio.test", "u@down.test"),
        message("s@sender.test", "refused@a.aio.test"),
        message("s@sender.test", "u@rejected.test", "v@down.test"),
        message("s@sender.test", "u@held.test"),
        message("s@sender.test", "u@discarded.test"),
    ]
    for number, content in enumerate(dropped):
        running.drop(str(number), content)
    running.drop("bad", b"Subject: nobody gets this\r\n\r\n")

    # Besides the five deliveries there are the reports on two messages, which go to their senders.
    expected = {"received": 7, "delivered": 7, "deferred": 2, "bounced": 2, "rejected": 1, "held": 1, "discarded": 1, "forwarded": 0,
                "reject warnings": 0, "senders": 2, "sending hosts/domains": 1}

    def told():
        totals = report(running.log)[1]
        return all(totals.get(name) == number for name, number in expected.items())
    wait_for(lambda: f"{expected}\n{report(running.log)[1]}\n{running.said()}", told, 20, 0.3)
    text, totals = report(running.log)
    # Each recipient that got it: five of the messages and the sender of the reports.
    assert (totals["recipients"], totals["recipient hosts/domains"]) == (6, 3), text
    # The queue's own history says the same.
    rows = [json.loads(line) for line in running.command("history", "--json").splitlines()]
    assert sum(row["outcome"] == "delivered" for row in rows) == totals["delivered"], rows
    for reason in ["No such user here", "Connection refused", "not from here", "waiting: to held.test"]:
        assert reason in text, text
    # An administrator returns one of what is on hold or waits, and removes another: a bounce and a report more.
    waiting = [json.loads(line) for line in running.command("queue", "list", "--json").splitlines()]
    by_domain = {row["domain"]: row["id"] for row in waiting}
    running.command("queue", "bounce", by_domain["held.test"], "--reason", "moved away")
    running.command("queue", "remove", "--to", "u@down.test", "--reason", "spam")
    expected |= {"delivered": 8, "bounced": 3}
    wait_for(lambda: f"{expected}\n{report(running.log)[1]}\n{running.said()}", told, 20, 0.3)
    assert "returned by the administrator of this server: moved away" in report(running.log)[0]
    assert re.search(r"postfix/postsuper\[\d+\]: \w{26}: removed\n", running.log.read_text())
    log = running.log.read_text()
    # What Postfix's users grep for.
    assert len(re.findall(r"(?m)^\w{3} [ \d]\d \d\d:\d\d:\d\d \S+ postfix/bounce\[\d+\]: \w{26}: sender non-delivery notification: \w{26}$", log)) == 3
    assert len(re.findall(r"postfix/qmgr\[\d+\]: \w{26}: removed\n", log)) == log.count("(queue active)") - 1, "one waits"
    running.stop()
