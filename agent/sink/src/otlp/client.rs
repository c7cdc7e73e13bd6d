//! Requests to a collector, and what their answers mean by the protocol's specification
//! (<https://opentelemetry.io/docs/specs/otlp/>).
//!
//! One HTTP client carries both protocols, so that there is one way of doing TLS. Where the answer
//! to a request is not known, it is sent again: at least once, by the specification.

use std::{fs, io::Write as _, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT},
    http::uri::PathAndQuery,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use prost::Message as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::Value;
use tokio::time::timeout;
use tonic::{Code, Status, client::Grpc, codec::CompressionEncoding, metadata::MetadataMap};
use tonic_types::StatusExt as _;

use super::{
    error::OtlpError,
    settings::{OtlpSettings, Protocol},
};
use whydrop_core::chain::chain;

const METHOD: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const AGENT: &str = concat!("whydrop/", env!("CARGO_PKG_VERSION"));

/// What requests are in, and answers to them.
const PROTOCOL_BUFFERS: &str = "application/x-protobuf";
/// What answers may be in as well.
const JSON: &str = "application/json";

/// A collector's answer has no more; what has is not read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A connection on which nobody answers is given up after this long, twice.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How many characters of an unexpected answer are quoted.
const WORDS_MAX: usize = 200;

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportOutcome {
    /// The collector has the events, but for some that it will never take.
    Accepted {
        /// How many it will not take.
        rejected: u64,
        /// Why, or a warning.
        message: String,
    },
    /// It may take them later.
    Retry {
        /// It asks to be left alone for this long.
        after: Option<Duration>,
        /// Why.
        why: String,
    },
    /// It will never take them.
    Refused {
        /// Why.
        why: String,
    },
}

type Connector = HttpsConnector<HttpConnector>;

/// A client of one collector; its copies share their connections.
#[derive(Clone)]
pub(super) struct Client {
    settings: Arc<OtlpSettings>,
    way: Way,
}

#[derive(Clone)]
enum Way {
    Grpc(Box<Grpc<legacy::Client<Connector, tonic::body::Body>>>),
    Http(Box<legacy::Client<Connector, Full<Bytes>>>),
}

impl Client {
    /// A client. It connects when there is something to send, and again when that fails.
    ///
    /// # Errors
    /// Certificates or a key that cannot be read.
    pub(super) fn new(settings: &Arc<OtlpSettings>) -> Result<Self, OtlpError> {
        let connector = connector(settings)?;
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new());
        let way = match settings.protocol {
            Protocol::Http => Way::Http(Box::new(builder.build(connector))),
            Protocol::Grpc => {
                builder.http2_only(true);
                builder.http2_keep_alive_interval(KEEP_ALIVE).http2_keep_alive_timeout(KEEP_ALIVE);
                let service = builder.build(connector);
                let mut grpc = Grpc::with_origin(service, settings.url.clone());
                if settings.is_compressed {
                    grpc = grpc.send_compressed(CompressionEncoding::Gzip);
                }
                // Collectors answer in what the request came in.
                grpc = grpc.accept_compressed(CompressionEncoding::Gzip);
                Way::Grpc(Box::new(grpc.max_decoding_message_size(ANSWER_BYTES_MAX)))
            }
        };
        Ok(Self { settings: Arc::clone(settings), way })
    }

    /// Sends a request, and waits for the answer no longer than the settings say.
    pub(super) async fn export(self, request: ExportLogsServiceRequest) -> ExportOutcome {
        let Self { settings, way } = self;
        let sent = async {
            match way {
                Way::Grpc(grpc) => export_grpc(*grpc, &settings, request).await,
                Way::Http(client) => export_http(&client, &settings, &request).await,
            }
        };
        // tonic panics over error details that are not base64: no answer of a collector may end
        // the thread.
        let sent = std::panic::AssertUnwindSafe(sent).catch_unwind();
        let retry = |why: String| ExportOutcome::Retry { after: None, why };
        match timeout(settings.timeout, sent).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => retry("cannot read its answer".to_owned()),
            Err(_) => retry(format!("no answer within {:?}", settings.timeout)),
        }
    }
}

