"""The status page in a real browser, beside a daemon with trouble in its queue: what it shows, what can be done there, and who may."""

import json
import re

import pytest

import peers
from browser import Browser
from ns import free_port, wait_for
from oracle import HOSTNAME

MARKUP = "<img src=x onerror=document.title='taken'><b>look at it</b>"
OVERRIDES = [
    {"domain": "held.test", "action": "hold", "reason": MARKUP},
    {"domain": "gone.test", "action": "reject", "reason": MARKUP},
]
# Everything that a keyboard must reach.
FIELDS = ["to", "from", "domain", "message_id", "id", "state", "since", "until"]
CONTROLS = ["a.skip", ".panel", "[name=where]", *(f"[name={field}]" for field in FIELDS), "#form button", "#outcomes button"]


def plain(text):
    """Without what changes from one second to the next, and without breaks."""
    return " ".join(re.sub(r"\((in \w+|\w+ ago|now|cached \w+ ago)\)", "", text).split())


@pytest.fixture
def trouble(daemon):
    """A daemon with copies on hold, copies that wait, and copies that were given up; and where its page is."""
    started, url = serving(daemon)
    for domain in ("held", "gone", "refused"):
        drop(started, domain, 4)
    wait_for(lambda: started.said(), lambda: len(started.events("failed")) >= 4 and len(started.events("deferred")) >= 4, 30)
    return started, url


def serving(daemon, control=None, files=None):
    """A daemon with the page, and where that is; mail to refused.test waits, as nobody listens there."""
    refused = {"domain": ["refused.test", "*.refused.test"], "server": f"127.0.0.1:{free_port(['127.0.0.1'])}"}
    started = daemon({"control": {"listen": "127.0.0.1:0", **(control or {})}}, [*OVERRIDES, refused], files)
    address = started.wait_event("status page")["address"]
    return started, f"http://{address}/"


def drop(daemon, domain, count):
    for n in range(count):
        daemon.drop(f"{domain}{n}", f"From: s@sender.test\nTo: user{n}@{domain}.test\nMessage-ID: <{n}@{domain}.test>\nSubject: x\n\ntext\n".encode())


@pytest.fixture
def browse():
    """Opens a page in a browser."""
    opened = []

    def start(url, width=1280, height=900, scheme="light"):
        opened.append(Browser(width, height, scheme))
        opened[-1].open(url)
        becomes(opened[-1], "document.readyState + location.protocol", "completehttp:")
        return opened[-1]
    yield start
    for browser in opened:
        browser.close()


def becomes(browser, script, value, seconds=15):
    """Waits until an expression has a value."""
    wait_for(lambda: f"{script} = {value!r}, not {browser.run(script)!r}", lambda: browser.run(script) == value, seconds, 0.1)


def text_of(selector):
    return f"document.querySelector({json.dumps(selector)})?.textContent"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_shows_the_queue(trouble, browse, tmp_path, width, scheme):
    daemon, url = trouble
    browser = browse(url, width, scheme=scheme)

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
    becomes(browser, text_of("#found"), "4 lines")
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


def search(browser, where, **fields):
    """Fills the form in and sends it."""
    values = json.dumps({name: fields.get(name, "") for name in [*FIELDS, "outcome"]})
    browser.run(f"""document.querySelector('[name=where][value={where}]').click();
        for (const [name, value] of Object.entries({values})) document.getElementById('form').elements[name].value = value;
        document.querySelector('#form button').click()""")


