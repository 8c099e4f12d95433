//! Takes the certificates that a peer showed, hands on what they say, and whether they prove its name.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

use crate::clock::Timestamp;

/// What a peer showed of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The peer's own first.
    pub certificates: Vec<Certificate>,
    /// The root that proves the name, or why it is not proven.
    pub proof: Result<Root, String>,
}

/// One certificate. Texts are the certificate's own: control characters may be in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who says so.
    pub issuer: String,
    /// Its DNS names and addresses.
    pub names: Vec<String>,
    /// Good from here.
    pub not_before: Timestamp,
    /// Good until here.
    pub not_after: Timestamp,
}

/// A certificate that is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Whose it is.
    pub subject: String,
    /// Whether it is of `tls.ca_file`, and not the system's.
    pub from_file: bool,
}

/// The certificates that are trusted.
#[derive(Debug, Clone)]
pub(super) struct Roots {
    pub(super) store: Arc<RootCertStore>,
    /// So many are the system's; those behind them are of `tls.ca_file`.
    pub(super) system: usize,
}

impl Chain {
    /// Reads what was shown, and judges it as `verify` would, whatever the session asked for.
    pub(super) fn judge(shown: &[CertificateDer<'_>], name: Option<&ServerName<'_>>, roots: &Roots) -> Self {
        let parsed: Vec<_> = shown.iter().map(|der| X509Certificate::from_der(der)).collect();
        let issuers: Vec<&[u8]> = parsed.iter().flatten().map(|(_, certificate)| certificate.issuer().as_raw()).collect();
        let certificates = parsed.iter().map(|parsed| match parsed {
            Ok((_, certificate)) => Certificate::of(certificate),
            Err(error) => Certificate::unreadable(&error.to_string()),
        });
        Self { certificates: certificates.collect(), proof: prove(shown, name, roots, &issuers) }
    }
}

impl Certificate {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let time = |seconds: i64| Timestamp::from_second(seconds).unwrap_or_default();
        let names = certificate.subject_alternative_name().ok().flatten().map(|extension| &extension.value.general_names);
        Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            names: names.into_iter().flatten().filter_map(shown_name).collect(),
            not_before: time(certificate.validity().not_before.timestamp()),
            not_after: time(certificate.validity().not_after.timestamp()),
        }
    }

    fn unreadable(why: &str) -> Self {
        let subject = format!("(unreadable: {why})");
        Self { subject, issuer: String::new(), names: Vec::new(), not_before: Timestamp::default(), not_after: Timestamp::default() }
    }
}

/// Mail servers are named so; other kinds of names prove nothing here.
fn shown_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match *octets {
            [a, b, c, d] => Some(std::net::Ipv4Addr::new(*a, *b, *c, *d).to_string()),
            octets => <[u8; 16]>::try_from(octets).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
        },
        _ => None,
    }
}

fn prove(shown: &[CertificateDer<'_>], name: Option<&ServerName<'_>>, roots: &Roots, issuers: &[&[u8]]) -> Result<Root, String> {
    let Some(name) = name else { return Err("the host has no name that a certificate could prove".to_owned()) };
    if roots.store.is_empty() {
        return Err("there are no trusted certificates on this host".to_owned());
    }
    verified(shown, name, roots.store.clone())?;
    // rustls does not tell by which root: each that may have issued something here is tried alone.
    let proving = roots.store.roots.iter().enumerate().find(|(_, root)| {
        let mut alone = RootCertStore::empty();
        alone.roots.push((*root).clone());
        issuers.contains(&subject_of(root).as_ref()) && verified(shown, name, Arc::new(alone)).is_ok()
    });
    Ok(match proving {
        Some((at, root)) => {
            let subject = subject_of(root);
            let subject = X509Name::from_der(subject.as_ref()).map_or_else(|_| "(unreadable)".to_owned(), |(_, name)| name.to_string());
            Root { subject, from_file: at >= roots.system }
        }
        None => Root { subject: "(several together)".to_owned(), from_file: false },
    })
}

/// As it stands in certificates.
fn subject_of(root: &TrustAnchor<'_>) -> DistinguishedName {
    DistinguishedName::in_sequence(&root.subject)
}

fn verified(shown: &[CertificateDer<'_>], name: &ServerName<'_>, roots: Arc<RootCertStore>) -> Result<(), String> {
    let Some((own, others)) = shown.split_first() else { return Err("the peer showed no certificate".to_owned()) };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build().map_err(|error| error.to_string())?;
    verifier.verify_server_cert(own, others, name, &[], UnixTime::now()).map(|_| ()).map_err(|error| error.to_string())
}

/// What a handshake showed: filled while it is under way, so that a refused certificate is seen too.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown(Arc<Mutex<Vec<CertificateDer<'static>>>>);

impl Shown {
    /// Takes out what was shown last.
    pub(super) fn take(&self) -> Vec<CertificateDer<'static>> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Notes what is shown, and leaves the judgement to another verifier.
#[derive(Debug)]
pub(super) struct Noting {
    pub(super) inner: Arc<dyn ServerCertVerifier>,
    pub(super) shown: Shown,
}

impl ServerCertVerifier for Noting {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(own).chain(others).map(|certificate| certificate.clone().into_owned()).collect();
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = all;
        self.inner.verify_server_cert(own, others, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
