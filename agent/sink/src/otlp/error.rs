//! What keeps records from being sent to a collector.

use std::{io, path::PathBuf};

use hyper::http;
use rustls::pki_types::pem;

use super::settings::SettingError;

/// Why the sink cannot start, or cannot make a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtlpError {
    /// A flag or a variable of the environment cannot be used.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A file of certificates or of a key cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What reading it gave.
        source: io::Error,
    },
    /// A file is not PEM, or holds something else than is needed.
    #[error("{}: expected {expected} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("{}: expected certificates in PEM, found none", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A certificate to trust cannot be used.
    #[error("{}: cannot trust this certificate", path.display())]
    Authority {
        /// The file it is in.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The certificate and the key to show to the collector cannot be used together.
    #[error("{} with {}: cannot use this certificate and key", certificate.display(), key.display())]
    Identity {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong with them.
        source: rustls::Error,
    },
    /// No file of certificates is set, and the system has none.
    #[error(
        "this system has no certificates to trust: set OTEL_EXPORTER_OTLP_CERTIFICATE to a file of \
         them"
    )]
    NoAuthorities,
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The machine has no room for the sink's thread.
    #[error("cannot start a thread for the collector")]
    Thread(#[source] io::Error),
    /// A request cannot be compressed.
    #[error("cannot compress a request")]
    Compress(#[source] io::Error),
    /// A request cannot be made of the URL and the headers.
    #[error("cannot make a request")]
    Request(#[source] http::Error),
}
