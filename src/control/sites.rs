//! `/v1/sites`: what delivery knows of each set of mail servers; pausing, resuming, trying again at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::router::Call;
use super::status::good_until;
use super::{Answer, Api, ApiError, time};
use crate::clock::Timestamp;
use crate::config::show_rate;
use crate::delivery::{self, Command, Context, LastReply, SiteView, Tally};
use crate::queue::{Action, Done, Inspect, PausedSite, Selection, SiteBacklog, StoreError};
use crate::route::Site;

/// The health of a site while no daemon looks.
const UNKNOWN: &str = "unknown";

/// Octets of a reason.
pub(super) const MAX_REASON: usize = 400;

/// Every site in memory or with open copies, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sites {
    /// In the order of their names.
    pub sites: Vec<SiteLine>,
}

/// One site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct SiteLine {
    pub name: String,
    pub sessions: u64,
    pub limit: u64,
    pub connected: u64,
    pub idle: u64,
    pub waiting: u64,
    /// Open copies that belong to it, as far as is known: deferred ones and those on hold included.
    pub copies: u64,
    /// Domains whose copies stay in the queue until the site has room or is resumed.
    pub parked_domains: u64,
    pub health: SiteHealth,
    /// As in the configuration.
    pub rate: Option<String>,
    /// Seconds.
    pub throttled_for: Option<f64>,
    pub paused: Option<Pause>,
    pub delivered: u64,
    pub deferred: u64,
    pub failed: u64,
    pub last: Option<SiteReply>,
    /// The last that was no delivery.
    pub last_error: Option<SiteReply>,
}

/// Whether it can be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct SiteHealth {
    /// `up`; `down`: left alone until `until`; `unproven`: one copy is to look. `unknown`: read without the daemon.
    pub state: String,
    pub since: Option<String>,
    pub until: Option<String>,
    pub error: Option<String>,
}

/// An administrator's pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct Pause {
    pub reason: String,
    pub by: String,
    pub since: String,
}

/// The last outcome there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "openapi.json describes them")]
pub struct SiteReply {
    pub at: String,
    pub outcome: String,
    pub host: Option<String>,
    pub text: String,
}

/// What a change of a site came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteAnswer {
    /// Which.
    pub name: String,
    /// Whether it is in memory: a name that is not may be a slip, or a site without mail at present.
    pub known: bool,
    /// False: it was so already.
    pub changed: bool,
    /// Copies that were made due (of a retry).
    pub copies: u64,
}

/// Why.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    #[serde(default)]
    reason: String,
}

pub(super) async fn list(api: Arc<Api>) -> Result<Answer, ApiError> {
    let context = api.context();
    let (shared, now) = (&context.shared, context.clock.now());
    let backlogs = api.backlogs().await?;
    let mut backlog: HashMap<&str, &SiteBacklog> = backlogs.iter().map(|backlog| (&*backlog.site, backlog)).collect();
    let views = shared.lock().board.sites(Instant::now());
    let mut sites: Vec<SiteLine> = views
        .into_iter()
        .map(|view| {
            let (parked, backlog) = (shared.parked(&view.site).len(), backlog.remove(view.site.as_str()));
            line(view, parked, backlog, now)
        })
        .collect();
    // Nothing is done for them at present, yet mail waits.
    sites.extend(backlog.into_values().map(|backlog| line(idle(&backlog.site, context.config.sending.per_site), 0, Some(backlog), now)));
    sites.sort_by(|one, other| one.name.cmp(&other.name));
    Answer::json(&Sites { sites })
}

pub(super) async fn show(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let context = api.context();
    let (shared, now, site) = (&context.shared, context.clock.now(), api.named(&call, &context).await?);
    let view = shared.lock().board.site(&site, Instant::now());
    let backlogs = api.backlogs().await?;
    let backlog = backlogs.iter().find(|backlog| backlog.site == site.as_str());
    let view = view.or_else(|| backlog.map(|_| idle(site.as_str(), context.config.sending.per_site)));
    let view = view.ok_or_else(|| {
        ApiError::NotFound(format!("no site {site} is known: smtp-direct site list (GET /v1/sites) lists those that are"))
    })?;
    Answer::json(&line(view, shared.parked(&site).len(), backlog, now))
}

