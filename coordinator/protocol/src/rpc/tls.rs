//! TLS between machines: certificates that sign themselves, known by their fingerprint.
//!
//! There is no authority and no name to check: whoever connects knows the BLAKE3 of the one certificate that the server must show
//! (from a join file, or from the coordinator), and the handshake proves that the server has its key. TLS 1.3 alone, `ring` alone.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{Certificate, CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::join::write_private;
use crate::ids::Digest;

/// The name in certificates, and the one that is asked for. Nothing depends on it.
const NAME: &str = "shardmill";
const CERTIFICATE_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";

/// A certificate that cannot be made, kept or used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate could be made.
    #[error("cannot make a certificate")]
    Generate(#[from] rcgen::Error),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// The key is not the certificate's, or of no use.
    #[error("the certificate and its key cannot be used")]
    Unusable(#[from] rustls::Error),
}

/// A certificate and its key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Makes a new one, to be kept nowhere.
    pub fn generate() -> Result<Self, TlsError> {
        let (certificate, key) = generate()?;
        Ok(Self::new(&certificate, &key))
    }

    /// Reads the one that is kept in a directory; makes it if there is none.
    pub fn kept_in(directory: &Path) -> Result<Self, TlsError> {
        let (certificate_path, key_path) = (directory.join(CERTIFICATE_FILE), directory.join(KEY_FILE));
        if !matches!(fs::exists(&certificate_path), Ok(false)) {
            return Self::read(&certificate_path, &key_path);
        }
        let (certificate, key) = generate()?;
        let write = |path: &Path, text: String| {
            write_private(path, text.as_bytes()).map_err(|source| TlsError::Write { path: path.to_owned(), source })
        };
        // The key comes first: a certificate that is there has its key beside it.
        write(&key_path, key.serialize_pem())?;
        write(&certificate_path, certificate.pem())?;
        Ok(Self::new(&certificate, &key))
    }

    fn new(certificate: &Certificate, key: &KeyPair) -> Self {
        Self { certificate: certificate.der().clone(), key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }

    fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
        let damaged = |path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::Damaged { path, source }
        };
        let identity = Self {
            certificate: CertificateDer::from_pem_slice(&read(certificate)?).map_err(damaged(certificate))?,
            key: PrivateKeyDer::from_pem_slice(&read(key)?).map_err(damaged(key))?,
        };
        identity.acceptor()?;
        Ok(identity)
    }

    /// What the certificate is known by.
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.certificate)
    }

    /// The server's side of TLS with this certificate.
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        // Sessions are not taken up again: every connection shows the certificate.
        config.send_tls13_tickets = 0;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// The server has shown another certificate than the one that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it shows a certificate with the fingerprint {shown}, not {expected}")]
pub struct WrongFingerprint {
    /// The fingerprint that was pinned.
    pub expected: Digest,
    /// The one that was shown.
    pub shown: Digest,
}

/// The client's side of TLS, with a server that must show the certificate with this fingerprint.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(stream: S, fingerprint: Digest) -> io::Result<TlsStream<S>> {
    let provider = provider();
    let verifier = Arc::new(Pinned { fingerprint, provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    let name = ServerName::try_from(NAME).expect("it is a name as hosts have them");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Finds out whether a connection failed because of the certificate.
pub fn wrong_fingerprint(error: &io::Error) -> Option<WrongFingerprint> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => cause.downcast_ref().copied(),
        _ => None,
    }
}

fn generate() -> Result<(Certificate, KeyPair), rcgen::Error> {
    let key = KeyPair::generate()?;
    Ok((CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?, key))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Accepts one certificate.
#[derive(Debug)]
struct Pinned {
    fingerprint: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Digest::of(certificate);
        if shown == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        let wrong = WrongFingerprint { expected: self.fingerprint, shown };
        Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
