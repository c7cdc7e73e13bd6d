//! Where the collector is, and how to reach it: flags, else the standard environment
//! (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).

use std::{env, fmt, path::PathBuf, str::FromStr, time::Duration};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use hyper::{
    Uri,
    header::{HeaderName, HeaderValue},
    http::{self, uri::Scheme},
};
use percent_encoding::percent_decode_str;

/// What the specification sets where nothing is set.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is appended to an endpoint that is not for logs alone, by the specification.
const LOGS_PATH: &str = "v1/logs";

/// The flags; everything else is taken from the environment.
#[derive(Clone, Debug, Default, Args)]
pub struct OtlpArgs {
    /// OpenTelemetry Collector to send records to [default:
    /// `$OTEL_EXPORTER_OTLP_LOGS_ENDPOINT` or `$OTEL_EXPORTER_OTLP_ENDPOINT`, else none]
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Protocol to send them with [default: `$OTEL_EXPORTER_OTLP_LOGS_PROTOCOL` or
    /// `$OTEL_EXPORTER_OTLP_PROTOCOL`, else http/protobuf]
    #[arg(long, value_name = "PROTOCOL", value_enum)]
    pub otlp_protocol: Option<Protocol>,
}

/// How records are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Protocol Buffers in HTTP requests.
    #[value(name = "http/protobuf")]
    Http,
}

/// How a collector is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct OtlpSettings {
    /// Where requests go: the whole URL with [`Protocol::Http`], what comes before the method with
    /// [`Protocol::Grpc`].
    pub url: Uri,
    /// How they are sent.
    pub protocol: Protocol,
    /// Sent with each request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long the answer to a request is waited for.
    pub timeout: Duration,
    /// Requests are compressed.
    pub is_compressed: bool,
    /// Certificates that the collector's is trusted by; `None`: the system's.
    pub authorities: Option<PathBuf>,
    /// The certificate and the key to show to the collector.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Without the headers' values, which may hold a password.
impl fmt::Debug for OtlpSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        formatter
            .debug_struct("OtlpSettings")
            .field("url", &self.url)
            .field("protocol", &self.protocol)
            .field("headers", &names)
            .field("timeout", &self.timeout)
            .field("is_compressed", &self.is_compressed)
            .field("authorities", &self.authorities)
            .field("identity", &self.identity)
            .finish()
    }
}

impl OtlpSettings {
    /// What flags and environment say; `None` where neither names an endpoint.
    ///
    /// # Errors
    /// A value that cannot be used, by its name.
    pub fn read(args: &OtlpArgs) -> Result<Option<Self>, SettingError> {
        Self::from(args, &|name| env::var(name).ok())
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.authorities.iter().chain(identity)
    }

