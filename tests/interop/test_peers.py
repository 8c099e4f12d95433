"""Real mail servers, one after the other: everything that is dropped arrives exactly once and unchanged."""

import time

import pytest

import conftest
import peers
from corpus import Sample, corpus
from oracle import canonical, problems


@pytest.mark.parametrize("kind", conftest.KINDS, ids=lambda kind: kind.name)
def test_corpus(kind, peer, daemon, record):
    target = peer(kind)
    running = daemon()
    samples = corpus(target)
    wanted = sum(len(sample.rcpts) for sample in samples)
    began = time.monotonic()
    running.drop_samples(samples)
    running.wait_finished(len(samples), 150)
    record(f"{len(samples)} messages for {wanted} recipients in {time.monotonic() - began:.1f} s")

    arrivals = target.received(wanted)
    assert problems(samples, arrivals, target.transactions) == []
    for verb in ("rejected", "deferred", "failed", "in_doubt", "expired"):
        assert running.events(verb) == [], verb
    assert len(running.events("accepted")) == len(samples)
    delivered = {(e["id"], e["to"]) for e in running.events("delivered")}
    assert len(delivered) == len(running.events("delivered")) == wanted
    if target.starttls:
        assert all(e["tls"] for e in running.events("delivered")), [e["fault"] for e in running.events("TLS broke: clear text from here on")]
        assert all(arrival.tls for arrival in arrivals)
    if target.broken_starttls:
        # Under "opportunistic" it goes on in clear on a new connection, and remembers: no more failures than sessions that began together.
        assert not any(e["tls"] for e in running.events("delivered"))
        assert 1 <= target.broken_handshakes() <= 10
    left = [path for place in ("drop", "tmp", "rejected", "failed", "queue/messages") for path in (running.spool / place).rglob("*") if path.is_file()]
    assert left == []
    running.stop()


def test_one_message_for_all_peers(net, peer, daemon):
    targets = [peer(kind) for kind in conftest.KINDS]
    running = daemon()
    rcpts = [f"u{i}@{domain}" for target in targets for domain in target.domains for i in range(2)]
    samples = []
    for index in range(20):
        body = f"X-Corpus-Key: all-{index}\r\nDate: Sun, 22 Nov 2026 09:00:00 +0100\r\nMessage-ID: <{index}@corpus.test>\r\n\r\n.\r\ntext\r\n".encode()
        sidecar = (".toml", f"from = \"s@sender.test\"\nto = {rcpts}".encode())
        samples.append(Sample(f"all-{index}", "s@sender.test", [canonical(r) for r in rcpts], body, body, sidecar))
    running.drop_samples(samples)
    running.wait_finished(len(samples))
    assert running.events("deferred") == []
    arrivals = [arrival for target in targets for arrival in target.received(20 * 8)]
    assert problems(samples, arrivals) == []
    running.stop()


@pytest.mark.parametrize("kind", [peers.Postfix, peers.OpenSmtpd], ids=lambda kind: kind.name)
def test_more_recipients_than_the_peer_takes_at_once(kind, peer, daemon):
    """After 1,000 recipients Postfix says 452 4.5.3, OpenSMTPD 451 4.5.3: the rest follow at once, nothing is deferred."""
    target = peer(kind)
    running = daemon({"smtp": {"recipients_per_transaction": 1500}})
    rcpts = [f"u{i}@{target.domains[0]}" for i in range(1200)]
    content = b"X-Corpus-Key: many\r\nDate: Sun, 22 Nov 2026 09:00:00 +0100\r\nMessage-ID: <many@corpus.test>\r\n\r\ntext\r\n"
    sample = Sample("many", "s@sender.test", rcpts, content, content, (".toml", f"from = \"s@sender.test\"\nto = {rcpts}".encode()))
    running.drop_samples([sample])
    running.wait_finished(1)
    assert running.events("deferred") == []
    assert problems([sample], target.received(len(rcpts))) == []
    running.stop()


def test_a_session_as_long_as_the_peer_allows(peer, daemon):
    """OpenSMTPD takes 100 messages on one connection and answers 452 to the next MAIL; other messages must not suffer for it."""
    target = peer(peers.OpenSmtpd)
    running = daemon({"sending": {"workers": 1}})
    samples = []
    for index in range(350):
        content = f"X-Corpus-Key: long-{index}\r\nDate: Sun, 22 Nov 2026 09:00:00 +0100\r\nMessage-ID: <{index}@corpus.test>\r\n\r\ntext\r\n".encode()
        rcpts = [f"u{index}@{target.domains[0]}"]
        samples.append(Sample(f"long-{index}", "s@sender.test", rcpts, content, content, (".toml", f"from = \"s@sender.test\"\nto = {rcpts}".encode())))
    running.drop_samples(samples)
    running.wait_finished(len(samples))
    assert running.events("deferred") == []
    assert problems(samples, target.received(len(samples))) == []
    running.stop()
