//! The name of a set of mail servers: takes a route's targets or what a person types, hands on the canonical text.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The set of targets of a route, as `host:port` with ranks, in canonical order: equal for domains that share mail servers, whatever
/// numbers their MX records give as preferences and however equals were shuffled.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site(Arc<str>);

/// A name that several sites could be meant by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ambiguous(pub Vec<Site>);

impl Site {
    /// From its canonical text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The canonical text, e.g. `1 mx1.example.com:25, 2 mx2.example.com:25`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its servers, as `host:port`.
    fn targets(&self) -> impl Iterator<Item = &str> {
        self.0.split(", ").map(|target| target.split_once(' ').map_or(target, |(_, server)| server))
    }

    /// The site that `name` means: the canonical text of one; or a server, with or without its port, that one of the `known` ones has; or
    /// else the site of just this server, at `port` if none is said.
    pub fn meant_by(name: &str, known: impl IntoIterator<Item = Self>, port: u16) -> Result<Self, Ambiguous> {
        let name = name.trim();
        let known: Vec<Self> = known.into_iter().collect();
        // Ranks are what no name of a server has.
        if name.contains(' ') || known.iter().any(|site| site.as_str() == name) {
            return Ok(Self::new(name));
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let server = match name.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => name,
        };
        let has_port = |server: &str| server.rsplit_once(':').is_some_and(|(host, _)| !host.starts_with('[') || host.ends_with(']'));
        let named = |target: &str| target == server || target.rsplit_once(':').is_some_and(|(host, _)| host == server);
        let mut meant: Vec<Self> = known.into_iter().filter(|site| site.targets().any(named)).collect();
        match meant.len() {
            0 if has_port(&server) => Ok(Self::new(format!("1 {server}"))),
            0 => Ok(Self::new(format!("1 {server}:{port}"))),
            1 => Ok(meant.remove(0)),
            _ => {
                meant.sort_unstable();
                Err(Ambiguous(meant))
            }
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("several sites have this server, so that one of them is to be named in full:")?;
        self.0.iter().try_for_each(|site| write!(f, " \"{site}\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_names_a_site_by_a_server_of_it() {
        let known = ["1 mx1.one.test:25, 2 mx2.one.test:25", "1 mx2.one.test:25", "1 127.0.0.1:2525", "1 [2001:db8::1]:25"].map(Site::new);
        let meant = |name| Site::meant_by(name, known.clone(), 25).map(|site| site.to_string());
        for (name, site) in [
            ("1 mx1.one.test:25, 2 mx2.one.test:25", "1 mx1.one.test:25, 2 mx2.one.test:25"),
            ("mx1.one.test", "1 mx1.one.test:25, 2 mx2.one.test:25"),
            ("MX1.one.test.", "1 mx1.one.test:25, 2 mx2.one.test:25"),
            ("mx1.one.test:25", "1 mx1.one.test:25, 2 mx2.one.test:25"),
            ("127.0.0.1:2525", "1 127.0.0.1:2525"),
            ("127.0.0.1", "1 127.0.0.1:2525"),
            ("2001:db8::1", "1 [2001:db8::1]:25"),
            ("[2001:db8::1]", "1 [2001:db8::1]:25"),
            // Unknown as yet.
            ("mx1.one.test:26", "1 mx1.one.test:26"),
            ("mx.two.test", "1 mx.two.test:25"),
            ("2001:db8::2", "1 [2001:db8::2]:25"),
            ("[2001:db8::2]:26", "1 [2001:db8::2]:26"),
            ("1 mx.two.test:25, 1 mx.three.test:25", "1 mx.two.test:25, 1 mx.three.test:25"),
        ] {
            assert_eq!(meant(name), Ok(site.to_owned()), "{name}");
        }
        // What is known by a name of that kind is what is meant by it.
        let odd = Site::new("mx.odd.test:25");
        assert_eq!(Site::meant_by("mx.odd.test:25", [odd.clone(), Site::new("1 mx.odd.test:25")], 25), Ok(odd));
        let Err(several) = meant("mx2.one.test") else { panic!("two have it") };
        assert!(several.to_string().ends_with(r#" "1 mx1.one.test:25, 2 mx2.one.test:25" "1 mx2.one.test:25""#), "{several}");
    }
}