@pytest.mark.parametrize("width", [360, 1280])
def test_queue_and_history_are_searched_in_pages(daemon, browse, width):
    started, url = serving(daemon)
    drop(started, "held", 120)
    drop(started, "gone", 3)
    wait_for(started.said, lambda: len(started.events("failed")) >= 3 and started.count()["held"] == 120, 60)
    browser = browse(url, width)
    results = "document.querySelectorAll('#results > li').length"
    for where, fields, found in [
        ("queue", {"domain": "held.test"}, "50 of 120 lines"),
        ("queue", {"state": "queued", "domain": "held.test"}, "Nothing was found."),
        ("queue", {"state": "held", "message_id": "7@held.test"}, "1 line"),
        ("queue", {"until": "1h"}, "Nothing was found."),
        ("history", {"outcome": "failed", "to": "*@gone.test", "since": "1h"}, "3 lines"),
        ("history", {"domain": "gone.test", "message_id": "<2@*"}, "1 line"),
        ("history", {"outcome": "expired"}, "Nothing was found."),
        ("history", {"since": "soon"}, 'since=soon: write it as "2h", "2026-09-21" or "2026-09-21 14:13:20", or as a number of seconds'),
    ]:
        search(browser, where, **fields)
        becomes(browser, text_of("#found"), found)
        # Each list has a choice of its own.
        assert browser.run("['state', 'outcome'].map((name) => document.getElementById(`${name}-field`).checkVisibility())") == [where == "queue", where == "history"]
    # The one that was refused with a word on the console is no problem of the page.
    assert [problem for problem in browser.problems if "400" not in problem] == []

    search(browser, "queue", to="*@held.test")
    becomes(browser, text_of("#found"), "50 of 120 lines")
    for shown, words in [(100, "100 of 120 lines"), (120, "120 lines")]:
        browser.run("document.getElementById('more').focus()")
        browser.press("Enter", 13)
        becomes(browser, text_of("#found"), words)
        assert browser.run(results) == shown
        # The keyboard goes on where the new lines begin.
        assert browser.run("[...document.querySelectorAll('#results button')].indexOf(document.activeElement)") == shown - (50 if shown == 100 else 20)
    assert browser.run("document.getElementById('more').hidden")
    assert browser.run("new Set([...document.querySelectorAll('#results button')].map((button) => button.textContent)).size") == 120
    assert browser.run("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the window"


def test_what_waits_is_shown_by_site_and_its_domains_are_opened_by_the_keyboard(daemon, browse):
    started, url = serving(daemon)
    drop(started, "refused", 3)
    drop(started, "a.refused", 2)
    drop(started, "held", 1)
    wait_for(started.said, lambda: len(started.events("deferred")) >= 5 and started.count()["held"] == 1, 30)
    browser = browse(url, 360)
    rows = """[...document.querySelectorAll('#backlog tbody tr')].map((row) =>
        `${row.querySelector('.said').textContent.replace(/:\\d+/, '')} ${[...row.querySelectorAll('td')].reduce((sum, cell) => sum + (Number(cell.textContent) || 0), 0)}`).join('; ')"""
    becomes(browser, rows, "1 127.0.0.1 5; held.test 1")
    button = "document.querySelector('#backlog button')"
    assert browser.run(f"{button}.textContent + ' ' + {button}.ariaExpanded") == "2 domains false"
    assert browser.run(f"{button}.getBoundingClientRect().top >= document.querySelector('#backlog .said').getBoundingClientRect().bottom"), "it is glued to the name"
    browser.run(f"{button}.focus()")
    browser.press("Enter", 13)
    becomes(browser, rows, "1 127.0.0.1 5; refused.test 3; a.refused.test 2; held.test 1")
    # It is made anew as it changes, and keeps the focus, open and closed.
    assert browser.run(f"{button}.ariaExpanded + (document.activeElement === {button})") == "truetrue"
    drop(started, "b.refused", 1)
    becomes(browser, f"{button}.textContent", "3 domains")
    assert browser.run(f"{button}.ariaExpanded + (document.activeElement === {button})") == "truetrue"
    browser.press("Enter", 13)
    becomes(browser, rows, "1 127.0.0.1 6; held.test 1")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the window"
    assert browser.problems == []


TOKEN = "a-token.of_the~test-1"


def test_a_token_opens_the_page_and_stays_out_of_sight(daemon, browse):
    started, url = serving(daemon, {"token_file": "token"}, {"token": TOKEN})
    for wrong in ["", "?token=a-token.of_the~test-2"]:
        refused = browse(url + wrong)
        assert "open this page once as" in refused.run("document.body.innerText")
        assert refused.run("fetch('/v1/status').then((answer) => answer.status)") == 401
    browser = browse(f"{url}?token={TOKEN}")
    becomes(browser, text_of("#host"), HOSTNAME)
    assert browser.run("location.pathname + location.search") == "/"
    # Neither the page's own script nor what it shows has it.
    assert browser.run("document.cookie + localStorage.length + document.documentElement.outerHTML.includes('of_the')") == "0false"
    browser.open(url)
    becomes(browser, text_of("#host"), HOSTNAME)
    assert TOKEN not in started.said()
    assert browser.problems == []


def order(browser, action, reason, confirm):
    """Opens the dialog of an order by the keyboard, and confirms it or thinks better of it."""
    browser.run(f"document.querySelector('[data-action={action}]').focus()")
    browser.press("Enter", 13)
    becomes(browser, "document.getElementById('confirm').open", True)
    assert browser.run("document.activeElement.name") == "reason"
    browser.call("Input.insertText", text=reason)
    if confirm:
        browser.press("Enter", 13)
    else:
        browser.press("Escape", 27)
    becomes(browser, "document.getElementById('confirm').open", False)


@pytest.mark.parametrize("width", [360, 1280])
def test_orders_given_on_the_page_are_carried_out(daemon, browse, width):
    started, url = serving(daemon, {"token_file": "token", "allow_actions": True}, {"token": TOKEN})
    drop(started, "refused", 2)
    wait_for(started.said, lambda: len(started.events("deferred")) >= 2, 30)
    browser = browse(f"{url}?token={TOKEN}", width)
    search(browser, "queue", to="user0@refused.test")
    becomes(browser, text_of("#found"), "1 line")
    browser.run("document.querySelector('#results button').click()")
    becomes(browser, "document.getElementById('message-actions').checkVisibility()", True)
    said = text_of("#message-said")

    order(browser, "hold", "not meant", confirm=False)
    assert (started.events("held"), started.count()["held"]) == ([], 0)
    order(browser, "hold", "let me look", confirm=True)
    becomes(browser, said, "refused.test: held")
    assert started.count()["held"] == 1
    held = started.wait_event("held")
    assert (held["reason"], held["by"]) == ("let me look", "status page, 127.0.0.1"), held
    becomes(browser, "document.getElementById('message-body').innerText.includes('let me look')", True)
    order(browser, "retry", "", confirm=True)
    becomes(browser, said, "refused.test: is on hold: release it")
    order(browser, "release", "", confirm=True)
    becomes(browser, said, "refused.test: released")
    wait_for(started.said, lambda: started.count()["held"] == 0 and len(started.events("deferred")) >= 3, 30)
    order(browser, "retry", "again", confirm=True)
    becomes(browser, said, "refused.test: retried")
    wait_for(started.said, lambda: len(started.events("deferred")) >= 4, 30)
    assert {event["to"] for event in started.events("deferred")[2:]} == {"user0@refused.test"}
    detail = json.loads(started.command("queue", "show", "--json", held["id"]))
    assert [action["action"] for action in detail["actions"]] == ["hold", "release", "retry"], detail["actions"]
    assert browser.problems == []


def drawn(browser):
    """What the plots show: accepted and delivered by the lines, outcomes by the bars."""
    return browser.run("""(() => {
        const high = (id) => Number(document.getElementById(id).textContent.replace('highest ', ''));
        const sum = (numbers) => Math.round([...numbers].reduce((all, one) => all + one, 0));
        const line = (name) => sum((document.querySelector(`#rate .${name}`)?.getAttribute('points') || '').split(' ').filter(Boolean)
            .map((point) => Math.round((98 - Number(point.split(',')[1])) / 94 * high('rate-peak'))));
        const bars = (name) => sum([...document.querySelectorAll(`#bars .${name}`)].map((bar) => Math.round(bar.getAttribute('height') / 96 * high('bars-peak'))));
        return { lines: [line('accepted'), line('delivered')], bars: [bars('delivered'), bars('deferred'), bars('failed')] };
    })()""")


def test_the_plots_draw_what_was_delivered(daemon, browse, peer):
    peer(peers.Aiosmtpd)
    started, url = serving(daemon)
    browser = browse(url)
    wait_for("the plots", lambda: drawn(browser) == {"lines": [0, 0], "bars": [0, 0, 0]}, 15, 0.1)
    drop(started, "a.aio", 30)
    drop(started, "refused", 3)
    drop(started, "gone", 2)
    # Two reports to the sender on top, whom the peer serves as well; nobody dropped those.
    wait_for(started.said, lambda: [len(started.events(verb)) for verb in ("delivered", "deferred", "failed")] == [32, 3, 2], 60)
    wait_for(lambda: f"the plots: {drawn(browser)}", lambda: drawn(browser) == {"lines": [35, 32], "bars": [32, 3, 2]}, 20, 0.2)
    assert browser.run("document.getElementById('bars').getAttribute('aria-label')") == "In the last minutes 32 delivered, 3 deferred, 2 failed"
    # All of it has just happened: at the right end, and within the picture.
    places = browser.run("[...document.querySelectorAll('#bars rect')].map((bar) => [Number(bar.getAttribute('x')), Number(bar.getAttribute('y'))])")
    assert places and all(200 <= x <= 300 and 0 <= y <= 100 for x, y in places), places
    assert browser.problems == []


def test_a_message_tells_why(daemon, browse, peer):
    peer(peers.Aiosmtpd)
    started, url = serving(daemon)
    drop(started, "refused", 1)
    drop(started, "a.aio", 1)
    waits, came = started.wait_event("deferred"), started.wait_event("delivered")
    browser = browse(url)

    def way(where, to):
        search(browser, where, to=to)
        becomes(browser, text_of("#found"), "1 line")
        browser.run("document.querySelector('#results button').click()")
        wait_for("its way", lambda: browser.run("document.querySelectorAll('#message .chain li').length"), 10, 0.1)
        shown = browser.run("document.getElementById('message').innerText")
        browser.press("Escape", 27)
        return shown

    shown = way("queue", "*@refused.test")
    for words in [waits["id"], "refused0.eml", "user0@refused.test", "override", "Attempt 1", "refused", "Now", "Next"]:
        assert words in shown, f"{words}: {shown}"
    shown = way("history", "*@a.aio.test")
    for words in [came["id"], "a.aio0.eml", "<0@a.aio.test>", came["host"], "Attempt 1", "delivered", "finished"]:
        assert words in shown, f"{words}: {shown}"
    assert browser.problems == []
