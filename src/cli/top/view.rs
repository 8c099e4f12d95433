//! Draws the live view: takes the model, hands on cells. Made for 80×24; what is larger shows more sites, outcomes and words.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Sparkline, Table};

use super::model::{Model, clean, moment};
use crate::cli::table;
use crate::clock::Timestamp;
use crate::control::{OutcomeLine, SiteLine, Status};

const PLAIN: Style = Style::new();
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const BAR: Style = Style::new().add_modifier(Modifier::REVERSED);
const GOOD: Style = Style::new().fg(Color::Green);
const WARN: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red);
/// Columns of the table of numbers, beside which the plot stands.
const NUMBERS: u16 = 43;

/// Draws all of it.
pub(super) fn draw(model: &mut Model, frame: &mut Frame<'_>) {
    let [title, numbers, queue, sites, outcomes, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(6),
        Constraint::Length(3),
        Constraint::Fill(3),
        Constraint::Fill(2),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let now = model.now();
    frame.render_widget(Paragraph::new(heading(model.status(), now)).style(BAR), title);
    let [table, plot] = Layout::horizontal([Constraint::Length(NUMBERS), Constraint::Fill(1)]).areas(numbers);
    frame.render_widget(throughput(model.status()), table);
    draw_plot(model, frame, plot);
    frame.render_widget(Paragraph::new(standing(model.status(), now)), queue);
    draw_sites(model, frame, sites);
    draw_outcomes(model, frame, outcomes);
    frame.render_widget(footer(model), keys);
}

fn heading(status: &Status, now: Option<Timestamp>) -> Line<'static> {
    let clock = now.map_or_else(String::new, |now| now.strftime("%H:%M:%SZ").to_string());
    let up = since(&status.started_at, now).map_or_else(String::new, |up| format!("  up {up}"));
    let stop = status.intake_reason.as_deref().map_or_else(String::new, |reason| format!("  NO FILES TAKEN: {}", clean(reason)));
    Line::from(format!(" smtp-direct {}  {}  {}{up}  {clock}{stop}", clean(&status.version), clean(&status.hostname), clean(&status.state)))
}

fn throughput(status: &Status) -> Table<'static> {
    let numbers = &status.throughput;
    let row = |name: &'static str, style: Style, number: fn(&crate::control::Numbers) -> u64| {
        let [second, minute, total] = [&numbers.second, &numbers.minute, &numbers.total].map(number);
        Row::new([name.to_owned(), right(second, 8), right(minute, 9), right(total, 12)]).style(style)
    };
    let rows = [
        row("accepted", PLAIN, |numbers| numbers.accepted),
        row("delivered", GOOD, |numbers| numbers.delivered),
        row("deferred", WARN, |numbers| numbers.deferred),
        row("failed", BAD, |numbers| numbers.failed),
    ];
    let headings = Row::new(["".to_owned(), format!("{:>8}", "now/s"), format!("{:>9}", "minute"), format!("{:>12}", "total")]);
    let widths = [Constraint::Length(10), Constraint::Length(8), Constraint::Length(9), Constraint::Length(12)];
    Table::new(rows, widths).header(headings.style(DIM)).column_spacing(1)
}

fn right(number: u64, width: usize) -> String {
    format!("{number:>width$}")
}

fn draw_plot(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let [caption, plot, _] = Layout::vertical([Constraint::Length(1), Constraint::Length(4), Constraint::Length(1)]).areas(area);
    let (means, each) = model.plot(usize::from(plot.width));
    let peak = means.iter().flatten().copied().fold(0.0, f64::max);
    let minutes = (usize::from(plot.width) * each).min(300) / 60;
    let text = format!("delivered/s, {minutes} min, peak {peak:.1}");
    frame.render_widget(Paragraph::new(text).style(DIM), caption);
    // In tenths: the plot takes whole numbers.
    let data: Vec<Option<u64>> = means.into_iter().map(|mean| mean.map(|mean| (mean * 10.0).round() as u64)).collect();
    frame.render_widget(Sparkline::default().data(data).max(((peak * 10.0).round() as u64).max(1)).style(GOOD), plot);
}

fn standing(status: &Status, now: Option<Timestamp>) -> Vec<Line<'static>> {
    let (workers, queue) = (&status.workers, &status.queue);
    let held = if queue.held > 0 { WARN } else { PLAIN };
    let oldest = queue.oldest.as_deref().and_then(|oldest| since(oldest, now)).map_or_else(String::new, |age| format!(", oldest {age}"));
    let doubt = if queue.in_doubt > 0 { format!(", {} in doubt", queue.in_doubt) } else { String::new() };
    vec![
        Line::from(vec![
            Span::styled("workers   ", BOLD),
            Span::styled(format!("{} of {} busy", workers.busy, workers.total), if workers.busy >= workers.total { WARN } else { PLAIN }),
            Span::raw(format!(", {} sessions open, {} of them idle", workers.sessions, workers.idle)),
        ]),
        Line::from(vec![
            Span::styled("queue     ", BOLD),
            Span::raw(format!("{} messages: {} due, {} waiting, {} sending, ", queue.messages, queue.due, queue.waiting, queue.sending)),
            Span::styled(format!("{} held", queue.held), held),
        ]),
        Line::from(format!("          {} recipients, {}{oldest}{doubt}", queue.recipients, table::size(queue.octets))),
    ]
}

