//! The daemon: wires the parts, runs them, reloads, drains. The only place that knows them all.

use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use thiserror::Error;
use tokio::sync::{mpsc, watch};

use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::control::{self, Api, Listener, PageListener, SocketError};
use crate::delivery::{self, Context, Shared};
use crate::observe::metrics::{Counts, Metrics, Sources};
use crate::observe::systemd;
use crate::queue::{Journal, QueuedCopy, Salvaged, SqliteInspect, SqliteStore, Store, StoreError};
use crate::route::{CachedDns, Dns, DnsSetupError, HickoryDns, LocalIdentity, Router, Site};
use crate::smtp::{Client, Dialer, TcpDialer, TlsSetupError};
use crate::spool::{self, Intake, IntakeError, IntakeSettings, Layout, LayoutError, Placing, RecoverError, Results};

/// Why the daemon cannot run.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The spool directory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The queue's database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Repair at start-up.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The drop directory.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// Resolvers.
    #[error(transparent)]
    Dns(#[from] DnsSetupError),
    /// What this host is called and where it is: mail for itself would loop.
    #[error("this host's own addresses cannot be listed: {0}")]
    OwnAddresses(#[source] std::io::Error),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] SocketError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

/// The world around the daemon: the real one, or a test's.
#[derive(Clone)]
pub struct World {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// The resolver; `None`: hickory, as configured.
    pub dns: Option<Arc<dyn Dns>>,
    /// Opens connections; `None`: TCP, as configured.
    pub dialer: Option<Arc<dyn Dialer>>,
    /// This host's addresses; `None`: those of its interfaces.
    pub addresses: Option<Vec<IpAddr>>,
    /// Where the daemon puts its metrics once it has them, for whoever runs it.
    pub metrics: Arc<OnceLock<Arc<Metrics>>>,
}

impl Default for World {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), dns: None, dialer: None, addresses: None, metrics: Arc::default() }
    }
}

/// Runs until `shutdown`, takes each configuration from `reloads` as it comes. Ends when what was under way has ended, or the grace time is over.
pub async fn run(
    config: Config,
    world: World,
    mut reloads: mpsc::Receiver<Config>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    let layout = Layout::new(&config.spool.path);
    layout.create()?;
    if config.spool.results {
        layout.create_results()?;
    }
    let _lock = layout.lock()?;
    let store = Arc::new(SqliteStore::open(&layout.database())?);
    if let Some(salvaged) = store.salvaged() {
        note_salvage(salvaged, &layout)?;
    }
    let outcome = run_on(config, world, &layout, store.clone(), &mut reloads, shutdown).await;
    store.close().await;
    outcome
}