async fn export_grpc(
    mut grpc: Grpc<legacy::Client<Connector, tonic::body::Body>>,
    settings: &OtlpSettings,
    request: ExportLogsServiceRequest,
) -> ExportOutcome {
    if let Err(error) = grpc.ready().await {
        return ExportOutcome::Retry { after: None, why: chain(&error) };
    }
    let mut request = tonic::Request::new(request);
    let mut headers: HeaderMap = settings.headers.iter().cloned().collect();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    request.set_timeout(settings.timeout);
    let codec = tonic_prost::ProstCodec::default();
    match grpc.unary(request, PathAndQuery::from_static(METHOD), codec).await {
        Ok(response) => accepted(response.into_inner()),
        Err(status) => of_status(&status),
    }
}

/// What a gRPC status means: the table of "OTLP/gRPC Response", "Failures".
fn of_status(status: &Status) -> ExportOutcome {
    // What did not come from the collector is an error of the connection.
    if let Some(error) = std::error::Error::source(status) {
        return ExportOutcome::Retry { after: None, why: chain(error) };
    }
    let code = format!("{:?}", status.code());
    let why = match status.message() {
        "" => code,
        message => format!("{code}: {}", words(message)),
    };
    let info = status.get_details_retry_info();
    let after = info.as_ref().and_then(|info| info.retry_delay);
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => ExportOutcome::Retry { after, why },
        // Only where the collector says that it will recover.
        Code::ResourceExhausted if info.is_some() => ExportOutcome::Retry { after, why },
        _ => ExportOutcome::Refused { why },
    }
}

async fn export_http(
    client: &legacy::Client<Connector, Full<Bytes>>,
    settings: &OtlpSettings,
    request: &ExportLogsServiceRequest,
) -> ExportOutcome {
    let request = match http_request(settings, request) {
        Ok(request) => request,
        Err(error) => return ExportOutcome::Refused { why: chain(&error) },
    };
    let response = match client.request(request).await {
        Ok(response) => response,
        Err(error) => return ExportOutcome::Retry { after: None, why: chain(&error) },
    };
    let (head, body) = response.into_parts();
    let body = match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return ExportOutcome::Retry { after: None, why: error.to_string() },
    };
    of_answer(head.status, &head.headers, &body)
}

fn http_request(
    settings: &OtlpSettings,
    request: &ExportLogsServiceRequest,
) -> Result<Request<Full<Bytes>>, OtlpError> {
    let mut body = request.encode_to_vec();
    let mut builder = Request::post(&settings.url);
    if settings.is_compressed {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&body).map_err(OtlpError::Compress)?;
        body = encoder.finish().map_err(OtlpError::Compress)?;
        builder = builder.header(CONTENT_ENCODING, "gzip");
    }
    let mut request = builder
        .header(USER_AGENT, AGENT)
        .header(CONTENT_TYPE, PROTOCOL_BUFFERS)
        .body(Full::from(body))
        .map_err(OtlpError::Request)?;
    for (name, value) in &settings.headers {
        request.headers_mut().insert(name, value.clone());
    }
    Ok(request)
}

/// What an answer over HTTP means, by its status, its `Content-Type`, its `Retry-After` and its body: for
/// tests. `None`: no HTTP has such a status or such headers.
pub fn outcome_of(
    status: u16,
    kind: Option<&[u8]>,
    retry_after: Option<&[u8]>,
    body: &[u8],
) -> Option<ExportOutcome> {
    let mut headers = HeaderMap::new();
    for (name, value) in [(CONTENT_TYPE, kind), (RETRY_AFTER, retry_after)] {
        if let Some(value) = value {
            headers.insert(name, HeaderValue::from_bytes(value).ok()?);
        }
    }
    Some(of_answer(StatusCode::from_u16(status).ok()?, &headers, body))
}

/// What an HTTP answer means: "OTLP/HTTP Response".
fn of_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ExportOutcome {
    if status.is_success() {
        // Anybody else, such as a proxy's page of welcome, has not taken the request.
        return acknowledgement(headers, body).map_or_else(
            || {
                let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                let kind = words(kind.unwrap_or("no content type"));
                let text = words(&String::from_utf8_lossy(body));
                let why = format!("{status} ({kind}), which is no collector's answer: {text}");
                ExportOutcome::Retry { after: None, why }
            },
            accepted,
        );
    }
    let why = match tonic_types::Status::decode(body) {
        Ok(answer) if !answer.message.is_empty() => {
            format!("{status}: {}", words(&answer.message))
        }
        _ if body.is_empty() => status.to_string(),
        _ => format!("{status}: {}", words(&String::from_utf8_lossy(body))),
    };
    match status.as_u16() {
        429 | 502 | 503 | 504 => {
            let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            ExportOutcome::Retry { after: after.and_then(|text| wait(text, Timestamp::now())), why }
        }
        _ => ExportOutcome::Refused { why },
    }
}

