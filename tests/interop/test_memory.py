"""How much memory the release build needs at most, while it delivers to a receiver that takes everything as fast as it can."""

import time

import peers

MIB = 1024 * 1024


def test_ten_thousand_small_messages(peer, daemon, record):
    target = peer(peers.SmtpSink, dump=False)
    running = daemon()
    for i in range(10_000):
        rcpt = f"u{i}@{target.domains[i % 4]}"
        running.drop(f"m{i}", f"From: s@sender.test\r\nTo: {rcpt}\r\nSubject: {i}\r\n\r\n".encode() + b"two kilobytes of text, or near\r\n" * 60)
    began = time.monotonic()
    running.wait_finished(10_000, 120)
    peak = running.peak_memory()
    record(f"10,000 messages: at most {peak / MIB:.1f} MiB resident; done {time.monotonic() - began:.1f} s after the last was dropped")
    assert len(running.events("delivered")) == 10_000
    running.stop()
    assert peak < 60 * MIB


def test_a_message_of_100_mib(peer, daemon, record):
    target = peer(peers.SmtpSink, dump=False)
    running = daemon()
    idle = running.peak_memory()
    line = b"a line of seventy-eight octets, with its end, again and again, a great deal..\r\n"
    began = time.monotonic()
    running.drop("big", b"From: s@sender.test\r\nTo: u@a.sink.test\r\nSubject: big\r\n\r\n" + line * (100 * MIB // len(line)))
    running.wait_finished(1, 120)
    peak = running.peak_memory()
    record(f"100 MiB: at most {peak / MIB:.1f} MiB resident, {idle / MIB:.1f} MiB when idle; {time.monotonic() - began:.1f} s")
    assert [e["size"] > 99 * MIB for e in running.events("delivered")] == [True]
    running.stop()
    assert peak < 40 * MIB