async fn run_on(
    config: Config,
    world: World,
    layout: &Layout,
    store: Arc<dyn Store>,
    reloads: &mut mpsc::Receiver<Config>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    let clock = world.clock.clone();
    let counts = Arc::new(Counts::default());
    delivery::resume(layout, &*store, (&config.retry, clock.now()), &counts).await?;
    let journal = Journal::open(layout.journal(), clock.clone());
    let journal = Arc::new(journal.map_err(|source| LayoutError::Io { path: layout.journal(), source })?);
    note_repairs(spool::recover(layout, &*store).await?);

    let listener = config.control.socket.as_deref().map(|path| Listener::bind(path, config.control.group.as_deref())).transpose()?;
    let page = PageListener::bind(&config).await?;
    let mut parts = Parts::new(config, &world)?;
    let shared = Arc::new(Shared::new(&parts.config));
    for paused in store.paused_sites().await? {
        tracing::warn!(site = paused.site, reason = paused.reason, by = paused.by, since = %paused.since, "site is paused");
        shared.pause(&Site::new(&*paused.site), paused);
    }
    let metrics = Arc::new(Metrics::new(Sources {
        counts: counts.clone(),
        traffic: parts.client.traffic(),
        store: store.clone(),
        shared: shared.clone(),
        dns: parts.dns.clone(),
        clock: clock.clone(),
    }));
    // Where the same world is run in again, its first daemon's stay.
    let _ = world.metrics.set(metrics.clone());
    let placing = Arc::new(Placing::in_doubt(layout.clone()));
    let results = Arc::new(Results::new(layout.clone(), parts.config.spool.results));
    let standing = Arc::new(spool::Standing::default());
    let context = |parts: &Parts| {
        Arc::new(Context {
            config: parts.config.clone(),
            client: parts.client.clone(),
            router: parts.router.clone(),
            layout: layout.clone(),
            placing: placing.clone(),
            journal: journal.clone(),
            results: results.clone(),
            store: store.clone(),
            clock: clock.clone(),
            counts: counts.clone(),
            standing: standing.clone(),
            shared: shared.clone(),
        })
    };
    let (contexts, receiver) = watch::channel(context(&parts));
    let (intake_settings, intake_receiver) = watch::channel(Arc::new(parts.intake_settings()));
    let (stop_intake, intake_stops) = watch::channel(false);
    let (stop_delivery, delivery_stops) = watch::channel(false);
    let heartbeat = Arc::new(AtomicU64::new(0));

    let offer = {
        let (shared, clock) = (shared.clone(), clock.clone());
        Arc::new(move |copies: Vec<QueuedCopy>| {
            // Copies of a message lie together.
            shared.activity.accepted(copies.chunk_by(|one, other| one.message.id == other.message.id).count() as u64);
            shared.offer(copies, clock.now());
        })
    };
    let intake = Intake {
        layout: layout.clone(),
        store: store.clone(),
        clock: clock.clone(),
        settings: intake_receiver,
        results: results.clone(),
        placing: placing.clone(),
        offer,
        counts: counts.clone(),
        standing: standing.clone(),
    };
    let mut intake = std::pin::pin!(intake.run(raised(intake_stops)));
    let mut delivery = std::pin::pin!(async {
        let (stop_clearing, clearing_stops) = watch::channel(false);
        let sending = async {
            tokio::join!(
                delivery::schedule(receiver.clone(), heartbeat.clone(), raised(delivery_stops.clone())),
                delivery::report(receiver.clone(), raised(delivery_stops.clone())),
            );
            // What finishes messages has come to its end.
            stop_clearing.send_replace(true);
        };
        tokio::join!(sending, delivery::clear(receiver.clone(), raised(clearing_stops)));
    });
    let (stop_control, control_stops) = watch::channel(false);
    let api = || -> Result<Arc<Api>, StoreError> {
        let inspect = Arc::new(Mutex::new(SqliteInspect::open(&layout.database())?));
        Ok(Arc::new(Api::new(receiver.clone(), parts.dns.clone(), inspect, clock.now(), metrics.clone())))
    };
    let api = if listener.is_some() || page.is_some() { Some(api()?) } else { None };
    let mut control = std::pin::pin!(async {
        let Some(api) = api else { return };
        let socket = async {
            if let Some(listener) = listener {
                control::serve(listener, api.clone(), raised(control_stops.clone())).await;
            }
        };
        let page = async {
            if let Some(page) = page {
                page.serve(api.clone(), raised(control_stops.clone())).await;
            }
        };
        tokio::join!(socket, page);
    });
    let mut control_runs = true;
    let mut watchdog = std::pin::pin!(async {
        systemd::feed_watchdog(heartbeat.clone(), || shared.wake.notify_one()).await;
        std::future::pending::<()>().await;
    });
    // What must not wait for it is in `recover`: this one looks at everything, beside the sending.
    let mut repair = std::pin::pin!(async {
        placing.without_doubt().await;
        // What was taken for a message on its way, and is not, was passed over.
        shared.lock().window.rewind();
        shared.wake.notify_one();
        match spool::repair(layout, &*store, &*clock, &placing, results.clone()).await {
            Ok(repaired) => note_repairs(repaired),
            Err(error) => tracing::error!(%error, "the queue was not looked through to its end; the next start tries again"),
        }
        std::future::pending::<()>().await;
    });
    let mut shutdown = std::pin::pin!(shutdown);

    let status = format!("delivering from {}", layout.root().display());
    systemd::ready(&status);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), spool = %layout.root().display(), hostname = %parts.config.hostname,
        workers = parts.config.sending.workers, "started");
    let mut damage = None;
    let intake_ended = loop {
        tokio::select! {
            () = &mut shutdown => break None,
            ended = &mut intake => break Some(ended),
            error = store.damaged() => {
                damage = Some(error);
                break None;
            }
            () = &mut delivery => break None,
            () = &mut watchdog => {}
            () = &mut repair => {}
            () = &mut control, if control_runs => control_runs = false,
            Some(config) = reloads.recv() => {
                match parts.reconfigured(config, layout) {
                    Ok(new) => {
                        parts = new;
                        results.want(parts.config.spool.results);
                        contexts.send_replace(context(&parts));
                        intake_settings.send_replace(Arc::new(parts.intake_settings()));
                        tracing::info!("configuration reloaded");
                    }
                    Err(error) => tracing::error!(%error, "the new configuration cannot be put in effect, the old one stays"),
                }
                systemd::ready(&status);
            }
        }
    };

    systemd::stopping();
    tracing::info!(sessions = shared.lock().board.running(), "stopping");
    // Intake first: what it has committed is in the queue, and is for the next start.
    stop_intake.send_replace(true);
    let intake_ended = match intake_ended {
        Some(ended) => ended,
        None => intake.await,
    };
    stop_delivery.send_replace(true);
    // Whoever asks is still told how the end goes on.
    tokio::select! {
        () = &mut delivery => {}
        () = &mut control, if control_runs => {
            control_runs = false;
            delivery.await;
        }
    }
    stop_control.send_replace(true);
    if control_runs {
        control.await;
    }
    tracing::info!("stopped");
    damage.map_or(Ok(()), Err)?;
    Ok(intake_ended?)
}