/// The collector's own word that it has the events, in one of the two forms that there are; `None`: it is
/// none. It is of no bytes where there is nothing to say. What it is in is said, or it is what the request
/// was in.
fn acknowledgement(headers: &HeaderMap, body: &[u8]) -> Option<ExportLogsServiceResponse> {
    let kind = match headers.get(CONTENT_TYPE) {
        Some(kind) => kind.to_str().ok()?,
        None => PROTOCOL_BUFFERS,
    };
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        PROTOCOL_BUFFERS => ExportLogsServiceResponse::decode(body).ok(),
        JSON if body.is_empty() => Some(ExportLogsServiceResponse::default()),
        JSON => {
            let answer: serde_json::Map<String, Value> = serde_json::from_slice(body).ok()?;
            let partial = answer.get("partialSuccess");
            let of = |name| partial.and_then(|partial| partial.get(name));
            // A number of 64 bits is a string in JSON; some write it as a number.
            let rejected = of("rejectedLogRecords").and_then(|rejected| match rejected {
                Value::String(digits) => digits.parse().ok(),
                other => other.as_i64(),
            });
            let message = of("errorMessage").and_then(Value::as_str);
            let partial_success = Some(ExportLogsPartialSuccess {
                rejected_log_records: rejected.unwrap_or_default(),
                error_message: message.unwrap_or_default().to_owned(),
            });
            Some(ExportLogsServiceResponse { partial_success })
        }
        _ => None,
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn wait(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

fn accepted(response: ExportLogsServiceResponse) -> ExportOutcome {
    let partial = response.partial_success.unwrap_or_default();
    let rejected = u64::try_from(partial.rejected_log_records).unwrap_or(0);
    ExportOutcome::Accepted { rejected, message: words(&partial.error_message) }
}

/// The first of what a collector says, on one line.
fn words(text: &str) -> String {
    let text: String = text.trim().chars().take(WORDS_MAX).collect();
    whydrop_report::escape::escape(&text).into_owned()
}

fn connector(settings: &OtlpSettings) -> Result<Connector, OtlpError> {
    let mut tcp = HttpConnector::new();
    // Of TLS it only carries the bytes.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(settings.timeout));
    tcp.set_keepalive(Some(KEEP_ALIVE));
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls(settings)?).https_or_http();
    Ok(match settings.protocol {
        Protocol::Grpc => builder.enable_http2().wrap_connector(tcp),
        Protocol::Http => builder.enable_http1().wrap_connector(tcp),
    })
}

fn tls(settings: &OtlpSettings) -> Result<ClientConfig, OtlpError> {
    let mut roots = RootCertStore::empty();
    match &settings.authorities {
        Some(path) => {
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|source| OtlpError::Authority { path: path.clone(), source })?;
            }
        }
        // Read only where they are needed: a machine without any can do without TLS.
        None if is_https(&settings.url) => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(OtlpError::NoAuthorities);
            }
        }
        None => {}
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(OtlpError::Tls)?
        .with_root_certificates(roots);
    match &settings.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let secret = read(key)?;
            let secret = PrivateKeyDer::from_pem_slice(&secret).map_err(|source| {
                OtlpError::Pem { path: key.clone(), expected: "a private key", source }
            })?;
            builder.with_client_auth_cert(chain, secret).map_err(|source| {
                let (certificate, key) = (certificate.clone(), key.clone());
                OtlpError::Identity { certificate, key, source }
            })
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, OtlpError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let path = path.to_owned();
    match found {
        Ok(found) if found.is_empty() => Err(OtlpError::NoCertificate { path }),
        Ok(found) => Ok(found),
        Err(source) => Err(OtlpError::Pem { path, expected: "certificates", source }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OtlpError> {
    fs::read(path).map_err(|source| OtlpError::File { path: path.to_owned(), source })
}

fn is_https(url: &Uri) -> bool {
    url.scheme_str() == Some("https")
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn is_retry(outcome: &ExportOutcome) -> bool {
        matches!(outcome, ExportOutcome::Retry { .. })
    }

    #[test]
    fn grpc_codes_mean_what_the_specification_says() {
        let retryable = [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unavailable,
            Code::DataLoss,
        ];
        for code in (1..=16).map(Code::from_i32) {
            let outcome = of_status(&Status::new(code, "why"));
            assert_eq!(is_retry(&outcome), retryable.contains(&code), "{code:?}: {outcome:?}");
        }
        let delay = Duration::from_millis(1500);
        for code in [Code::ResourceExhausted, Code::Unavailable] {
            let details = ErrorDetails::with_retry_info(Some(delay));
            let outcome = of_status(&Status::with_error_details(code, "full", details));
            let expected =
                ExportOutcome::Retry { after: Some(delay), why: format!("{code:?}: full") };
            assert_eq!(outcome, expected);
        }
    }

    #[test]
    fn http_codes_mean_what_the_specification_says() {
        let none = HeaderMap::new();
        for code in (300..600).filter_map(|code| StatusCode::from_u16(code).ok()) {
            let retryable = matches!(code.as_u16(), 429 | 502 | 503 | 504);
            assert_eq!(is_retry(&of_answer(code, &none, b"")), retryable, "{code}");
        }
        let answer = tonic_types::Status { message: "bad\nbatch".to_owned(), ..Default::default() };
        assert_eq!(
            of_answer(StatusCode::BAD_REQUEST, &none, &answer.encode_to_vec()),
            ExportOutcome::Refused { why: "400 Bad Request: bad\\u{a}batch".to_owned() }
        );
    }

    #[test]
    fn a_collector_says_how_long_to_leave_it_alone() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        assert_eq!(wait("7", now), Some(Duration::from_secs(7)));
        assert_eq!(wait("Fri, 02 Jan 2026 03:05:05 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(wait("Fri, 02 Jan 2026 03:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(wait("soon", now), None);
    }

    #[test]
    fn some_may_be_rejected_of_what_is_accepted() {
        let partial = ExportLogsPartialSuccess {
            rejected_log_records: 3,
            error_message: "too old".to_owned(),
        };
        let response = ExportLogsServiceResponse { partial_success: Some(partial) };
        assert_eq!(
            of_answer(StatusCode::OK, &HeaderMap::new(), &response.encode_to_vec()),
            ExportOutcome::Accepted { rejected: 3, message: "too old".to_owned() }
        );
    }

    #[test]
    fn only_a_collector_acknowledges() {
        let full = ExportLogsServiceResponse::default().encode_to_vec();
        let partial = ExportLogsPartialSuccess { rejected_log_records: 3, ..Default::default() };
        let partial = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        let json = br#"{"partialSuccess":{"rejectedLogRecords":"3"}}"#;
        for (kind, body, rejected) in [
            (None, &full[..], Some(0)),
            (None, &partial, Some(3)),
            (Some(PROTOCOL_BUFFERS), &partial, Some(3)),
            (Some("Application/X-Protobuf; charset=binary"), &full, Some(0)),
            (Some(JSON), b"{}", Some(0)),
            (Some(JSON), b"", Some(0)),
            (Some("application/json; charset=utf-8"), json, Some(3)),
            (Some(JSON), br#"{"partialSuccess":{"rejectedLogRecords":3}}"#, Some(3)),
            (Some("text/html"), b"<html>Please log in</html>", None),
            (Some("text/html"), b"", None),
            (Some("text/plain; charset=utf-8"), b"ok", None),
            (Some(JSON), b"<html>", None),
            (Some(JSON), b"[]", None),
            (Some(PROTOCOL_BUFFERS), b"<html>", None),
            (Some(PROTOCOL_BUFFERS), &partial[..1], None),
            (None, b"<html>", None),
        ] {
            let kind = kind.map(|kind| (CONTENT_TYPE, HeaderValue::from_static(kind)));
            let headers: HeaderMap = kind.into_iter().collect();
            let outcome = of_answer(StatusCode::OK, &headers, body);
            match rejected {
                Some(count) => {
                    let is_it = matches!(outcome, ExportOutcome::Accepted { rejected, .. } if rejected == count);
                    assert!(is_it, "{headers:?} {body:?}: {outcome:?}");
                }
                None => assert!(is_retry(&outcome), "{headers:?} {body:?}: {outcome:?}"),
            }
        }
    }
}
