"""What systemd and administrators do to a daemon: reload, stop, watch, and kill."""

import re
import signal
import time

import peers
from corpus import Sample
from ns import wait_for
from oracle import problems


def small(name, rcpt, index=0):
    content = f"X-Corpus-Key: {name}\r\nDate: Sun, 22 Nov 2026 09:00:00 +0100\r\nMessage-ID: <{name}@corpus.test>\r\n\r\ntext {index}\r\n".encode()
    return Sample(name, "s@sender.test", [rcpt], content, content, (".toml", f'from = "s@sender.test"\nto = ["{rcpt}"]'.encode()))


def test_reload(net, peer, daemon):
    """A good file is put in effect, a bad one is not; systemd is told of both, and nothing is lost in between."""
    first, second = peer(peers.Aiosmtpd), peer(peers.SmtpSink)
    running = daemon()
    running.drop_samples([small("before", "u@a.aio.test")])
    running.wait_finished(1)

    def reload():
        after, began = len(running.notifications.messages), time.monotonic_ns() // 1000
        running.process.send_signal(signal.SIGHUP)
        wait_for("READY=1 after the reload", lambda: running.notifications.having("READY", "1", after))
        reloading, = running.notifications.having("RELOADING", "1", after)
        # What Type=notify-reload wants: without the right time systemd waits in vain.
        assert began <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000

    redirect = {"domain": "a.aio.test", "server": f"mx.sink.test:{net.port}"}
    running.configure(overrides=[redirect])
    reload()
    running.drop_samples([small("redirected", "u@a.aio.test")])
    running.wait_finished(2)

    running.config.write_text(running.config.read_text().replace("[log]", "[log]\nno_such_key = 1"))
    reload()
    assert any(e["level"] == "ERROR" and "no_such_key" in str(e) for e in running.events())
    running.drop_samples([small("still", "u@a.aio.test")])
    wait_for(running.said, lambda: len(running.events("finished")) == 3)

    running.configure()
    reload()
    running.drop_samples([small("back", "u@a.aio.test")])
    running.wait_finished(4)
    running.stop()

    def keys(target):
        return {re.search(rb"X-Corpus-Key: (\S+)", arrival.content)[1].decode() for arrival in target.received(0)}
    assert keys(first) == {"before", "back"}
    assert keys(second) == {"redirected", "still"}


def test_watchdog(daemon):
    running = daemon(watchdog=1)
    wait_for("three signs of life", lambda: len(running.notifications.having("WATCHDOG", "1")) >= 3, 10)
    running.stop()


def test_stop_drains(peer, daemon):
    """SIGTERM: what is under way is brought to its end, the rest waits for the next start; all arrive exactly once."""
    target = peer(peers.SmtpSink, options=["-w", "1"])  # it waits a second before it answers DATA's end
    running = daemon()
    samples = [small(f"drain-{i}", f"u{i}@{target.domains[i % 4]}") for i in range(200)]
    running.drop_samples(samples)
    wait_for("some are under way", lambda: len(running.events("accepted")) == 200 and len(running.events("delivered")) > 0)
    began = time.monotonic()
    running.stop(35)
    assert time.monotonic() - began < 30
    early = len(running.events("delivered"))
    assert 0 < early < 200
    assert running.events("in_doubt") == []
    target.stop()
    arrived = target.received(0)
    assert len(arrived) == early

    again = peer(peers.SmtpSink)
    running.start()
    running.wait_finished(200)
    running.stop()
    assert problems(samples, arrived + again.received(0), True) == []


def test_kill_loses_nothing(peer, daemon, record):
    """SIGKILL in the middle of 2,000 messages, three times: none is lost, and repeats are only of those that the log calls in doubt."""
    target = peer(peers.SmtpSink)
    running = daemon({"sending": {"workers": 20, "per_site": 10}})
    samples = [small(f"kill-{i:04}", f"u{i}@{target.domains[i % 4]}", i) for i in range(2000)]
    rounds = []
    running.drop_samples(samples[:500])
    for begin in (500, 1000, 1500):
        already = len(running.events("delivered"))
        for sample in samples[begin:begin + 500]:
            running.drop(sample.key, sample.file, sample.sidecar)
            if len(running.events("delivered")) > already + 250 and running.process.poll() is None:
                running.kill()
        wait_for("some are delivered", lambda: len(running.events("delivered")) > already + 250)
        running.kill()
        rounds.append(len(running.events("delivered")) - already)
        running.start()
    wait_for(lambda: f"an empty queue and an empty drop\n{running.said()}",
             lambda: not any(running.spool.glob("drop/*")) and running.count()["messages"] == 0, 60, 0.2)
    running.stop()
    arrivals = target.received(0)
    key_of = {}
    for arrival in arrivals:
        identity = re.search(rb"\bid ([0-9A-HJKMNP-TV-Z]{26})\b", arrival.content)[1].decode()
        key_of[identity] = re.search(rb"X-Corpus-Key: (\S+)", arrival.content)[1].decode()
    in_doubt = {(key_of.get(e["id"]), e["to"]) for e in running.events("in_doubt")}
    repeats = len(arrivals) - len(samples)
    record(f"killed after {rounds} deliveries; {len(in_doubt)} in doubt, {repeats} arrived twice")
    assert all(250 < n < 2000 for n in rounds), rounds
    assert problems(samples, arrivals, True, in_doubt) == []
