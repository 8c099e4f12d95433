"""What every test shares: certificates, the name servers, one of each peer."""

import subprocess
from types import SimpleNamespace

import pytest

import peers
from daemon import Daemon
from names import Names, zone_of
from ns import free_port

KINDS = [peers.Postfix, peers.Exim, peers.OpenSmtpd, peers.SmtpSink, peers.Aiosmtpd]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-made certificate for every name of the zone, and its key."""
    home = tmp_path_factory.mktemp("certificate")
    names = ",".join(f"DNS:mx.{kind.name}.test" for kind in KINDS)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=interop", "-addext", f"subjectAltName={names}", "-keyout", home / "key.pem", "-out", home / "cert.pem"],
                   check=True, capture_output=True, timeout=30)
    return home / "cert.pem", home / "key.pem"


@pytest.fixture(scope="session")
def net(tmp_path_factory, certificate):
    """Addresses (127.0.x.1 for each kind), the port that all share, and the resolver that leads to them."""
    addresses = {kind.name: f"127.0.{100 + i}.1" for i, kind in enumerate(KINDS)}
    home = tmp_path_factory.mktemp("net")
    net = SimpleNamespace(home=home, addresses=addresses, port=free_port(list(addresses.values())), certificate=certificate)
    lines = [line for name, address in addresses.items() for line in zone_of(SimpleNamespace(name=name, address=address))]
    # Where reports go: the domain of every sender.
    lines.append("sender MX 10 mx.aio")
    net.names = Names(home / "names", lines)
    net.dns = net.names.start().server
    yield net
    net.names.stop()


@pytest.fixture
def peer(net, tmp_path):
    """Starts a peer of a kind at its address, fresh for each test."""
    started = []

    def start(kind, **options):
        each = kind(tmp_path / f"{kind.name}{len(started)}", net.addresses[kind.name], net.port, net.certificate, **options)
        started.append(each)
        return each.start()
    yield start
    for each in started:
        each.stop()


@pytest.fixture
def daemon(net, tmp_path):
    """Starts smtp-direct on a spool of its own."""
    started = []

    def start(settings=None, overrides=(), **options):
        started.append(Daemon(tmp_path / f"daemon{len(started)}", net, settings, overrides))
        return started[-1].start(**options)
    yield start
    for each in started:
        each.kill()


FIGURES = []


@pytest.fixture
def record(request):
    """Takes a line that the end of the run shows."""
    return lambda line: FIGURES.append(f"{request.node.name}: {line}")


def pytest_terminal_summary(terminalreporter):
    if FIGURES:
        terminalreporter.section("figures")
        for line in FIGURES:
            terminalreporter.write_line(line)
