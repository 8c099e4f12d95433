"use strict";
// Shows what the control API says. Whatever a peer or a sender has said is put in as text; nothing here makes HTML of text.

const POLL = 2000;
const WINDOW = 300;
const BAR = 10;
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const mayAct = document.documentElement.dataset.actions === "yes";

/** Whole seconds since the daemon's start, with what happened in them. */
const seconds = new Map();
let startedAt = "";
let lastOutcome = 0;
let outcomes = [];
let timer = 0;
let clock = Date.now();
let shown = null;

const number = (n) => n.toLocaleString("en");

function span(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

function size(octets) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (octets >= 1024 && unit < units.length - 1) { octets /= 1024; unit += 1; }
  return `${unit ? octets.toFixed(1) : octets} ${units[unit]}`;
}

function relative(at) {
  const ms = Date.parse(at) - clock;
  if (Math.abs(ms) < 1000) return "now";
  return ms > 0 ? `in ${span(ms)}` : `${span(-ms)} ago`;
}

/** An element with attributes, and with children that are elements or text. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "click") element.addEventListener("click", value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const said = (text, tone) => make("span", { class: tone ? `said ${tone}` : "said" }, text);

function setText(element, text, tone) {
  if (element.textContent !== text) element.textContent = text;
  if (tone !== undefined) element.className = tone;
}

/** Makes the children of `parent` those of `items`, and keeps what is there for the same key: with the focus that may be in it. */
function sync(parent, items, key, build) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    const state = JSON.stringify(item);
    let child = old.get(name);
    old.delete(name);
    if (!child || child.dataset.state !== state) {
      const made = build(item);
      made.dataset.key = name;
      made.dataset.state = state;
      if (child) {
        const focused = child.contains(document.activeElement);
        if (place === child) place = made;
        child.replaceWith(made);
        if (focused) made.querySelector("button")?.focus({ preventScroll: true });
      }
      child = made;
    }
    if (place === child) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const gone of old.values()) gone.remove();
}

async function call(path, body) {
  const options = { cache: "no-store", headers: {} };
  if (body) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error || `status ${answer.status}`);
  return value;
}

async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const [status, rates, sites, shape] =
      await Promise.all(["/v1/status", "/v1/throughput", "/v1/sites", "/v1/queue/shape"].map((path) => call(path)));
    clock = Date.parse(status.now);
    if (status.started_at !== startedAt) {
      startedAt = status.started_at;
      lastOutcome = 0;
      outcomes = [];
      seconds.clear();
    }
    const fresh = (await call(`/v1/outcomes/recent?after=${lastOutcome}`)).outcomes;
    if (fresh.length) lastOutcome = fresh[fresh.length - 1].number;
    outcomes = [...outcomes, ...fresh].slice(-100);
    showStatus(status);
    showRates(rates);
    showBacklog(shape);
    showSites(sites.sites);
    showOutcomes();
    setText($("link"), "", "");
  } catch (error) {
    setText($("link"), `No answer: ${error.message}. Trying again.`, "bad");
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(poll, POLL);
}

