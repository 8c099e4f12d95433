#!/usr/bin/env python3
"""Checks reports (files named as arguments) with parsers of other people: Python's email and flufl.bounce.

Each must have three parts of the right types, each recipient the fields that RFC 3464 requires, and flufl.bounce must name the failed
addresses as permanent failures and the delayed ones as temporary. Prints what it found; exit code 0 if all is well, 1 if not.

Needs: pip install flufl.bounce. The samples: cargo test --test dsn, then the files in target/tmp/dsn/.
"""

import sys
from email import message_from_bytes, message_from_string, policy
from email.message import Message
from email.utils import parsedate_to_datetime

from flufl.bounce import all_failures, scan_message

STATUS = {"message/delivery-status", "message/global-delivery-status"}
ORIGINAL = {"message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers"}
SUBJECTS = {
    "failed": "Undelivered mail returned to sender",
    "delayed": "Delayed mail (still being retried)",
    "relayed": "Successful mail delivery report",
}


def groups(part: Message) -> list[Message]:
    """The groups of fields. Python parses message/delivery-status into them, and leaves the international form as one message."""
    if part.get_content_type() == "message/delivery-status":
        return part.get_payload()
    first = part.get_payload(0)
    head = "".join(f"{name}: {value}\n" for name, value in first.raw_items())
    text = f"{head}\n{first.get_payload(decode=True).decode()}".replace("\r\n", "\n").strip()
    return [message_from_string(group) for group in text.split("\n\n")]


def check(path: str) -> list[str]:
    """What is wrong with a report."""
    faults: list[str] = []

    def expect(fact: bool, what: str) -> None:
        if not fact:
            faults.append(what)

    with open(path, "rb") as file:
        octets = file.read()
    expect(b"\n" not in octets.replace(b"\r\n", b""), "lines do not all end in CRLF")
    message = message_from_bytes(octets)
    expect(message.get_content_type() == "multipart/report", f"is {message.get_content_type()}")
    expect(message.get_param("report-type") == "delivery-status", f"report-type is {message.get_param('report-type')}")
    expect(message["Auto-Submitted"] == "auto-replied", "is not marked as an automatic reply")
    for name in ("From", "To", "Subject", "Date", "Message-ID", "MIME-Version"):
        expect(len(message.get_all(name, [])) == 1, f"{name} stands there {len(message.get_all(name, []))} times")
    strict = message_from_bytes(octets, policy=policy.default)
    defects = [defect for part in strict.walk() for defect in part.defects if part is strict or not part.get_content_type() in ORIGINAL]
    expect(not defects, f"defects: {defects}")

    parts = message.get_payload() if message.is_multipart() else []
    types = [part.get_content_type() for part in parts]
    expect(len(parts) == 3, f"has the parts {types}")
    if len(parts) != 3:
        return faults
    expect(types[0] == "text/plain" and types[1] in STATUS and types[2] in ORIGINAL, f"has the parts {types}")
    text = parts[0].get_payload(decode=True).decode("utf-8")

    per_message, *recipients = groups(parts[1])
    expect(per_message["Reporting-MTA"] is not None, "no Reporting-MTA")
    parsedate_to_datetime(per_message["Arrival-Date"])
    expect(bool(recipients), "no recipient")
    actions: dict[str, set[str]] = {"failed": set(), "delayed": set(), "relayed": set()}
    for group in recipients:
        # The raw field: Python's own view of it drops what is not ASCII.
        raw = dict(group.raw_items())["Final-Recipient"]
        address = raw.encode("utf-8", "surrogateescape").decode().split(";", 1)[1].strip()
        expect(address in text, f"{address} is not in the text for people")
        action = group["Action"]
        expect(action in actions, f"{address}: action {action}")
        actions.setdefault(action, set()).add(address.lower())
        expect(group["Status"] is not None and group["Status"][0] in "245", f"{address}: status {group['Status']}")
        expect((group["Will-Retry-Until"] is not None) == (action == "delayed"), f"{address}: Will-Retry-Until and action {action}")
    worst = next(action for action in SUBJECTS if actions[action])
    expect(message["Subject"] == SUBJECTS[worst], f"subject {message['Subject']!r} for action {worst}")

    if types[1] == "message/delivery-status":
        temporary, permanent = (
            {address.decode().lower() for address in addresses} for addresses in all_failures(message_from_bytes(octets))
        )
        expect(permanent == actions["failed"], f"flufl.bounce finds permanent {permanent}, expected {actions['failed']}")
        expect(temporary == actions["delayed"], f"flufl.bounce finds temporary {temporary}, expected {actions['delayed']}")
        scanned = {address.decode().lower() for address in scan_message(message_from_bytes(octets))}
        expect(scanned == actions["failed"], f"flufl.bounce scans {scanned}, expected {actions['failed']}")
        print(f"{path}: {types[2]}, permanent {sorted(permanent)}, temporary {sorted(temporary)}")
    else:
        print(f"{path}: {types[1]}, {types[2]}, {actions} (flufl.bounce does not read this form)")
    return faults


def main() -> int:
    """The command."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 64
    failed = 0
    for path in sys.argv[1:]:
        try:
            faults = check(path)
        except Exception as error:  # A report that a parser chokes on is what this looks for.
            faults = [f"{type(error).__name__}: {error}"]
        for fault in faults:
            print(f"{path}: WRONG: {fault}")
        failed += bool(faults)
    print(f"{len(sys.argv) - 1} reports, {failed} wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
