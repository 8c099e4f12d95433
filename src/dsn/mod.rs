//! dsn placeholder
use crate::message::{Notify, ReversePath};
use crate::outcome::Outcome;
use crate::queue::ReportAction;
/// placeholder
pub fn action_due(_sender: &ReversePath, _notify: &Notify, _outcome: &Outcome, _delay_due: bool) -> Option<ReportAction> {
    None
}
