"""Takes zone lines, hands on a real resolver: Knot answers for the zone `test.`, Unbound asks it and is what the daemon asks."""

import dns.resolver

from ns import Box, free_port, wait_for

ADDRESS = "127.0.0.1"


class Names:
    """`server` is the resolver's address:port."""

    def __init__(self, home, lines):
        self.home, self.lines = home, lines

    def start(self):
        import socket
        kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        authority, resolver = free_port([ADDRESS], kinds), free_port([ADDRESS], kinds)
        self.server = f"{ADDRESS}:{resolver}"
        self.knot, self.unbound = Box(self.home / "knot", "knot"), Box(self.home / "unbound", "unbound")

        conf = self.knot.etc / "knot"
        conf.mkdir()
        zone = ["$TTL 3600", "@ SOA ns hostmaster 1 3600 600 86400 60", "@ NS ns", f"ns A {ADDRESS}", *self.lines]
        (conf / "test.zone").write_text("\n".join(zone) + "\n")
        (conf / "knot.conf").write_text(f"""
server:
    rundir: /run
    user: knot:knot
    listen: {ADDRESS}@{authority}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: /var/lib/knot
zone:
  - domain: test.
    file: /etc/knot/test.zone
    zonefile-sync: -1
    journal-content: none
""")
        self.knot.own("lib/knot", "knot")
        self.knot.start("sh", "-c", "chown knot:knot /run && exec knotd -c /etc/knot/knot.conf")

        conf = self.unbound.etc / "unbound"
        conf.mkdir()
        # Nothing but the stub is ever asked: every other name is refused here, and only loopback is an outgoing address.
        (conf / "unbound.conf").write_text(f"""
server:
    interface: {ADDRESS}@{resolver}
    outgoing-interface: {ADDRESS}
    do-ip6: no
    do-daemonize: no
    chroot: ""
    username: unbound
    pidfile: ""
    use-syslog: no
    logfile: ""
    module-config: "iterator"
    do-not-query-localhost: no
    access-control: 127.0.0.0/8 allow
    local-zone: "." refuse
    local-zone: "test." transparent
stub-zone:
    name: "test."
    stub-addr: {ADDRESS}@{authority}
remote-control:
    control-enable: no
""")
        self.unbound.start("unbound", "-c", "/etc/unbound/unbound.conf")

        asker = dns.resolver.Resolver(configure=False)
        asker.nameservers, asker.port, asker.lifetime = [ADDRESS], resolver, 1

        def up():
            for box in (self.knot, self.unbound):
                assert box.process.poll() is None, box.output()
            try:
                return asker.resolve("test.", "SOA")
            except Exception:
                return None
        wait_for(lambda: "the resolver answers\n" + self.knot.output() + self.unbound.output(), up)
        self.resolver = asker
        return self

    def stop(self):
        self.unbound.stop()
        self.knot.stop()


def zone_of(peer):
    """Domains of a peer, each found another way: plain MX, MX whose best host is dead, no MX, MX to a CNAME, an internationalised name."""
    name, dead = peer.name, peer.address.rsplit(".", 1)[0] + ".250"
    host = f"mx.{name}"
    return [
        f"{host} A {peer.address}",
        f"dead.{name} A {dead}",
        f"alias.{name} CNAME {host}",
        f"a.{name} MX 10 {host}",
        f"b.{name} MX 5 dead.{name}",
        f"b.{name} MX 20 {host}",
        f"c.{name} A {peer.address}",
        f"d.{name} MX 10 alias.{name}",
        f"xn--bcher-kva.{name} MX 10 {host}",
    ]
