//! The drop directory: takes files, hands on accepted messages.
//!
//! [`Intake`] runs while the daemon does; [`recover`] comes before it, at start-up, and [`repair`] runs beside it. [`Layout`] knows where everything is, and moves the
//! queue's message files.

mod agenda;
mod batch;
mod durable;
pub mod envelope;
mod files;
mod intake;
mod judge;
mod layout;
mod listing;
mod moves;
mod names;
mod placing;
mod recognise;
mod recover;
mod results;
pub mod sidecar;
mod standing;
mod submit;
mod troubles;
mod watch;

pub(crate) use envelope::{EnvelopeError, addresses, recipients};
pub use intake::{Intake, IntakeError, IntakeSettings, Offer};
pub use layout::{Layout, LayoutError, Lock};
pub use placing::Placing;
pub use recover::{RecoverError, Recovered, recover, repair};
pub use results::Results;
pub use standing::Standing;
pub use submit::{Submission, SubmitError};