    /// The same, where variables are looked up elsewhere.
    ///
    /// # Errors
    /// As [`OtlpSettings::read`].
    pub fn from(
        args: &OtlpArgs,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, SettingError> {
        let variables = Variables(variable);
        let endpoint = match &args.otlp_endpoint {
            Some(endpoint) => Some((endpoint.clone(), "--otlp-endpoint".to_owned())),
            None => variables.find("ENDPOINT"),
        };
        let Some((endpoint, name)) = endpoint else { return Ok(None) };
        let protocol = match args.otlp_protocol {
            Some(protocol) => protocol,
            None => variables.one_of("PROTOCOL", PROTOCOLS)?.unwrap_or(Protocol::Http),
        };
        let is_insecure = variables.one_of("INSECURE", BOOLEANS)?.unwrap_or(false);
        let endpoint = Endpoint {
            text: endpoint.trim(),
            scheme: if is_insecure { "http" } else { "https" },
            signals: if name.contains("_LOGS_") { Signals::Logs } else { Signals::All },
        };
        let url = endpoint.url(protocol);
        let url = url.map_err(|source| SettingError::Endpoint { name, source })?;
        Ok(Some(Self {
            url,
            protocol,
            headers: variables.headers()?,
            timeout: variables.timeout()?,
            is_compressed: variables.one_of("COMPRESSION", COMPRESSIONS)?.unwrap_or(false),
            authorities: variables.file("CERTIFICATE"),
            identity: match (variables.file("CLIENT_CERTIFICATE"), variables.file("CLIENT_KEY")) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                (None, None) => None,
                _ => return Err(SettingError::HalfIdentity),
            },
        }))
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// A value other than those that are expected.
    #[error("{name}: expected {expected}, found {found:?}")]
    Value {
        /// The variable.
        name: String,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// An endpoint that requests cannot be sent to. Without its value, which may hold a password, a key
    /// or a token in any of its parts.
    #[error("{name}")]
    Endpoint {
        /// The flag or the variable.
        name: String,
        /// What is wrong with it.
        source: EndpointError,
    },
    /// A header that cannot be sent. Without its value, which may be a password.
    #[error("{name}: header {header}: expected {expected}")]
    Header {
        /// The variable.
        name: String,
        /// The header's number or name.
        header: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A client's certificate without its key, or a key without its certificate.
    #[error(
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY: expected both or \
         neither"
    )]
    HalfIdentity,
}

/// What is wrong with an endpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// It is no URL.
    #[error(transparent)]
    NoUrl(#[from] http::Error),
    /// It has another scheme, or no host.
    #[error("expected http://HOST:PORT or https://HOST:PORT")]
    NotHttp,
    /// Nothing can listen at its port.
    #[error("expected a port from 1 to 65535")]
    Port,
    /// It holds a user name.
    #[error("expected no user name and password: set OTEL_EXPORTER_OTLP_HEADERS instead")]
    UserName,
}

/// The values of a variable: what each stands for, and how to name them.
#[derive(Clone, Copy)]
struct Choices<T: 'static>(&'static [(&'static str, T)], &'static str);

const PROTOCOLS: Choices<Protocol> = Choices(
    &[("grpc", Protocol::Grpc), ("http/protobuf", Protocol::Http)],
    "grpc or http/protobuf",
);
const BOOLEANS: Choices<bool> = Choices(&[("true", true), ("false", false)], "true or false");
const COMPRESSIONS: Choices<bool> = Choices(&[("gzip", true), ("none", false)], "gzip or none");

/// The environment, in which a variable may be set for logs or for all signals.
struct Variables<'v>(&'v dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    /// The value of a variable and its full name. An empty variable is as good as none, by the
    /// specification.
    fn find(&self, name: &str) -> Option<(String, String)> {
        let both =
            [format!("OTEL_EXPORTER_OTLP_LOGS_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
        both.into_iter().find_map(|name| {
            let value = (self.0)(&name).filter(|value| !value.trim().is_empty())?;
            Some((value, name))
        })
    }

    /// A value that is one of a few, in any case.
    fn one_of<T: Copy>(
        &self,
        name: &str,
        Choices(choices, expected): Choices<T>,
    ) -> Result<Option<T>, SettingError> {
        let Some((found, name)) = self.find(name) else { return Ok(None) };
        match choices.iter().find(|(value, _)| found.trim().eq_ignore_ascii_case(value)) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => Err(SettingError::Value { name, expected, found }),
        }
    }

    fn timeout(&self) -> Result<Duration, SettingError> {
        let Some((found, name)) = self.find("TIMEOUT") else { return Ok(TIMEOUT) };
        match found.trim().parse() {
            Ok(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
            _ => Err(SettingError::Value { name, expected: "milliseconds, more than 0", found }),
        }
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.find(name).map(|(value, _)| PathBuf::from(value))
    }

    /// `NAME=VALUE,NAME=VALUE`, with values percent-encoded: the form of W3C Baggage without its
    /// properties.
    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, SettingError> {
        let Some((text, name)) = self.find("HEADERS") else { return Ok(Vec::new()) };
        let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        (1..).zip(pairs).map(|(number, pair)| header(&name, number, pair)).collect()
    }
}

/// One header of the variable `variable`.
fn header(
    variable: &str,
    number: usize,
    pair: &str,
) -> Result<(HeaderName, HeaderValue), SettingError> {
    let wrong = |header: String, expected| SettingError::Header {
        name: variable.to_owned(),
        header,
        expected,
    };
    let (name, value) =
        pair.split_once('=').ok_or_else(|| wrong(number.to_string(), "NAME=VALUE, found no ="))?;
    let name = HeaderName::from_str(name.trim())
        .map_err(|_| wrong(number.to_string(), "the name of a header before the ="))?;
    let value = decoded(value.trim()).and_then(|value| HeaderValue::from_maybe_shared(value).ok());
    let mut value = value.ok_or_else(|| wrong(name.to_string(), "percent-encoded characters"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// Which signals an endpoint is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signals {
    /// All of them: requests with logs go to a path below it.
    All,
    /// Logs alone: requests go to the endpoint as it is.
    Logs,
}

/// An endpoint as it is written.
struct Endpoint<'e> {
    text: &'e str,
    /// The scheme where it has none, which gRPC allows.
    scheme: &'static str,
    signals: Signals,
}

impl Endpoint<'_> {
    /// The URL of requests.
    fn url(&self, protocol: Protocol) -> Result<Uri, EndpointError> {
        let text = match protocol {
            Protocol::Grpc if !self.text.contains("://") => {
                format!("{}://{}", self.scheme, self.text)
            }
            _ => self.text.to_owned(),
        };
        let mut parts = text.parse::<Uri>().map_err(http::Error::from)?.into_parts();
        let scheme = parts.scheme.as_ref().map(Scheme::as_str);
        let Some(authority) =
            parts.authority.as_ref().filter(|_| matches!(scheme, Some("http" | "https")))
        else {
            return Err(EndpointError::NotHttp);
        };
        if authority.as_str().contains('@') {
            return Err(EndpointError::UserName);
        }
        // The parser takes any number.
        let after_host = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
        let port = after_host.strip_prefix(':').map(str::parse::<u16>);
        if !(after_host.is_empty() || matches!(port, Some(Ok(1..)))) {
            return Err(EndpointError::Port);
        }
        let path = parts.path_and_query.as_ref().map_or("/", |path| path.path());
        let path = match (protocol, self.signals) {
            (Protocol::Http, Signals::All) => {
                format!("{}/{LOGS_PATH}", path.trim_end_matches('/'))
            }
            (Protocol::Http, Signals::Logs) => path.to_owned(),
            (Protocol::Grpc, _) => "/".to_owned(),
        };
        parts.path_and_query = Some(path.parse().map_err(http::Error::from)?);
        Ok(Uri::from_parts(parts).map_err(http::Error::from)?)
    }
}

/// What percent-encoding stands for; `None` where a `%` is not followed by two hex digits, which the
/// decoder would leave as it is.
pub(super) fn decoded(text: &str) -> Option<Bytes> {
    let is_byte = |rest: &str| {
        rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let is_encoded = text.split('%').skip(1).all(is_byte);
    is_encoded.then(|| percent_decode_str(text).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use whydrop_core::chain::chain;

    use super::*;

    fn read(args: &OtlpArgs, pairs: &[(&str, &str)]) -> Result<Option<OtlpSettings>, SettingError> {
        let pairs: HashMap<_, _> = pairs.iter().copied().collect();
        OtlpSettings::from(args, &|name| pairs.get(name).map(|value| (*value).to_owned()))
    }

    fn set(pairs: &[(&str, &str)]) -> OtlpSettings {
        read(&OtlpArgs::default(), pairs).expect("settings").expect("an endpoint")
    }

    fn fault(pairs: &[(&str, &str)]) -> String {
        chain(&read(&OtlpArgs::default(), pairs).expect_err("a fault"))
    }

    #[test]
    fn nothing_is_sent_unless_an_endpoint_is_named() {
        let none = read(&OtlpArgs::default(), &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
        assert_eq!(none.expect("settings"), None);
        let empty = read(&OtlpArgs::default(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]);
        assert_eq!(empty.expect("settings"), None);
    }

    #[test]
    fn an_endpoint_for_all_signals_gets_the_path_of_logs_and_one_for_logs_does_not() {
        for (name, endpoint, expected) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318", "http://c:4318/v1/logs"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/", "http://c:4318/v1/logs"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/a/b", "https://c/a/b/v1/logs"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://c:4318", "http://c:4318/"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://c/mine", "http://c/mine"),
        ] {
            assert_eq!(set(&[(name, endpoint)]).url, expected, "{name}={endpoint}");
        }
    }

    #[test]
    fn a_grpc_endpoint_may_lack_its_scheme_which_another_variable_gives() {
        let grpc = |endpoint, insecure| {
            set(&[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
                ("OTEL_EXPORTER_OTLP_INSECURE", insecure),
            ])
            .url
            .to_string()
        };
        assert_eq!(grpc("c:4317", ""), "https://c:4317/");
        assert_eq!(grpc("c:4317", "true"), "http://c:4317/");
        assert_eq!(grpc("https://c:4317", "true"), "https://c:4317/", "a scheme says it itself");
    }

    #[test]
    fn flags_come_before_variables_of_logs_and_those_before_variables_of_all() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:1"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "gzip"),
        ];
        let settings = set(&variables);
        assert_eq!(settings.url, "http://logs:1/");
        assert_eq!(settings.timeout, Duration::from_millis(2500));
        assert!(settings.is_compressed);
        let args = OtlpArgs {
            otlp_endpoint: Some("http://flag:4317".to_owned()),
            otlp_protocol: Some(Protocol::Grpc),
        };
        let settings = read(&args, &variables).expect("settings").expect("an endpoint");
        assert_eq!((settings.url.host(), settings.protocol), (Some("flag"), Protocol::Grpc));
    }

    #[test]
    fn headers_are_decoded_and_not_shown() {
        let settings = set(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20s3cret%3D, x-tenant = a ,"),
        ]);
        let [(authorization, bearer), (tenant, a)] = settings.headers.as_slice() else {
            panic!("{settings:?}")
        };
        assert_eq!((authorization.as_str(), tenant.as_str()), ("authorization", "x-tenant"));
        assert_eq!((bearer.as_bytes(), a.as_bytes()), (&b"Bearer s3cret="[..], &b"a"[..]));
        assert!(!format!("{settings:?} {:?}", settings.headers).contains("s3cret"));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_what_was_expected() {
        let with =
            |name, value| fault(&[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://c"), (name, value)]);
        for (name, value, expected) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "expected grpc or http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "expected milliseconds"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "expected gzip or none"),
            ("OTEL_EXPORTER_OTLP_INSECURE", "yes", "expected true or false"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a", "header 1: expected NAME=VALUE"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%zz", "header a: expected percent-encoded"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key", "expected both or neither"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "c:4318", "expected http://HOST:PORT"),
            (
                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
                "http://u:p@c",
                "expected no user name and password",
            ),
        ] {
            let fault = with(name, value);
            assert!(fault.contains(name) && fault.contains(expected), "{name}={value}: {fault}");
        }
    }

    #[test]
    fn an_endpoint_that_cannot_be_used_is_not_repeated() {
        for endpoint in [
            "http://user:s3cret@c:4318",
            "http://s3cret@c",
            "ftp://c/s3cret",
            "http://c:99999/s3cret?key=s3cret",
            "http://c:0/s3cret",
            "http://c:/s3cret",
            "http://[::1]:70000/s3cret",
            "http://c d/s3cret",
            "s3cret",
        ] {
            for protocol in ["grpc", "http/protobuf"] {
                let pairs = [
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ];
                let Err(fault) = read(&OtlpArgs::default(), &pairs) else {
                    // Without a scheme it is a host to gRPC.
                    assert_eq!((endpoint, protocol), ("s3cret", "grpc"));
                    continue;
                };
                let fault = chain(&fault);
                assert!(fault.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: "), "{fault}");
                assert!(!fault.contains("s3cret"), "{fault}");
            }
        }
        for endpoint in ["http://c", "http://c:1", "https://c:65535/x", "http://[::1]:4318"] {
            set(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]);
        }
    }
}
