//! The drop directory: takes files, hands on accepted messages.

mod layout;

pub use layout::{Layout, LayoutError, Lock};
