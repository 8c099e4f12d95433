//! What must hold whatever the octets: one module for each fuzz target, whose `check` panics where it does not.
//!
//! The fuzz targets call these, and so do the package's own tests: over the committed corpora, and with cases of their own.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used)]

pub mod addresses;
pub mod canonical;
pub mod config;
pub mod content;
pub mod ehlo;
pub mod header;
pub mod peer;
pub mod replies;
pub mod report;
pub mod scratch;
pub mod sidecar_json;
pub mod sidecar_toml;
pub mod wire;

/// A target's name, and its check.
pub type Target = (&'static str, fn(&[u8]));

/// All there are.
pub const TARGETS: [Target; 11] = [
    ("addresses", addresses::check),
    ("config", config::check),
    ("content", content::check),
    ("ehlo", ehlo::check),
    ("header", header::check),
    ("peer", peer::check),
    ("replies", replies::check),
    ("report", report::check),
    ("sidecar_json", sidecar_json::check),
    ("sidecar_toml", sidecar_toml::check),
    ("wire", wire::check),
];
