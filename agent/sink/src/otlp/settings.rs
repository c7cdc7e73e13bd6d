//! Where the collector is, and how to reach it: flags, else the standard environment
//! (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).

use std::{env, fmt, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use hyper::{
    Uri,
    header::{HeaderName, HeaderValue},
    http::uri::Scheme,
};
use percent_encoding::percent_decode_str;

/// What the specification sets where nothing is set.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is appended to an endpoint that is not for logs alone, by the specification.
const LOGS_PATH: &str = "v1/logs";

/// The flags; everything else is taken from the environment.
#[derive(Clone, Debug, Default, Args)]
pub struct OtlpArgs {
    /// Send records to the OpenTelemetry Collector there [default:
    /// `$OTEL_EXPORTER_OTLP_LOGS_ENDPOINT` or `$OTEL_EXPORTER_OTLP_ENDPOINT`, else send none]
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// How to speak to it [default: `$OTEL_EXPORTER_OTLP_LOGS_PROTOCOL` or
    /// `$OTEL_EXPORTER_OTLP_PROTOCOL`, else http/protobuf]
    #[arg(long, value_name = "PROTOCOL", value_enum)]
    pub otlp_protocol: Option<Protocol>,
}

/// How records are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// As gRPC.
    Grpc,
    /// As Protocol Buffers in HTTP requests.
    #[value(name = "http/protobuf")]
    Http,
}

/// How a collector is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
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
impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        formatter
            .debug_struct("Settings")
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

impl Settings {
    /// What flags and environment say; `None` where neither names an endpoint.
    ///
    /// # Errors
    /// A value that cannot be read, by its name.
    pub fn read(args: &OtlpArgs) -> anyhow::Result<Option<Self>> {
        Self::from(args, &|name| env::var(name).ok())
    }

