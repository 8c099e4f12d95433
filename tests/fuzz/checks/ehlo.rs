//! What a peer offers: the same whatever the case and the blanks, without values that would forbid mail, bounded by what was said.

use smtp_direct::smtp::{Capabilities, Reply};

use super::replies::read;

/// The octets are replies to EHLO.
pub fn check(data: &[u8]) {
    for reply in read(data, usize::MAX).0 {
        let offered = Capabilities::parse(&reply);
        assert_ne!(offered.size, Some(Some(0)));
        assert_ne!(offered.limits.transactions, Some(0));
        assert_ne!(offered.limits.recipients, Some(0));
        let said: usize = offered.auth.iter().map(|mechanism| mechanism.len() + 1).sum();
        assert!(said <= reply.text().len());
        for (at, mechanism) in offered.auth.iter().enumerate() {
            assert!(!mechanism.is_empty() && !mechanism.contains([' ', '=', '\n']) && *mechanism == mechanism.to_ascii_uppercase());
            assert!(!offered.auth[..at].contains(mechanism), "twice");
        }
        let same = |text: String| assert_eq!(Capabilities::parse(&Reply::new(reply.code(), text)), offered);
        same(reply.text().to_ascii_uppercase());
        same(reply.text().to_ascii_lowercase());
        same(reply.text().replace(' ', "   "));
        // The first line is a name, whatever it looks like.
        let rest = reply.text().split_once('\n').map_or(String::new(), |(_, rest)| format!("\n{rest}"));
        same(format!("DSN{rest}"));
    }
}
