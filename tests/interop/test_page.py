"""The status page in a real browser, beside a daemon with trouble in its queue."""

import json
import re

import pytest

from browser import Browser
from ns import free_port, wait_for

MARKUP = "<img src=x onerror=document.title='taken'><b>look at it</b>"
OVERRIDES = [
    {"domain": "held.test", "action": "hold", "reason": MARKUP},
    {"domain": "gone.test", "action": "reject", "reason": MARKUP},
]
# Everything that a keyboard must reach.
CONTROLS = ["a.skip", ".panel", "[name=where]", "[name=to]", "[name=from]", "[name=id]", "#form button", "#outcomes button"]


def plain(text):
    """Without what changes from one second to the next, and without breaks."""
    return " ".join(re.sub(r"\((in \w+|\w+ ago|now|cached \w+ ago)\)", "", text).split())


@pytest.fixture
def trouble(daemon):
    """A daemon with copies on hold, copies that wait, and copies that were given up; and where its page is."""
    port = free_port(["127.0.0.1"])
    refused = free_port(["127.0.0.1"])
    rules = [*OVERRIDES, {"domain": "refused.test", "server": f"127.0.0.1:{refused}"}]
    started = daemon({"control": {"listen": f"127.0.0.1:{port}"}}, rules)
    for domain in ("held", "gone", "refused"):
        for n in range(4):
            started.drop(f"{domain}{n}", f"From: s@sender.test\nTo: user{n}@{domain}.test\nSubject: x\n\ntext\n".encode())
    wait_for(lambda: started.said(), lambda: len(started.events("failed")) >= 4 and len(started.events("deferred")) >= 4, 30)
    return started, f"http://127.0.0.1:{port}/"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_shows_the_queue(trouble, tmp_path, width, scheme):
    daemon, url = trouble
    browser = Browser(width, 900, scheme)
    try:
        browser.open(url)

        def shown(name):
            return browser.run(f"document.getElementById('n-{name}')?.textContent")

        def equal():
            counts = daemon.count()
            return all(shown(name) == str(counts[key]) for name, key in [("messages", "messages"), ("held", "held"), ("waiting", "waiting")])
        wait_for(lambda: f"the numbers of {daemon.count()}: {browser.run('document.body.innerText')}", equal, 20, 0.2)
        assert shown("held") == "4"
        assert browser.run("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the window"
        ground = browser.run("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(246, 247, 249)", "dark": "rgb(17, 21, 26)"}[scheme]

        # By the keyboard alone, each focus to be seen.
        reached = set()
        for _ in range(60):
            browser.press("Tab", 9)
            found = browser.run(f"""JSON.stringify([{json.dumps(CONTROLS)}.filter((selector) => document.activeElement.matches(selector)),
                getComputedStyle(document.activeElement).outlineStyle])""")
            matches, outline = json.loads(found)
            reached.update(matches)
            assert not matches or outline != "none", matches
        assert reached == set(CONTROLS)

        # A search, and the way of a message that it found.
        browser.run("document.querySelector('[name=to]').value = '*@held.test'; document.querySelector('#form button').focus()")
        browser.press("Enter", 13)
        wait_for("4 lines", lambda: browser.run("document.getElementById('found').textContent") == "4 lines", 10, 0.1)
        browser.run("document.querySelector('#results button').focus()")
        browser.press("Enter", 13)
        steps = "[...document.querySelectorAll('#message .chain b')].map((step) => step.textContent).join(' ')"
        wait_for("the chain", lambda: (browser.run(steps) or "").startswith("Accepted"), 10, 0.1)
        titles = browser.run(steps)
        assert re.fullmatch(r"Accepted user\d@held\.test Route now Next", titles), titles
        text = browser.run("document.getElementById('message').innerText")
        assert re.search(r"on hold by the override at line \d+: " + re.escape(MARKUP), text), text
        assert "nothing before it is released" in text, text
        # The very words of the command line, but for the time that has passed since.
        shown = browser.run("document.getElementById('message-title').textContent").split()[-1]
        told = json.loads(daemon.command("queue", "why", shown, "--json"))
        for line in [told["standing"]["text"], *(line["text"] for step in told["steps"] for line in step["lines"])]:
            assert plain(line) in plain(text), (line, text)
        assert browser.run("document.getElementById('message-actions').hidden"), "it changes nothing"
        assert browser.run("document.documentElement.scrollWidth <= innerWidth"), "the message is wider than the window"
        browser.screenshot(tmp_path / "message.png")
        browser.press("Escape", 27)
        assert not browser.run("document.getElementById('message').open")

        # What was said stays text.
        assert browser.run("document.querySelectorAll('img, main b, main script').length") == 0
        assert browser.run("document.title").startswith("smtp-direct")
        browser.screenshot(tmp_path / "page.png")
        assert browser.problems == []
    finally:
        browser.close()
