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
def authority(tmp_path_factory):
    """A self-made certificate authority, and a certificate of it for every name of the zone: files ca.pem, cert.pem, key.pem."""
    home = tmp_path_factory.mktemp("authority")
    names = ",".join(f"DNS:mx.{kind.name}.test" for kind in KINDS)

    def openssl(*arguments):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", *arguments],
                       check=True, capture_output=True, timeout=30, cwd=home)
    openssl("-subj", "/CN=interop authority", "-keyout", "ca-key.pem", "-out", "ca.pem")
    openssl("-subj", "/CN=interop", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-addext", f"subjectAltName={names}",
            "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem")
    return home


@pytest.fixture(scope="session")
def net(tmp_path_factory, authority):
    """Addresses (127.0.x.1 for each kind), the port that all share, and the resolver that leads to them."""
    addresses = {kind.name: f"127.0.{100 + i}.1" for i, kind in enumerate(KINDS)}
    home = tmp_path_factory.mktemp("net")
    net = SimpleNamespace(home=home, addresses=addresses, port=free_port(list(addresses.values())), authority=authority / "ca.pem", certificate=(authority / "cert.pem", authority / "key.pem"))
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

    def start(settings=None, overrides=(), files=None, **options):
        started.append(Daemon(tmp_path / f"daemon{len(started)}", net, settings, overrides))
        for name, content in (files or {}).items():
            (started[-1].home / name).write_text(content)
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
