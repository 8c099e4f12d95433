"""The judge is judged first: a flawless sender passes at every real peer, and each single fault is named."""

import pytest

import conftest
import peers
import standin
from corpus import corpus
from oracle import problems


@pytest.mark.parametrize("kind", conftest.KINDS, ids=lambda kind: kind.name)
def test_every_peer_takes_the_corpus_unchanged(kind, peer):
    target = peer(kind)
    samples = corpus(target)
    standin.send(samples, target)
    arrivals = target.received(sum(len(sample.rcpts) for sample in samples))
    assert problems(samples, arrivals, target.transactions) == []


FAULTS = {
    "lost": (lambda sample, wire: [], "lost for"),
    "twice": (lambda sample, wire: [wire, wire], "2 times for"),
    "octet changed": (lambda sample, wire: [wire[:-5] + bytes([wire[-5] ^ 1]) + wire[-4:]], "differs at octet"),
    "last line cut off": (lambda sample, wire: [wire[:wire.rindex(b"\r\n", 0, -2) + 2]], "differs at octet"),
    "line added": (lambda sample, wire: [wire + b"\r\n"], "differs at octet"),
    "dot eaten": (lambda sample, wire: [wire.replace(b"\r\n..two", b"\r\n.two")], "differs at octet"),
    "high bit stripped": (lambda sample, wire: [bytes(b & 127 for b in wire)], "differs at octet"),
    "date added though there was one": (lambda sample, wire: [wire.replace(b"\r\nX-Corpus-Key", b"\r\nDate: x\r\nX-Corpus-Key", 1)], "differs at octet"),
    "received missing": (lambda sample, wire: [wire[wire.index(b"X-Corpus-Key"):]], "not put on top: received"),
    "key missing": (lambda sample, wire: [wire.replace(b"X-Corpus-Key", b"X-Other-Name")], "nobody sent this"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", [peers.SmtpSink, peers.Aiosmtpd], ids=lambda kind: kind.name)
def test_each_fault_is_named(kind, fault, peer):
    target = peer(kind)
    samples = [sample for sample in corpus(target, 70) if len(sample.file) < 1_000_000]
    change, named = FAULTS[fault]
    victim = next(s for s in samples if b"\r\n..two" in s.expected) if "dot" in fault else next(
        s for s in samples if not s.expected.isascii() and s.expected.split(b"\r\n\r\n")[0].isascii() and not s.lacks)

    def spoil(sample, domain, wire):
        return change(sample, wire) if sample is victim else [wire]
    standin.send(samples, target, spoil)
    found = problems(samples, target.received(0), target.transactions)
    assert any(named in line for line in found), found
    # Nothing but the victim is accused.
    assert all(victim.key in line or "nobody sent" in line for line in found), found


def test_wrong_recipients_and_senders_are_named(peer):
    target = peer(peers.Aiosmtpd)
    samples = corpus(target, 12)
    standin.send([s for s in samples if len(s.file) < 1_000_000], target)
    arrivals = target.received(0)
    samples = [s for s in samples if len(s.file) < 1_000_000]
    arrivals[3].rcpts.append("stranger@a.aio.test")
    arrivals[4].sender = "other@sender.test"
    found = problems(samples, arrivals, True)
    assert any("stranger@a.aio.test is no recipient" in line for line in found), found
    assert any("sender 'other@sender.test' instead of" in line for line in found), found