pub(super) async fn pause(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let reason = reason(call.body::<Why>()?.reason, "paused")?;
    let context = api.context();
    let site = api.named(&call, &context).await?;
    let (known, was_paused) = {
        let board = &context.shared.lock().board;
        (board.site(&site, Instant::now()).is_some(), board.is_paused(&site))
    };
    if !was_paused {
        let paused = PausedSite { site: site.to_string(), reason, by: call.by(), since: context.clock.now() };
        context.store.pause_site(paused.clone()).await?;
        tracing::warn!(site = %site, reason = paused.reason, by = paused.by, "site paused");
        context.shared.pause(&site, paused);
    }
    Answer::json(&SiteAnswer { name: site.to_string(), known, changed: !was_paused, copies: 0 })
}

pub(super) async fn resume(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let reason = reason(call.body::<Why>()?.reason, "no reason given")?;
    let context = api.context();
    let site = api.named(&call, &context).await?;
    let known = context.shared.lock().board.site(&site, Instant::now()).is_some();
    let recorded = context.store.resume_site(site.to_string()).await?;
    let changed = context.shared.resume(&site) || recorded;
    if changed {
        tracing::warn!(site = %site, reason, by = call.by(), "site resumed");
    }
    Answer::json(&SiteAnswer { name: site.to_string(), known, changed, copies: 0 })
}

pub(super) async fn retry(api: Arc<Api>, call: Call) -> Result<Answer, ApiError> {
    let reason = reason(call.body::<Why>()?.reason, "the site is tried again")?;
    let context = api.context();
    let site = api.named(&call, &context).await?;
    let (known, was_down) = {
        let board = &context.shared.lock().board;
        (board.site(&site, Instant::now()).is_some(), board.down(&site, context.clock.now()).is_some())
    };
    let selection = Selection { site: Some(site.to_string()), ..Selection::default() };
    let command = Command { action: Action::Retry, reason, by: call.by() };
    let done = {
        let context = context.clone();
        api.carry_out(async move { delivery::administer(&context, selection, command).await }).await??
    };
    let copies = done.acted.iter().filter(|acted| acted.done == Done::Done).count() as u64;
    Answer::json(&SiteAnswer { name: site.to_string(), known, changed: was_down || copies > 0, copies })
}

impl Sites {
    /// What the queue has on record, for when no daemon can be asked: the sites that are paused or that open copies belong to. What only the
    /// daemon knows is null, 0 or `unknown`.
    pub fn recorded(queue: &dyn Inspect, now: Timestamp) -> Result<Self, StoreError> {
        let mut known: BTreeMap<String, (Option<SiteBacklog>, Option<PausedSite>)> = BTreeMap::new();
        for backlog in queue.sites()? {
            let name = backlog.site.clone();
            known.entry(name).or_default().0 = Some(backlog);
        }
        for paused in queue.paused_sites()? {
            let name = paused.site.clone();
            known.entry(name).or_default().1 = Some(paused);
        }
        let sites = known.into_iter().map(|(name, (backlog, paused))| {
            let mut site = line(SiteView { paused, ..idle(&name, 0) }, 0, backlog.as_ref(), now);
            site.health.state = UNKNOWN.to_owned();
            site
        });
        Ok(Self { sites: sites.collect() })
    }
}

impl SiteLine {
    /// Whether it was read without the daemon: then sessions, health and counts of recipients are not known.
    pub fn is_recorded(&self) -> bool {
        self.health.state == UNKNOWN
    }
}

impl Api {
    /// The site of the path.
    async fn named(&self, call: &Call, context: &Context) -> Result<Site, ApiError> {
        self.meant(call.parameter(), context).await
    }