fn draw_sites(model: &mut Model, frame: &mut Frame<'_>, area: Rect) {
    let rows = usize::from(area.height.saturating_sub(2));
    let (now, count, sort, status) = (model.now(), model.site_count(), model.sort().as_str(), model.status().sites.clone());
    let (from, seen) = model.sites(rows);
    let place = match seen.len() {
        shown if shown == count => String::new(),
        0 => String::new(),
        shown => format!(", {}–{} shown", from + 1, from + shown),
    };
    let caption = format!(" sites by {sort}: {count}, {} down, {} paused{place}", status.down, status.paused);
    let [heading, list] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Paragraph::new(caption).style(BAR), heading);
    let lengths = [Constraint::Length(8), Constraint::Length(8), Constraint::Length(10), Constraint::Fill(2), Constraint::Fill(3)];
    let widths = columns(lengths, list);
    let headings = Row::new([" WAITING", "SESSIONS", "HEALTH", "SITE", "LAST REPLY"]).style(DIM);
    let table = Table::new(seen.iter().map(|site| site_row(site, now, widths)), widths).header(headings).column_spacing(1);
    frame.render_widget(table, list);
}

/// How wide the columns of a table are.
fn columns<const N: usize>(lengths: [Constraint; N], area: Rect) -> [u16; N] {
    Layout::horizontal(lengths).spacing(1).areas(area).map(|column: Rect| column.width)
}

/// A peer's words or a name, as much of it as fits; that there is more is to be seen.
fn fitted(text: &str, width: u16) -> String {
    table::cut(&clean(text), usize::from(width))
}

/// The peer's reply without what it was an answer to, for which there is no room; where it said nothing, all of it.
fn said(text: &str) -> &str {
    let reply = text.split_once(" was answered ").map(|(_, reply)| reply);
    reply.filter(|reply| reply.starts_with(|first: char| first.is_ascii_digit())).unwrap_or(text)
}

fn site_row(site: &SiteLine, now: Option<Timestamp>, [.., name, answer]: [u16; 5]) -> Row<'static> {
    // Those of parked domains are in the queue only, and not counted.
    let more = if site.parked_domains > 0 { "+" } else { " " };
    let (health, style) = health(site, now);
    let last = site.last.as_ref();
    let reply = match (&site.paused, &site.health.error, last) {
        (Some(paused), _, _) => format!("paused by {}: {}", paused.by, paused.reason),
        // The address stands before it, and the site's name beside it.
        (None, Some(error), _) => error.split_once(": ").map_or(error.as_str(), |(_, error)| error).to_owned(),
        (None, None, Some(last)) => last.text.clone(),
        (None, None, None) => String::new(),
    };
    let reply_style = match last.map(|last| last.outcome.as_str()) {
        _ if style != GOOD => style,
        Some("deferred") => WARN,
        Some("failed") => BAD,
        _ => PLAIN,
    };
    Row::new([
        Span::raw(format!("{:>7}{more}", site.copies)),
        Span::raw(format!("{:>4}/{}", site.sessions, site.limit)),
        Span::styled(health, style),
        Span::raw(fitted(&site.name, name)),
        Span::styled(fitted(said(&reply), answer), reply_style),
    ])
}

fn health(site: &SiteLine, now: Option<Timestamp>) -> (String, Style) {
    if site.paused.is_some() {
        return ("paused".to_owned(), WARN);
    }
    let until = || {
        let left = moment(site.health.until.as_deref()?)?.duration_since(now?);
        Some(table::span(left.try_into().unwrap_or_default()))
    };
    match site.health.state.as_str() {
        "up" if site.throttled_for.is_some() => ("rate limit".to_owned(), WARN),
        "up" => ("up".to_owned(), GOOD),
        "down" => (until().map_or_else(|| "down".to_owned(), |left| format!("down {left}")), BAD),
        other => (clean(other), WARN),
    }
}

fn draw_outcomes(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let [heading, list] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Paragraph::new(" last outcomes").style(BAR), heading);
    let widths = columns([Constraint::Length(8), Constraint::Length(9), Constraint::Fill(2), Constraint::Fill(3)], list);
    let rows = model.outcomes().take(usize::from(list.height)).map(|line| outcome_row(line, widths));
    frame.render_widget(Table::new(rows, widths).column_spacing(1), list);
}

fn outcome_row(line: &OutcomeLine, [.., to, answer]: [u16; 4]) -> Row<'static> {
    let at = moment(&line.at).map_or_else(String::new, |at| at.strftime("%H:%M:%S").to_string());
    let style = match line.outcome.as_str() {
        "delivered" => GOOD,
        "deferred" => WARN,
        _ => BAD,
    };
    let host = line.host.as_ref().map_or_else(String::new, |host| format!("{host}: "));
    Row::new([
        Span::styled(at, DIM),
        Span::styled(clean(&line.outcome), style),
        Span::raw(fitted(&line.to, to)),
        Span::raw(fitted(&format!("{host}{}", said(&line.text)), answer)),
    ])
}

fn footer(model: &Model) -> Paragraph<'static> {
    match model.lost() {
        Some(reason) => Paragraph::new(format!(" no answer, trying on: {reason}")).style(BAD.add_modifier(Modifier::REVERSED)),
        None => Paragraph::new(" q quit   s sort   ↑ ↓ scroll").style(DIM),
    }
}

/// How long ago that was.
fn since(then: &str, now: Option<Timestamp>) -> Option<String> {
    let age: Duration = now?.duration_since(moment(then)?).try_into().unwrap_or_default();
    Some(table::span(age))
}