/// Tells what a damaged database came to, and keeps the messages of which a part is lost.
fn note_salvage(salvaged: &Salvaged, layout: &Layout) -> Result<(), DaemonError> {
    let Salvaged { aside, reason, complete, messages, incomplete } = salvaged;
    tracing::error!(reason, kept = %aside.display(), complete, messages, incomplete = incomplete.len(),
        "the queue's database was damaged: it is kept aside, and a new one has what could be read of it; \
         messages that it does not have go to failed/, and what was recorded last may be sent again");
    for (id, reason) in incomplete {
        tracing::error!(%id, reason, "recipients are lost; the message is kept in failed/");
        let path = layout.failed();
        layout.keep_failed(*id, reason).map_err(|source| LayoutError::Io { path, source })?;
    }
    Ok(())
}

/// What a daemon's last end left behind, and no longer does.
fn note_repairs(recovered: spool::Recovered) {
    if recovered != spool::Recovered::default() {
        tracing::warn!(?recovered, "spool repaired");
    }
}

/// Resolves when the switch is on, or its owner is gone.
async fn raised(mut switch: watch::Receiver<bool>) {
    // An error means that the daemon's end has begun all the same.
    let _ = switch.wait_for(|on| *on).await;
}

/// What is made from the configuration, and made anew from the next.
struct Parts {
    config: Arc<Config>,
    client: Client,
    dns: CachedDns,
    router: Arc<Router>,
    world: World,
}

impl Parts {
    fn new(config: Config, world: &World) -> Result<Self, DaemonError> {
        let client = Client::new(&config, dialer(&config, world))?;
        let dns = CachedDns::new(resolver(&config, world)?, &config.dns);
        let router = Arc::new(router(&config, &dns, world)?);
        Ok(Self { config: Arc::new(config), client, dns, router, world: world.clone() })
    }

    /// The same with a new configuration; what was learned about peers and names stays.
    fn reconfigured(&self, config: Config, layout: &Layout) -> Result<Self, DaemonError> {
        if config.spool.path != self.config.spool.path {
            tracing::warn!("spool.path has changed: it is put in effect by a restart");
        }
        if config.spool.results {
            layout.create_results()?;
        }
        if config.control != self.config.control {
            tracing::warn!("[control] has changed: it is put in effect by a restart");
        }
        let client = self.client.reconfigured(&config)?.with_dialer(dialer(&config, &self.world));
        let upstream = resolver(&config, &self.world)?;
        let router = Arc::new(router(&config, &self.dns, &self.world)?);
        // Nothing can fail from here on: the cache is shared with the configuration that is in effect.
        self.dns.reconfigure(upstream, &config.dns);
        Ok(Self { config: Arc::new(config), client, dns: self.dns.clone(), router, world: self.world.clone() })
    }

    fn intake_settings(&self) -> IntakeSettings {
        IntakeSettings {
            hostname: self.config.hostname.clone(),
            settle: self.config.spool.settle,
            rescan: self.config.spool.rescan,
            lifetime: self.config.retry.lifetime,
            min_free: self.config.spool.min_free,
        }
    }
}

fn router(config: &Config, dns: &CachedDns, world: &World) -> Result<Router, DaemonError> {
    let hostname = config.hostname.clone();
    let local = match &world.addresses {
        Some(addresses) => LocalIdentity::new(hostname, addresses.iter().copied()),
        None => LocalIdentity::from_system(hostname).map_err(DaemonError::OwnAddresses)?,
    };
    Ok(Router::new(config, dns.clone(), local))
}

fn dialer(config: &Config, world: &World) -> Arc<dyn Dialer> {
    world
        .dialer
        .clone()
        .unwrap_or_else(|| Arc::new(TcpDialer { source_ipv4: config.smtp.source_ipv4, source_ipv6: config.smtp.source_ipv6 }))
}

fn resolver(config: &Config, world: &World) -> Result<Arc<dyn Dns>, DaemonError> {
    match &world.dns {
        Some(dns) => Ok(dns.clone()),
        None => Ok(Arc::new(HickoryDns::new(&config.dns)?)),
    }
}
