//! TLS: takes a connection and what is asked of it, hands on an encrypted one. One verifier per requirement, chosen before the handshake.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ProtocolVersion, RootCertStore, SignatureScheme};
use thiserror::Error;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Io;
use super::certificate::{Chain, Noting, Roots, Shown};
use crate::config::{Action, Config, TlsMode};
use crate::outcome::Fault;
use crate::route::Endpoint;

/// Why TLS cannot be set up as configured.
#[derive(Debug, Error)]
pub enum TlsSetupError {
    /// `tls.ca_file` cannot be read.
    #[error("tls.ca_file {path:?}: {detail}")]
    CaFile {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Certificates are to be verified and there is nothing to verify them against.
    #[error(
        "\"verify\" or \"implicit\" is configured, but no trusted certificates were found: install the system's, or set tls.ca_file{detail}"
    )]
    NoRoots {
        /// What the system's store said, or nothing.
        detail: String,
    },
    /// The provider does not do what rustls asks of it: a build that cannot work.
    #[error("TLS provider: {0}")]
    Provider(#[from] rustls::Error),
}

/// A handshake per requirement.
#[derive(Clone)]
pub(super) struct Connectors {
    /// `opportunistic` and `require`: any certificate.
    any: TlsConnector,
    /// `verify` and `implicit`: one that proves the name.
    proven: TlsConnector,
    verifiers: Arc<Verifiers>,
}

/// What the connectors judge by.
struct Verifiers {
    any: Arc<AnyCertificate>,
    roots: Roots,
}

/// An encrypted connection and how to name it in the log.
pub(super) struct Encrypted {
    pub(super) io: Box<dyn Io>,
    /// As in [`crate::outcome::Peer::tls`].
    pub(super) described: Arc<str>,
}

impl Connectors {
    /// Reads the trusted certificates.
    pub(super) fn new(config: &Config) -> Result<Self, TlsSetupError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = || ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let mut schemes = provider.signature_verification_algorithms.supported_schemes();
        // Old servers with TLS 1.2 know nothing else; nothing is proven here anyway.
        schemes.extend([SignatureScheme::RSA_PKCS1_SHA1, SignatureScheme::ECDSA_SHA1_Legacy]);
        let verifiers = Arc::new(Verifiers { any: Arc::new(AnyCertificate { schemes }), roots: roots(config)? });
        let any = builder()?.dangerous().with_custom_certificate_verifier(verifiers.any.clone()).with_no_client_auth();
        let proven = builder()?.with_root_certificates(verifiers.roots.store.clone()).with_no_client_auth();
        Ok(Self { any: TlsConnector::from(Arc::new(any)), proven: TlsConnector::from(Arc::new(proven)), verifiers })
    }

    /// The same, noting the certificates that are shown. No session is resumed: a resumed one shows none.
    pub(super) fn noting(&self, shown: &Shown) -> Self {
        let noting = |connector: &TlsConnector, inner: Arc<dyn ServerCertVerifier>| {
            let mut config = ClientConfig::clone(connector.config());
            config.resumption = Resumption::disabled();
            config.dangerous().set_certificate_verifier(Arc::new(Noting { inner, shown: shown.clone() }));
            TlsConnector::from(Arc::new(config))
        };
        let Verifiers { any, roots } = &*self.verifiers;
        let provider = Arc::new(aws_lc_rs::default_provider());
        // Without any root there is no verifier, and no certificate that could be proven: the connector refuses them all as it is.
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.store.clone(), provider).build();
        let proven = verifier.map_or_else(|_| self.proven.clone(), |verifier| noting(&self.proven, verifier));
        Self { any: noting(&self.any, any.clone()), proven, verifiers: self.verifiers.clone() }
    }

    /// What certificates say, and whether they prove the endpoint's name.
    pub(super) fn judge(&self, shown: &[CertificateDer<'_>], endpoint: &Endpoint) -> Chain {
        Chain::judge(shown, server_name(endpoint).as_ref(), &self.verifiers.roots)
    }

    /// Shakes hands as `endpoint` requires.
    pub(super) async fn handshake(&self, io: Box<dyn Io>, endpoint: &Endpoint, limit: Duration) -> Result<Encrypted, Fault> {
        let failed = |detail: String| Fault::TlsHandshake { detail };
        let proven = matches!(endpoint.tls, TlsMode::Verify | TlsMode::Implicit);
        let name = match server_name(endpoint) {
            Some(name) => name,
            // Without a name there is no SNI, which is all that it is for here.
            None if !proven => ServerName::IpAddress(endpoint.address.ip().into()),
            None => return Err(failed(format!("{:?} is no name that a certificate could prove", endpoint.host))),
        };
        let connector = if proven { &self.proven } else { &self.any };
        let stream = match timeout(limit, Box::pin(connector.connect(name, io))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("not finished within {}", humantime::format_duration(limit)))),
        };
        let described = describe(&stream, proven);
        Ok(Encrypted { io: Box::new(stream), described })
    }
}

/// The system's certificates and those of `tls.ca_file`.
fn roots(config: &Config) -> Result<Roots, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    let of_system = roots.len();
    if let Some(path) = &config.tls.ca_file {
        let error = |detail: String| TlsSetupError::CaFile { path: path.clone(), detail };
        let mut found = 0;
        for certificate in CertificateDer::pem_file_iter(path).map_err(|e| error(e.to_string()))? {
            roots.add(certificate.map_err(|e| error(e.to_string()))?).map_err(|e| error(e.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(error("no certificate in it (PEM is expected)".to_owned()));
        }
    }
    let verifies = |mode: TlsMode| matches!(mode, TlsMode::Verify | TlsMode::Implicit);
    let wanted = verifies(config.tls.mode)
        || config.dns.overrides.iter().any(|rule| matches!(rule.action, Action::Send { tls, .. } if verifies(tls)));
    if wanted && roots.is_empty() {
        let detail = system.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        return Err(TlsSetupError::NoRoots { detail });
    }
    Ok(Roots { store: Arc::new(roots), system: of_system })
}

/// What the certificate has to prove: the host's name, or its address where routing was given a literal.
fn server_name(endpoint: &Endpoint) -> Option<ServerName<'static>> {
    let host = endpoint.host.strip_suffix('.').unwrap_or(&endpoint.host);
    if host.starts_with('[') {
        return Some(ServerName::IpAddress(endpoint.address.ip().into()));
    }
    ServerName::try_from(host.to_owned()).ok()
}

fn describe(stream: &TlsStream<Box<dyn Io>>, proven: bool) -> Arc<str> {
    let (_, connection) = stream.get_ref();
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    };
    let cipher = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
    format!("{version} {cipher}{}", if proven { " verified" } else { "" }).into()
}

/// Takes every certificate and every signature under it. An encrypted session with whoever answers is better than the clear text that
/// would be the alternative (RFC 7435), and old certificates (version 1, RSA with 1024 bits) would fail even at the signatures.
#[derive(Debug)]
struct AnyCertificate {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
