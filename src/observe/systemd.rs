//! What systemd is told (sd_notify(3)). Without a notify socket each of these does nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// The daemon takes files and sends mail.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "systemd cannot be told of the reload"),
    }
}

/// The daemon lets what is under way end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the watchdog at half its time as long as `heartbeat` goes on counting; for ever, or at once back where there is no watchdog.
/// A scheduler that hangs is not fed for, and systemd restarts the daemon: nothing is lost by that.
pub async fn feed_watchdog(heartbeat: Arc<AtomicU64>, wake: impl Fn()) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| *limit > Duration::ZERO) else { return };
    let mut tick = tokio::time::interval(limit / 2);
    let mut seen = None;
    loop {
        tick.tick().await;
        let beats = heartbeat.load(Ordering::Relaxed);
        if seen != Some(beats) {
            tell(&[NotifyState::Watchdog]);
        }
        seen = Some(beats);
        // An idle scheduler beats when it is woken.
        wake();
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
