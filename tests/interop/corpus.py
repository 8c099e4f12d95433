"""Takes a peer, hands on messages for it: the file to drop, the envelope beside or in it, and what must arrive.

What must arrive is worked out here from the parts that a message is made of, not by parsing the file as the daemon does.
"""

import json
import random
from dataclasses import dataclass, field

from oracle import canonical

BIG = 30 * 1024 * 1024
_words = random.Random(0)
LINES = [bytes(_words.choices(b"abcdefghij klmnop.", k=_words.randrange(0, 78))).rstrip() + b"\r\n" for _ in range(500)]


@dataclass
class Sample:
    """One message. `body` and `fields` are canonical (CRLF); `file` is what is dropped."""

    key: str
    sender: str
    rcpts: list  # without duplicates, domains as A-labels
    file: bytes
    expected: bytes  # canonical, without what is to be put on top
    sidecar: tuple = None  # (suffix, octets)
    lacks: frozenset = frozenset()  # of {"date", "message-id"}
    traits: list = field(default_factory=list)


def corpus(peer, count=500, seed=1):
    """`count` messages for a peer, every trait among them."""
    rng = random.Random(f"{peer.name} {seed}")
    return [_sample(peer, index, rng) for index in range(count)]


def _sample(peer, index, rng):
    key = f"{peer.name}-{index:04}"
    traits = []

    def one_of(options, every=1):
        """A choice that walks through all options, the first being the usual one."""
        choice = options[(index // every) % len(options)]
        if choice is not options[0]:
            traits.append(choice)
        return choice

    source = one_of(["json", "toml", "x-headers", "headers", "headers-return-path", "headers-sender", "headers-resent"])
    body = _body(peer, index, rng, one_of)
    utf8 = peer.utf8 and one_of(["ascii", "ascii", "utf8-header", "utf8-local", "ascii"], 3)
    sender = one_of(["plain", "tagged", "long", "quoted", "null"], 2)
    # Where the sender stands in a field of the header, it is no null sender.
    if (sender == "null" and source.startswith("headers")) or (sender == "quoted" and not peer.quoted):
        sender = "plain"
    sender = {"plain": f"s{index}@sender.test", "tagged": f"s+{key}=x'y@sender.test", "null": "",
              "long": f"bounces-{'v' * 80}-{index}@sender.test", "quoted": f'"s {index}"@sender.test'}[sender]
    if utf8 == "utf8-local":
        sender = f"sénder{index}@sender.test"
    # A U-label in a header field makes the header UTF-8, which only a peer with SMTPUTF8 takes; in a sidecar it may always stand.
    odd = f"bücher.{peer.name}.test" if peer.utf8 or source in ("json", "toml") else f"xn--bcher-kva.{peer.name}.test"
    rcpts = _rcpts(peer, index, one_of, odd, utf8 == "utf8-local")

    fields = [f"X-Corpus-Key: {key}"]
    lacks = set()
    if index % 5 == 1:
        lacks.add("date")
    else:
        fields.append("Date: Sun, 22 Nov 2026 09:00:00 +0100")
    if index % 7 == 2:
        lacks.add("message-id")
    else:
        fields.append(f"Message-ID: <{key}@corpus.test>")
    fields.append("Subject: " + ("Grüße aus Köln" if utf8 == "utf8-header" else "folded subject,\r\n\tsecond line\r\n  third"))
    if index % 4 == 3:
        fields = ["Received: from elsewhere (HELO x)\r\n by gateway.test; Sun, 22 Nov 2026 08:00:00 +0000"] * (1 + index % 3) + fields
    if index % 11 == 5:
        fields.append("DKIM-Signature: v=1; a=rsa-sha256; d=corpus.test; s=x;\r\n\tb=" + "Zm9v" * 15)

    gone = []  # (place, field): written to the file and not sent on
    sidecar = None
    if source == "json":
        sidecar = (".json", json.dumps({"forward_path": rcpts, "reverse_path": sender or None}, ensure_ascii=False).encode())
        fields += ["From: someone@else.test", "To: list@else.test"]
    elif source == "toml":
        quote = lambda text: json.dumps(text, ensure_ascii=False)  # noqa: E731 (a TOML basic string has JSON's form)
        lines = [f"from = {quote(sender or '<>')}", f"to = [{', '.join(map(quote, rcpts))}]", f'tag = "{key}"',
                 f'priority = "{("urgent", "normal", "bulk")[index % 3]}"']
        sidecar = (".toml", "\n".join(lines).encode())
        fields += ["From: someone@else.test", "To: list@else.test"]
        gone.append((len(fields), "Bcc: nobody@secret.test,\r\n  other@secret.test"))
    elif source == "x-headers":
        gone += [(0, f"X-Sender: {sender or '<>'}")] + [(0, f"X-Receiver: {rcpt}") for rcpt in rcpts]
        fields += ["From: someone@else.test", "To: list@else.test"]
    else:
        mailbox = lambda i, r: (r, f"Name {i} <{r}>", f'"Last, First {i}" <{r}>', f"{r} (comment)")[i % 4]  # noqa: E731
        third = max(1, len(rcpts) // 3)
        to, cc, bcc = rcpts[:third], rcpts[third:2 * third], rcpts[2 * third:]
        prefix = ""
        if source == "headers-resent":
            fields += [f"From: First Author <{sender}>", "To: not-this@time.test"]
            prefix = "Resent-"
        at = 0 if prefix else len(fields)
        block = [f"{prefix}From: Some One <{sender}>"]
        if source == "headers-sender":
            block = ["From: Writer <writer@else.test>", f"Sender: {sender}"]
        if source == "headers-return-path":
            # Written by the last server of a way, so the first one does not send it on (RFC 5321 4.4).
            block = ["From: Writer <writer@else.test>"]
            gone.append((at, f"Return-Path: <{sender}>"))
        for name, list_ in (("To", to), ("Cc", cc)):
            if list_:
                block.append(f"{prefix}{name}: " + ",\r\n ".join(mailbox(i, r) for i, r in enumerate(list_)))
        fields[at:at] = block
        if bcc:
            gone.append((at + len(block), f"{prefix}Bcc: " + ",\r\n\t".join(bcc)))

    everything = list(fields)
    for place, line in reversed(gone):
        everything.insert(place, line)
    head = lambda lines: ("\r\n".join(lines) + "\r\n").encode()  # noqa: E731
    expected, file = head(fields) + body, head(everything) + body
    if not expected.endswith(b"\r\n") or (peer.ends_header and not body):
        expected += b"\r\n"
    ends = one_of(["crlf", "lf", "mixed"])
    if ends == "lf":
        file = file.replace(b"\r\n", b"\n")
    elif ends == "mixed":
        lines = file.split(b"\r\n")
        file = b"".join(line + (b"" if i == len(lines) - 1 else (b"\n", b"\r\n")[i % 2]) for i, line in enumerate(lines))
    return Sample(key, sender, sorted(set(map(canonical, rcpts))), file, expected, sidecar, frozenset(lacks), traits)


def _rcpts(peer, index, one_of, odd, utf8):
    a, b, c, d = peer.domains
    shape = one_of(["one", "three", "domains", "all-domains", "one", "repeated", "idn", "odd-locals"], 4)
    if index == 41:
        # More than one transaction's worth (smtp.recipients_per_transaction = 100).
        return [f"u{i}@{a}" for i in range(250)]
    if utf8:
        return [f"empfänger{index}@{a}", f"u{index}@{b}"]
    return {
        "one": [f"u{index}@{peer.domains[index % 4]}"],
        "three": [f"u{i}@{a}" for i in range(3)],
        "domains": [f"u@{a}", f"u@{b}"],
        "all-domains": [f"u{i}@{domain}" for domain in (a, b, c, d) for i in range(2)],
        "repeated": [f"u@{a}", f"u@{a}", f"u@{a.upper()}", f"v@{a}"],
        "idn": [f"u@{odd}"],
        "odd-locals": [f"o'neil+tag@{a}", f"{'l' * 90}@{a}", f"a.b-c_d=e@{b}"],
    }[shape]


def _body(peer, index, rng, one_of):
    """From the empty line on; canonical but for the end of its last line."""
    if index == 7:
        block = bytes(rng.choices(range(33, 127), k=76)) + b"\r\n"
        return b"\r\n" + block * (BIG // len(block)) + b"the end\r\n"
    kind = one_of(["text", "text", "dots", "eight-bit", "empty", "no-body", "no-final-newline", "long-lines", "blank-lines", "bulky", "dot-end", "binary"])
    size = (200, 2_000, 20_000, 100_000)[index % 4]
    text = b"".join(rng.choices(LINES, k=size // 40))
    if kind == "text":
        return b"\r\n" + text
    if kind == "dots":
        return b"\r\n.\r\n..\r\n...\r\n.leading\r\n..two\r\n" + text + b".\r\n..\r\n"
    if kind == "dot-end":
        return b"\r\n" + text + b"\r\n."
    if kind == "eight-bit":
        return b"\r\nK\xc3\xb6ln \xe2\x82\xac\r\nlatin \xe4\xf6\xfc\xdf\r\n" + bytes(range(128, 256)) + b"\r\n" + text
    if kind == "binary":
        line = bytes(b for b in range(1, 256) if b not in (10, 13))
        return b"\r\n" + line + b"\r\n" + line[::-1] + b"\r\n"
    if kind == "empty":
        return b"\r\n"
    if kind == "no-body":
        return b""
    if kind == "no-final-newline":
        return b"\r\n" + text + b"last line"
    if kind == "blank-lines":
        return b"\r\n" + b"\r\n" * 50 + text + b"\r\n" * 50
    if kind == "bulky":
        return b"\r\n" + text * (500_000 // (len(text) + 1) + 1)
    lengths = [n for n in (998, 999, 1000, 1001, 2047, 2048, 2049, 4096, 16_384, 65_532, 300_000) if n <= peer.max_line]
    return b"\r\n" + b"".join(bytes([97 + n % 26]) * n + b"\r\n." + b"y" * (n - 1) + b"\r\n" for n in lengths)
