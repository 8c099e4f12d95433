"""Takes what was to arrive and what did, hands on every difference: each recipient exactly once, each octet in its place."""

import re
from collections import Counter, defaultdict

HOSTNAME = "sender.interop.test"  # of the daemon under test
RECIPIENTS_PER_TRANSACTION = 100


def canonical(address):
    """An address with its domain as lower-cased A-labels; the local part as it is."""
    local, at, domain = address.rpartition("@")
    return local + at + domain.encode("idna").decode().lower() if at else address


def problems(samples, arrivals, transactions=False, in_doubt=frozenset()):
    """Lines that say what is wrong; empty when nothing is.

    `in_doubt` holds (key, recipient) pairs that may have arrived more than once, because the daemon said so.
    """
    found = []
    by_key = {sample.key: sample for sample in samples}
    assert len(by_key) == len(samples), "two samples have one key"
    seen = Counter()
    groups = Counter()
    ids = defaultdict(set)
    differences = {}
    for arrival in arrivals:
        key = re.search(rb"(?m)^X-Corpus-Key: (\S+)\r\n", arrival.content)
        sample = by_key.get(key and key[1].decode())
        if sample is None:
            found.append(f"nobody sent this: {arrival.content[:200]!r}")
            continue
        rcpts = [canonical(rcpt) for rcpt in arrival.rcpts]
        seen.update((sample.key, rcpt) for rcpt in rcpts)
        groups[sample.key, tuple(sorted({rcpt.rpartition("@")[2] for rcpt in rcpts}))] += 1
        if canonical(arrival.sender) != canonical(sample.sender):
            found.append(f"{sample.key}: sender {arrival.sender!r} instead of {sample.sender!r}")
        trace, difference = compare(sample, arrival.content)
        ids[sample.key].add(trace)
        if difference:
            differences.setdefault(sample.key, f"{sample.key} to {rcpts[:3]} {sample.traits}: {difference}")
    found += differences.values()
    wanted = {(sample.key, canonical(rcpt)) for sample in samples for rcpt in sample.rcpts}
    found += [f"{key}: lost for {rcpt} {by_key[key].traits}" for key, rcpt in sorted(wanted - set(seen))]
    for (key, rcpt), times in sorted(seen.items()):
        if (key, rcpt) not in wanted:
            found.append(f"{key}: {rcpt} is no recipient of it")
        elif times > 1 and (key, rcpt) not in in_doubt:
            found.append(f"{key}: {times} times for {rcpt}")
    found += [f"{key}: copies differ in what was put on top: {sorted(traces)}" for key, traces in ids.items() if len(traces) > 1]
    if transactions:
        found += _transactions(samples, groups, in_doubt)
    return found


def _transactions(samples, groups, in_doubt):
    """One copy per target domain, cut only where there are more recipients than a transaction takes."""
    found = [f"{key}: one transaction for several domains: {domains}" for (key, domains) in groups if len(domains) > 1]
    doubtful = {key for key, _ in in_doubt}
    for sample in samples:
        per_domain = Counter(rcpt.rpartition("@")[2] for rcpt in {canonical(rcpt) for rcpt in sample.rcpts})
        for domain, count in per_domain.items():
            wanted, had = -(-count // RECIPIENTS_PER_TRANSACTION), groups[sample.key, (domain,)]
            if had > wanted and sample.key not in doubtful:
                found.append(f"{sample.key}: {had} transactions for {count} recipients at {domain}")
    return found


def compare(sample, content):
    """What the daemon put on top (without what may differ between copies), and how the rest differs, or None."""
    allowed = {"received": 1, **{name: 1 for name in sample.lacks}}
    rest, trace = content, []
    while True:
        line = re.match(rb"([!-9;-~]+):(?: .*)?\r\n(?:[ \t].*\r\n)*", rest)
        name = line and line[1].decode().lower()
        if not allowed.get(name):
            break
        if name == "received" and f"by {HOSTNAME}".encode() not in line[0]:
            break
        allowed[name] -= 1
        trace.append(line[0])
        rest = rest[line.end():]
    absent = sorted(name for name, left in allowed.items() if left)
    if absent:
        return tuple(trace), f"not put on top: {', '.join(absent)}; it begins {content[:200]!r}"
    if rest == sample.expected:
        return tuple(trace), None
    return tuple(trace), _difference(sample.expected, rest)


def _difference(expected, got):
    at = next((i for i, (x, y) in enumerate(zip(expected, got)) if x != y), min(len(expected), len(got)))
    around = slice(max(0, at - 30), at + 40)
    return f"differs at octet {at} of {len(expected)} ({len(got)} arrived): expected {expected[around]!r}, got {got[around]!r}"
