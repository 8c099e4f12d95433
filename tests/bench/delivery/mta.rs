//! What the scenarios ask of an MTA, whichever it is.

use std::time::Instant;

use crate::letters::Letters;
use crate::process::Cost;

/// A mail server whose only way out is the sink. What it has started ends when it is dropped.
pub trait Mta {
    /// Puts messages into its queue; none leaves.
    fn fill(&mut self, letters: &Letters) -> Result<(), String>;
    /// Lets them leave.
    fn release(&mut self) -> Result<(), String>;
    /// Starts it with an empty queue, ready to take mail.
    fn start(&mut self) -> Result<(), String>;
    /// Makes what [`Self::submit`] hands in, so that making it costs no time there.
    fn prepare(&mut self, letters: &Letters) -> Result<(), String>;
    /// Hands all of them in, as fast as it takes them.
    fn submit(&mut self, letters: &Letters) -> Result<(), String>;
    /// Hands one in; when its last octet was given, or its name was.
    fn submit_one(&mut self, letters: &Letters, n: usize) -> Result<Instant, String>;
    /// The process whose tree is the MTA.
    fn root(&mut self) -> Result<u32, String>;

    /// What it has cost.
    fn cost(&mut self) -> Result<Cost, String> {
        self.root().map(Cost::of)
    }
}