    /// The same, where variables are looked up elsewhere.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn from(
        args: &OtlpArgs,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Option<Self>> {
        // An empty variable is as good as none, by the specification.
        let get = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let find = |name: &str| {
            let both =
                [format!("OTEL_EXPORTER_OTLP_LOGS_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
            both.into_iter().find_map(|name| Some((get(&name)?, name)))
        };
        let endpoint = match &args.otlp_endpoint {
            Some(endpoint) => Some((endpoint.clone(), "--otlp-endpoint".to_owned())),
            None => find("ENDPOINT"),
        };
        let Some((endpoint, name)) = endpoint else { return Ok(None) };

        let protocol = match (args.otlp_protocol, find("PROTOCOL")) {
            (Some(protocol), _) => protocol,
            (None, None) => Protocol::Http,
            (None, Some((value, name))) => {
                Protocol::from_str(&value, false).ok().with_context(|| {
                    format!("{name}: expected grpc or http/protobuf, found {value:?}")
                })?
            }
        };
        let is_insecure = match find("INSECURE") {
            None => false,
            Some((value, name)) => match value.to_ascii_lowercase().as_str() {
                "true" => true,
                "false" => false,
                _ => bail!("{name}: expected true or false, found {value:?}"),
            },
        };
        let is_for_logs = name.contains("_LOGS_");
        let url = url(&endpoint, protocol, is_insecure, is_for_logs)
            .with_context(|| format!("{name}: {endpoint:?}"))?;

        let timeout = match find("TIMEOUT") {
            None => TIMEOUT,
            Some((value, name)) => {
                let milliseconds = value.trim().parse().ok().filter(|number| *number > 0);
                let milliseconds = milliseconds.with_context(|| {
                    format!("{name}: expected milliseconds, more than 0, found {value:?}")
                })?;
                Duration::from_millis(milliseconds)
            }
        };
        let is_compressed = match find("COMPRESSION") {
            None => false,
            Some((value, name)) => match value.trim() {
                "gzip" => true,
                "none" => false,
                _ => bail!("{name}: expected gzip or none, found {value:?}"),
            },
        };
        let headers = match find("HEADERS") {
            None => Vec::new(),
            // Not the value: it may hold a password.
            Some((value, name)) => headers(&value).context(name)?,
        };
        let file = |name| find(name).map(|(value, _)| PathBuf::from(value));
        let identity = match (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => bail!(
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY: \
                 expected both or neither"
            ),
        };
        Ok(Some(Self {
            url,
            protocol,
            headers,
            timeout,
            is_compressed,
            authorities: file("CERTIFICATE"),
            identity,
        }))
    }
}

/// The URL of requests. One for all signals gets the path of logs, with HTTP; one for logs is taken
/// as it is.
fn url(
    endpoint: &str,
    protocol: Protocol,
    is_insecure: bool,
    is_for_logs: bool,
) -> anyhow::Result<Uri> {
    // Where gRPC names a host and a port alone, another variable says whether it is with TLS.
    let endpoint = match (protocol, endpoint.contains("://"), is_insecure) {
        (Protocol::Grpc, false, true) => format!("http://{endpoint}"),
        (Protocol::Grpc, false, false) => format!("https://{endpoint}"),
        _ => endpoint.trim().to_owned(),
    };
    let mut parts = endpoint.parse::<Uri>()?.into_parts();
    let scheme = parts.scheme.as_ref().map(Scheme::as_str);
    ensure!(
        matches!(scheme, Some("http" | "https")) && parts.authority.is_some(),
        "expected http://HOST:PORT or https://HOST:PORT"
    );
    let has_name =
        parts.authority.as_ref().is_some_and(|authority| authority.as_str().contains('@'));
    ensure!(!has_name, "expected no name and password: OTEL_EXPORTER_OTLP_HEADERS can hold them");
    let path = parts.path_and_query.as_ref().map_or("/", |path| path.path());
    let path = match protocol {
        Protocol::Http if !is_for_logs => format!("{}/{LOGS_PATH}", path.trim_end_matches('/')),
        Protocol::Http => path.to_owned(),
        Protocol::Grpc => "/".to_owned(),
    };
    parts.path_and_query = Some(path.parse()?);
    Ok(Uri::from_parts(parts)?)
}

/// `NAME=VALUE,NAME=VALUE`, with values percent-encoded: the form of W3C Baggage without its
/// properties.
fn headers(text: &str) -> anyhow::Result<Vec<(HeaderName, HeaderValue)>> {
    let mut headers = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let number = headers.len() + 1;
        let (name, value) = pair
            .split_once('=')
            .with_context(|| format!("header {number}: expected NAME=VALUE, found no ="))?;
        let name = HeaderName::from_str(name.trim())
            .with_context(|| format!("header {number}: its name"))?;
        let value = decoded(value.trim());
        let mut value = value
            .and_then(|value| HeaderValue::from_maybe_shared(value).ok())
            .with_context(|| format!("header {name}: expected percent-encoded characters"))?;
        value.set_sensitive(true);
        headers.push((name, value));
    }
    Ok(headers)
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

    use super::*;

    fn read(args: &OtlpArgs, pairs: &[(&str, &str)]) -> anyhow::Result<Option<Settings>> {
        let pairs: HashMap<_, _> = pairs.iter().copied().collect();
        Settings::from(args, &|name| pairs.get(name).map(|value| (*value).to_owned()))
    }

    fn set(pairs: &[(&str, &str)]) -> Settings {
        read(&OtlpArgs::default(), pairs).expect("settings").expect("an endpoint")
    }

    fn fault(pairs: &[(&str, &str)]) -> String {
        format!("{:#}", read(&OtlpArgs::default(), pairs).expect_err("a fault"))
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
    fn headers_are_decoded_and_not_told() {
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
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://u:p@c", "expected no name and password"),
        ] {
            let fault = with(name, value);
            assert!(fault.contains(name) && fault.contains(expected), "{name}={value}: {fault}");
        }
    }
}
