// The shape of what waits: a row a site, its domains below it where they are asked for, a column an age.

/** Sites whose domains are on show. */
const opened = new Set();
let lastShape = null;

function showBacklog(queueShape) {
  lastShape = queueShape;
  const { ages, sites, others } = queueShape;
  const heads = $("ages");
  if (heads.children.length === 1) {
    ages.forEach((age, n) => {
      const text = n + 1 < ages.length ? `< ${span(ages[n + 1] * 1000)}` : `≥ ${span(age * 1000)}`;
      heads.append(make("th", { scope: "col" }, text));
    });
  }
  // The shade is of all rows: with another peak, all are made anew.
  const most = Math.max(1, ...sites.flatMap((line) => line.by_age));
  const rows = sites.flatMap((line) => siteRows(line, most));
  if (others) rows.push({ key: "", name: `${number(others.sites)} others`, note: `${number(others.domains)} domains`, line: others, most });
  sync($("backlog").tBodies[0], rows, (row) => row.key, backlogRow);
  $("backlog").hidden = rows.length === 0;
  $("backlog-empty").hidden = rows.length > 0;
}

/** The row of a site, and those of its domains. */
function siteRows(line, most) {
  const [first] = line.domains;
  if (line.site === null) return [{ key: `domain ${first.domain}`, name: first.domain, note: "no site yet", line, most }];
  const count = line.domains.length + line.other_domains;
  if (count === 1) return [{ key: line.site, name: line.site, note: first.domain, line, most }];
  const open = opened.has(line.site);
  const rows = [{ key: line.site, name: line.site, toggles: line.site, open, count, line, most }];
  if (!open) return rows;
  for (const one of line.domains) rows.push({ key: `${line.site} ${one.domain}`, name: one.domain, below: true, line: one, most });
  if (line.other_domains) rows.push({ key: `${line.site} `, name: `${number(line.other_domains)} more domains`, below: true, line: { held: 0, by_age: [] }, most });
  return rows;
}

function backlogRow({ name, note, toggles, open, count, below, line, most }) {
  const notes = [note, line.held ? `${number(line.held)} on hold` : null].filter(Boolean).join("; ");
  const button = toggles ? make("button", { type: "button", class: "id", "aria-expanded": String(open), click: () => toggle(toggles) }, `${number(count)} domains`) : null;
  const cells = line.by_age.map((copies) => {
    const cell = make("td", {}, copies ? number(copies) : "·");
    if (copies) cell.style.background = `rgb(var(--heat) / ${(0.12 + 0.4 * Math.min(1, copies / most)).toFixed(2)})`;
    return cell;
  });
  return make("tr", below ? { class: "below" } : {}, make("th", { scope: "row" }, said(name), notes ? make("small", {}, said(notes)) : null, button), ...cells);
}

function toggle(site) {
  if (!opened.delete(site)) opened.add(site);
  showBacklog(lastShape);
}

