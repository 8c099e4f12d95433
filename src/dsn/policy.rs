//! Takes an outcome and what the sender asked for, hands on what the sender is to be told: RFC 3461 5.2, pure.

use crate::message::{Notify, ReversePath};
use crate::outcome::{Kind, Outcome};
use crate::queue::ReportAction;

/// What is to be reported of `outcome`, if anything. `delay_due`: the copy has waited for `retry.warn_after` and its sender was not told yet.
pub fn action_due(sender: &ReversePath, notify: &Notify, outcome: &Outcome, delay_due: bool) -> Option<ReportAction> {
    if *sender == ReversePath::Null {
        return None;
    }
    match outcome.kind {
        Kind::Failed => notify.failure.then_some(ReportAction::Failed),
        Kind::Deferred => (delay_due && notify.delay).then_some(ReportAction::Delayed),
        // A peer that offers DSN reports the success itself; one that does not will never say more (RFC 3461 5.2.2).
        Kind::Delivered => (notify.success && !outcome.dsn_relayed).then_some(ReportAction::Relayed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Address;
    use crate::outcome::EnhancedStatus;

    fn outcome(kind: Kind, dsn_relayed: bool) -> Outcome {
        let status = EnhancedStatus::new(2, 0, 0);
        Outcome { kind, status, text: String::new(), reply: None, peer: None, in_doubt: false, dsn_relayed }
    }

    #[test]
    fn what_is_due_follows_from_outcome_and_notify() {
        use Kind::{Deferred, Delivered, Failed};
        let all = Notify { failure: true, delay: true, success: true, explicit: true };
        let default = Notify::default();
        let only = |word: &str| Notify { failure: word == "failure", delay: word == "delay", success: word == "success", explicit: true };
        let rows = [
            // kind, dsn_relayed, notify, delay_due, expected
            (Failed, false, default, false, Some(ReportAction::Failed)),
            (Failed, false, default, true, Some(ReportAction::Failed)),
            (Failed, false, only("failure"), false, Some(ReportAction::Failed)),
            (Failed, false, only("delay"), true, None),
            (Failed, false, only("success"), false, None),
            (Failed, false, Notify::NEVER, true, None),
            (Deferred, false, default, false, None),
            (Deferred, false, default, true, Some(ReportAction::Delayed)),
            (Deferred, false, only("delay"), true, Some(ReportAction::Delayed)),
            (Deferred, false, only("failure"), true, None),
            (Deferred, false, Notify::NEVER, true, None),
            (Delivered, false, default, true, None),
            (Delivered, false, only("success"), false, Some(ReportAction::Relayed)),
            (Delivered, true, only("success"), false, None),
            (Delivered, true, all, true, None),
            (Delivered, false, all, false, Some(ReportAction::Relayed)),
            (Delivered, false, Notify::NEVER, false, None),
        ];
        let sender = ReversePath::Address(Address::parse("a@example.com").unwrap());
        for (kind, dsn_relayed, notify, delay_due, expected) in rows {
            let outcome = outcome(kind, dsn_relayed);
            let row = format!("{kind:?} relayed={dsn_relayed} {notify} delay_due={delay_due}");
            assert_eq!(action_due(&sender, &notify, &outcome, delay_due), expected, "{row}");
            assert_eq!(action_due(&ReversePath::Null, &notify, &outcome, delay_due), None, "null sender: {row}");
        }
    }
}
