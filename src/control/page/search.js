// The search: takes the form's fields, shows the queue or the history in pages, and how much there is of it.

const PAGE = 50;
const OF_QUEUE = ["to", "from", "domain", "message_id", "id", "state", "since", "until"];
const OF_HISTORY = ["to", "from", "domain", "message_id", "id", "outcome", "since", "until"];
/** What is on show: where it is from, the query, its next page, how much there is. A later search takes its place. */
let listing = null;

function searched(event) {
  event.preventDefault();
  const fields = new FormData($("form"));
  const where = fields.get("where");
  const query = (where === "queue" ? OF_QUEUE : OF_HISTORY)
    .map((name) => [name, fields.get(name).trim()])
    .filter(([, value]) => value)
    .map(([name, value]) => `&${name}=${encodeURIComponent(value)}`).join("");
  listing = { where, query, next: null, shown: 0, count: 0 };
  $("results").replaceChildren();
  return readPage(listing);
}

/** The first page, which counts, or the one after those that are shown. */
async function readPage(list) {
  setText($("found"), "Searching");
  $("more").disabled = true;
  try {
    const place = list.next === null ? "&count=true" : `&cursor=${encodeURIComponent(list.next)}`;
    const answer = await call(`/v1/${list.where}?limit=${PAGE}${list.query}${place}`);
    if (list !== listing) return;
    const lines = (list.where === "queue" ? answer.copies.map(waiting) : answer.outcomes.map(ended));
    list.count = answer.count === null ? list.count : answer.count;
    list.next = answer.next;
    list.shown += lines.length;
    $("results").append(...lines);
    // What ended or came meanwhile is not counted again.
    const many = Math.max(list.count, list.shown);
    const words = many === 1 ? "1 line" : `${number(many)} lines`;
    setText($("found"), many === 0 ? "Nothing was found." : list.next ? `${number(list.shown)} of ${words}` : words);
    // The button may go: the focus goes on with the list.
    if (list.shown > lines.length) lines[0]?.querySelector("button").focus();
  } catch (error) {
    if (list === listing) setText($("found"), error.message);
  }
  if (list !== listing) return;
  $("more").disabled = false;
  $("more").hidden = !list.next;
}

function waiting(copy) {
  const to = copy.to.length > 1 ? `${copy.to[0]} and ${number(copy.to.length - 1)} more` : copy.to[0] || copy.domain;
  const next = copy.state === "queued" ? `next ${relative(copy.due_at)}` : copy.state;
  const tone = copy.state === "held" ? "tone-deferred" : copy.state === "sending" ? "tone-delivered" : "";
  return make("li", {}, said(to), make("span", { class: `badge ${tone}` }, next),
    make("span", { class: "wide" }, "from ", said(copy.from || "<>"), `, ${size(copy.size)}, accepted ${relative(copy.accepted_at)}, ${number(copy.attempts)} attempts`, copy.in_doubt ? ", was in doubt" : ""),
    copy.last ? make("span", { class: "wide" }, said(copy.last)) : null,
    make("span", { class: "wide" }, opener(copy.id)));
}

function ended(line) {
  return make("li", {}, said(line.to), make("span", { class: `badge tone-${line.outcome}` }, line.outcome),
    make("span", { class: "wide" }, `${relative(line.at)}, from `, said(line.from || "<>"), `, ${number(line.attempts)} attempts: `, said(line.text)),
    make("span", { class: "wide" }, opener(line.id)));
}

function whereChanged() {
  const queue = $("form").elements.where.value === "queue";
  $("state-field").hidden = !queue;
  $("outcome-field").hidden = queue;
}

$("form").addEventListener("submit", searched);
$("more").addEventListener("click", () => readPage(listing));
for (const radio of $("form").elements.where) radio.addEventListener("change", whereChanged);
// A browser that comes back keeps what was chosen.
whereChanged();