    /// The site that a person means by `name`, among those of delivery, those that open copies belong to, and those that are paused.
    pub(super) async fn meant(&self, name: &str, context: &Context) -> Result<Site, ApiError> {
        if name.is_empty() || name.len() > 10_000 || name.chars().any(char::is_control) {
            return Err(ApiError::Invalid("this is no name of a site".to_owned()));
        }
        let mut known: BTreeSet<Site> = context.shared.lock().board.names().into_iter().collect();
        known.extend(self.backlogs().await?.iter().map(|backlog| Site::new(&*backlog.site)));
        Site::meant_by(name, known, context.config.smtp.port).map_err(|several| ApiError::Invalid(several.to_string()))
    }

    /// What is open for each site, as the queue has it: counting reads much, so that whoever asks often gets the last count.
    async fn backlogs(&self) -> Result<Arc<[SiteBacklog]>, StoreError> {
        let mut last = self.sites.lock().await;
        let began = Instant::now();
        if let Some((sites, _)) = last.as_ref().filter(|(_, good_until)| began < *good_until) {
            return Ok(sites.clone());
        }
        let sites: Arc<[SiteBacklog]> = self.read(|queue: &(dyn Inspect + Send)| queue.sites()).await?.into();
        *last = Some((sites.clone(), good_until(began)));
        Ok(sites)
    }
}

/// A reason as it goes to log, history and reports: one line, not too long.
pub(super) fn reason(given: String, default: &str) -> Result<String, ApiError> {
    if given.len() > MAX_REASON || given.chars().any(char::is_control) {
        return Err(ApiError::Invalid(format!("a reason is one line of at most {MAX_REASON} octets")));
    }
    let given = given.trim();
    Ok(if given.is_empty() { default.to_owned() } else { given.to_owned() })
}

/// A site that delivery has nothing to do for now.
fn idle(site: &str, limit: usize) -> SiteView {
    SiteView {
        site: Site::new(site),
        sessions: 0,
        limit,
        connected: 0,
        idle: 0,
        waiting: 0,
        fresh: 0,
        health: None,
        rate: None,
        throttled_for: None,
        paused: None,
        tally: Tally::default(),
    }
}

fn line(view: SiteView, parked: usize, backlog: Option<&SiteBacklog>, now: Timestamp) -> SiteLine {
    let health = match view.health {
        None => SiteHealth { state: "up".to_owned(), since: None, until: None, error: None },
        Some(health) => SiteHealth {
            state: if now < health.until { "down" } else { "unproven" }.to_owned(),
            since: Some(time(health.since)),
            until: Some(time(health.until)),
            error: Some(health.detail),
        },
    };
    SiteLine {
        name: view.site.to_string(),
        sessions: view.sessions as u64,
        limit: view.limit as u64,
        connected: view.connected as u64,
        idle: view.idle as u64,
        waiting: view.waiting as u64,
        copies: view.fresh as u64 + backlog.map_or(0, |backlog| backlog.copies),
        parked_domains: parked as u64,
        health,
        rate: view.rate.map(show_rate),
        throttled_for: view.throttled_for.map(|wait| wait.as_secs_f64()),
        paused: view.paused.map(|paused| Pause { reason: paused.reason, by: paused.by, since: time(paused.since) }),
        delivered: view.tally.delivered,
        deferred: view.tally.deferred,
        failed: view.tally.failed,
        last: view.tally.last.map(SiteReply::from).or_else(|| backlog.and_then(queued)),
        last_error: view.tally.last_error.map(SiteReply::from).or_else(|| backlog.and_then(queued)),
    }
}

/// The last outcome that the queue has: what waits was put off.
fn queued(backlog: &SiteBacklog) -> Option<SiteReply> {
    let (outcome, at) = backlog.last.as_ref()?;
    let host = outcome.peer.as_ref().map(|peer| peer.host.to_string());
    Some(SiteReply { at: time(*at), outcome: outcome.kind.as_str().to_owned(), host, text: outcome.text.clone() })
}

impl From<LastReply> for SiteReply {
    fn from(last: LastReply) -> Self {
        let host = last.host.map(|host| host.to_string());
        Self { at: time(last.at), outcome: last.kind.as_str().to_owned(), host, text: last.text }
    }
}
