"""STARTTLS, implicit TLS and AUTH against a real TLS stack: what an override asks for is what happens, or nothing is sent."""

import json

import pytest

import peers
from ns import free_port

LOGIN = ("joe", "s3cret pässword")


def message(rcpt, name="m"):
    content = f"X-Corpus-Key: {name}\r\nFrom: s@sender.test\r\nTo: {rcpt}\r\nSubject: x\r\n\r\ntext\r\n".encode()
    return name, content


@pytest.fixture
def override(net):
    """A rule that leads a domain to the receiver's name and port."""
    def rule(**keys):
        return {"domain": "a.aio.test", "server": f"mx.aio.test:{net.port}", **keys}
    return rule


@pytest.mark.parametrize("mode", ["opportunistic", "require", "verify", "implicit"])
def test_each_mode_encrypts(mode, peer, daemon, override, net):
    target = peer(peers.Aiosmtpd, starttls=True, implicit=mode == "implicit")
    running = daemon({"tls": {"ca_file": str(net.authority)}}, [override(tls=mode)])
    running.drop(*message("u@a.aio.test"))
    running.wait_finished(1)
    assert [arrival.tls for arrival in target.received(1)] == [True]
    event, = running.events("delivered")
    assert event["tls"].startswith("TLSv1.3")
    assert event["tls"].endswith("verified") == (mode in ("verify", "implicit")), event["tls"]
    shown = json.loads(running.command("queue", "why", "u@a.aio.test", "--finished", "1", "--json", "--no-dns"))
    attempt, = shown["attempts"]
    # The handshake is told as a part of connecting, and how the peer was spoken to with what it said.
    assert 0 < attempt["delays"]["handshake"] < attempt["delays"]["connect"], attempt
    assert event["tls"] in attempt["trail"][0], attempt
    running.stop()


@pytest.mark.parametrize("mode", ["verify", "implicit"])
def test_an_unknown_certificate_is_not_trusted(mode, peer, daemon, override):
    target = peer(peers.Aiosmtpd, starttls=True, implicit=mode == "implicit")
    running = daemon(overrides=[override(tls=mode)])
    running.drop(*message("u@a.aio.test"))
    event = running.wait_event("deferred")
    assert event["dsn"].startswith("4.7."), event
    assert target.received(0) == []
    running.stop()


@pytest.mark.parametrize("mode", ["require", "verify"])
def test_never_in_clear_where_tls_is_required(mode, peer, daemon, override):
    target = peer(peers.Aiosmtpd)
    running = daemon(overrides=[override(tls=mode)])
    running.drop(*message("u@a.aio.test"))
    event = running.wait_event("deferred")
    assert event["dsn"].startswith("4.7."), event
    assert target.received(0) == []
    running.stop()


@pytest.mark.parametrize("mode", ["verify", "implicit"])
def test_login(mode, peer, daemon, override, net):
    target = peer(peers.Aiosmtpd, starttls=True, implicit=mode == "implicit", login=LOGIN)
    running = daemon({"tls": {"ca_file": str(net.authority)}}, [override(tls=mode, username=LOGIN[0], password_file="password")],
                     files={"password": LOGIN[1] + "\n"})
    running.drop(*message("u@a.aio.test"))
    running.wait_finished(1)
    arrival, = target.received(1)
    assert arrival.tls and arrival.extra["login"]
    running.stop()
    assert LOGIN[1] not in running.log.read_text()


def test_a_wrong_password_defers_and_is_not_told(peer, daemon, override, net):
    target = peer(peers.Aiosmtpd, starttls=True, login=LOGIN)
    running = daemon({"tls": {"ca_file": str(net.authority)}}, [override(tls="verify", username="joe", password="wrong-word")])
    running.drop(*message("u@a.aio.test"))
    event = running.wait_event("deferred")
    assert event["dsn"].startswith("4.7."), event
    assert target.refused_logins >= 1 and target.received(0) == []
    assert "wrong-word" not in running.command("check", "--show")
    running.stop()
    assert "wrong-word" not in running.log.read_text()


def test_a_password_never_goes_in_clear(peer, daemon, override):
    target = peer(peers.Aiosmtpd)
    running = daemon(overrides=[override(tls="opportunistic", username="joe", password="wrong-word")])
    running.drop(*message("u@a.aio.test"))
    event = running.wait_event("deferred")
    assert event["dsn"].startswith("4.7."), event
    assert target.received(0) == []
    running.stop()


def test_ipv6(net, daemon, tmp_path):
    """An override may name an IPv6 address."""
    target = peers.Aiosmtpd(tmp_path / "six", "::1", free_port(["127.0.0.1"]), net.certificate).start()
    try:
        running = daemon(overrides=[{"domain": "six.test", "server": f"[::1]:{target.port}"}])
        running.drop(*message("u@six.test"))
        running.wait_finished(1)
        assert len(target.received(1)) == 1
        assert running.events("delivered")[0]["ip"] == "::1"
        running.stop()
    finally:
        target.stop()