function showStatus(status) {
  const { queue, workers, sites, throughput } = status;
  setText($("host"), status.hostname);
  document.title = `smtp-direct ${status.hostname}`;
  setText($("daemon"), `${status.version}, ${status.state}, up ${span(clock - Date.parse(status.started_at))}, ${number(throughput.total.delivered)} delivered since${status.intake_reason ? `. No files are taken: ${status.intake_reason}` : ""}`, status.intake_reason ? "bad" : "");
  setText($("n-delivered"), number(throughput.second.delivered));
  setText($("n-messages"), number(queue.messages));
  setText($("n-due"), number(queue.due));
  setText($("n-waiting"), number(queue.waiting));
  setText($("n-sending"), number(queue.sending));
  setText($("n-held"), number(queue.held), queue.held ? "warn" : "");
  setText($("n-doubt"), number(queue.in_doubt), queue.in_doubt ? "warn" : "");
  setText($("n-workers"), `${number(workers.busy)} of ${number(workers.total)}`, workers.busy >= workers.total ? "warn" : "");
  setText($("n-down"), number(sites.down), sites.down ? "bad" : "");
  setText($("n-paused"), number(sites.paused), sites.paused ? "warn" : "");
  setText($("n-oldest"), queue.oldest ? span(clock - Date.parse(queue.oldest)) : "–");
  setText($("n-octets"), size(queue.octets));
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function showRates({ elapsed, seconds: counts }) {
  counts.forEach((count, n) => {
    const second = elapsed - counts.length + n;
    if (second >= 0) seconds.set(second, count);
  });
  for (const second of seconds.keys()) if (second < elapsed - WINDOW) seconds.delete(second);
  const at = (n) => seconds.get(elapsed - WINDOW + n);
  const known = [...seconds.values()];
  const peak = Math.max(1, ...known.flatMap((count) => [count.accepted, count.delivered]));
  const line = (name) => {
    const points = [];
    for (let n = 0; n < WINDOW; n += 1) {
      const count = at(n);
      if (count) points.push(`${n},${(98 - (count[name] / peak) * 94).toFixed(1)}`);
    }
    return shape("polyline", { class: name, points: points.join(" ") });
  };
  $("rate").replaceChildren(line("delivered"), line("accepted"));
  setText($("rate-peak"), `highest ${number(peak)}`);
  const last = seconds.get(elapsed - 1) || { accepted: 0, delivered: 0 };
  $("rate").setAttribute("aria-label", `In the last second ${last.accepted} accepted and ${last.delivered} delivered; highest ${peak}`);

  const names = ["delivered", "deferred", "failed"];
  // Bars begin at whole multiples of their length, so that they do not change as they move.
  const first = Math.ceil((elapsed - WINDOW) / BAR);
  const sums = [];
  for (let bar = first; bar * BAR < elapsed; bar += 1) {
    const sum = { bar, delivered: 0, deferred: 0, failed: 0 };
    for (let n = 0; n < BAR; n += 1) {
      const count = seconds.get(bar * BAR + n);
      if (count) names.forEach((name) => { sum[name] += count[name]; });
    }
    sums.push(sum);
  }
  const most = Math.max(1, ...sums.map((sum) => sum.delivered + sum.deferred + sum.failed));
  const bars = [];
  for (const sum of sums) {
    let base = 100;
    for (const name of names) {
      const height = (sum[name] / most) * 96;
      if (!height) continue;
      base -= height;
      bars.push(shape("rect", { class: name, x: sum.bar * BAR - (elapsed - WINDOW) + 1, width: BAR - 2, y: base.toFixed(1), height: height.toFixed(1) }));
    }
  }
  $("bars").replaceChildren(...bars);
  setText($("bars-peak"), `highest ${number(most)}`);
  const total = (name) => known.reduce((sum, count) => sum + count[name], 0);
  $("bars").setAttribute("aria-label", `In the last minutes ${total("delivered")} delivered, ${total("deferred")} deferred, ${total("failed")} failed`);
}

function health(site) {
  if (site.paused) return ["paused", "tone-deferred"];
  if (site.health.state === "down") return [`down for ${span(Date.parse(site.health.until) - clock)}`, "tone-failed"];
  if (site.health.state === "unproven") return ["unproven", "tone-deferred"];
  return site.throttled_for === null ? ["up", "tone-delivered"] : ["at its rate", "tone-deferred"];
}

function showSites(sites) {
  const trouble = (site) => (site.paused || site.health.state !== "up" ? 1 : 0);
  const sorted = [...sites].sort((a, b) => trouble(b) - trouble(a) || b.copies - a.copies || (a.name < b.name ? -1 : 1));
  sync($("sites"), sorted, (site) => site.name, (site) => {
    const [word, tone] = health(site);
    let reply = site.last ? `${site.last.outcome} ${relative(site.last.at)}: ${site.last.text}` : "";
    if (site.health.error) reply = site.health.error;
    if (site.paused) reply = `paused by ${site.paused.by}: ${site.paused.reason}`;
    const more = site.parked_domains ? `, and more for ${number(site.parked_domains)} domains` : "";
    return make("li", {}, said(site.name), make("span", { class: `badge ${tone}` }, word),
      make("span", { class: "wide" }, `${number(site.copies)} waiting${more}; ${number(site.sessions)} of ${number(site.limit)} sessions; ${number(site.delivered)} delivered, ${number(site.deferred)} deferred, ${number(site.failed)} failed`),
      reply ? make("span", { class: "wide" }, said(reply)) : null);
  });
  $("sites-empty").hidden = sites.length > 0;
}

const opener = (id) => make("button", { type: "button", class: "id", click: () => openMessage(id), "aria-label": `Message ${id}` }, id);

function showOutcomes() {
  sync($("outcomes"), [...outcomes].reverse(), (line) => String(line.number), (line) =>
    make("li", {}, said(line.to), make("span", { class: `badge tone-${line.outcome}` }, line.outcome),
      make("span", { class: "wide" }, `${line.at.slice(11, 19)}Z `, said(line.host ? `${line.host}: ${line.text}` : line.text)),
      make("span", { class: "wide" }, opener(line.id))));
  $("outcomes-empty").hidden = outcomes.length > 0;
}

async function openMessage(id) {
  shown = id;
  setText($("message-title"), `Message ${id}`);
  setText($("message-said"), "");
  $("message-body").replaceChildren(make("p", {}, "Reading"));
  if (!$("message").open) $("message").showModal();
  await readMessage(id);
}

async function readMessage(id) {
  try {
    const message = await call(`/v1/messages/${encodeURIComponent(id)}/why`);
    if (shown !== id) return;
    $("message-actions").hidden = !mayAct || message.finished_at !== null;
    $("message-body").replaceChildren(...message.copies.flatMap(chain));
  } catch (error) {
    if (shown === id) $("message-body").replaceChildren(make("p", { class: "bad" }, error.message));
  }
}

/** One copy's way, in the daemon's words. */
function chain(copy) {
  const tones = { soft: "soft", good: "tone-delivered", warn: "tone-deferred", bad: "tone-failed" };
  const word = ({ text, tone, level }) => make("div", { class: `${tones[tone] || ""} level-${level}` }, said(text));
  const step = ({ step: name, titles, lines }) =>
    make("li", name === "now" ? { class: "is-now" } : {}, ...titles.map((title) => make("b", {}, said(title))), ...lines.map(word));
  return [make("h3", {}, "Copy to ", said(copy.domain), ": ", said(copy.standing.text)), make("ol", { class: "chain" }, ...copy.steps.map(step))];
}

function ask(action) {
  const words = { retry: "Retry now?", hold: "Hold?", release: "Release?" };
  setText($("confirm-title"), words[action]);
  setText($("confirm-yes"), words[action].replace("?", ""));
  $("confirm").returnValue = "no";
  // The reason of an order that was not given is not that of the next one.
  $("confirm-form").reset();
  $("confirm").dataset.action = action;
  $("confirm").showModal();
}

async function act() {
  if ($("confirm").returnValue !== "yes") return;
  const { action } = $("confirm").dataset;
  const reason = $("confirm-form").elements.reason.value;
  try {
    const result = await call(`/v1/queue/${action}`, { ids: [shown], reason });
    setText($("message-said"), result.results.map((line) => `${line.domain || line.id}: ${line.text}`).join("; "));
  } catch (error) {
    setText($("message-said"), error.message);
  }
  await readMessage(shown);
}

document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : poll()));
$("message-close").addEventListener("click", () => $("message").close());
$("message").addEventListener("close", () => { shown = null; });
$("confirm").addEventListener("close", act);
for (const button of document.querySelectorAll("[data-action]")) button.addEventListener("click", () => ask(button.dataset.action));
