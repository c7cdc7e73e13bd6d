//! The HTTP server: `/healthz` and `/readyz` for the kubelet's probes, `/metrics` for Prometheus.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{Duration, Instant, timeout},
};

use crate::metrics::{self, Metrics};

/// The agent counts as dead if it has not reported for this long: it does so every second.
const BEAT_SECONDS_MAX: u64 = 20;

/// A client that sends nothing for this long is disconnected.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// So is one that does not read its answer for this long: twice what Prometheus waits for one
/// (`scrape_timeout`, 10 s).
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// How many are served at a time; more wait in the kernel's queue. A node's kubelet and two
/// Prometheus make a handful, and each answer takes up to some 300 kB while it is written.
const CONNECTIONS_MAX: usize = 32;

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is in use, or is not this machine's.
    #[error("cannot serve HTTP at {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
}

/// What the probes are answered from; written by the agent's task alone.
#[derive(Clone, Debug)]
pub struct Health(Arc<Beat>);

#[derive(Debug)]
struct Beat {
    began: Instant,
    /// Seconds after it began: no clock that is set has to do with it.
    last_second: AtomicU64,
    is_ready: AtomicBool,
}

impl Health {
    /// Starts the server, if there is an address.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(address: Option<SocketAddr>, metrics: Metrics) -> Result<Self, HttpError> {
        let health = Self::new(Instant::now());
        if let Some(address) = address {
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|source| HttpError::Bind { address, source })?;
            tokio::spawn(serve(listener, health.clone(), metrics));
        }
        Ok(health)
    }

    fn new(now: Instant) -> Self {
        let (last_second, is_ready) = (AtomicU64::new(0), AtomicBool::new(false));
        Self(Arc::new(Beat { began: now, last_second, is_ready }))
    }

    /// The agent's main loop runs, and is ready or not.
    pub fn beat(&self, is_ready: bool) {
        self.beat_at(Instant::now(), is_ready);
    }

    fn beat_at(&self, now: Instant, is_ready: bool) {
        self.0.last_second.store((now - self.0.began).as_secs(), Ordering::Relaxed);
        self.0.is_ready.store(is_ready, Ordering::Relaxed);
    }

    fn answer(&self, path: &str, now: Instant) -> (StatusCode, &'static str) {
        let last = self.0.last_second.load(Ordering::Relaxed);
        let silent = (now - self.0.began).as_secs().saturating_sub(last);
        let is_alive = silent <= BEAT_SECONDS_MAX;
        match path {
            "/healthz" if is_alive => (StatusCode::OK, "ok\n"),
            "/readyz" if is_alive && self.0.is_ready.load(Ordering::Relaxed) => {
                (StatusCode::OK, "ok\n")
            }
            "/healthz" => (StatusCode::SERVICE_UNAVAILABLE, "the agent's main loop is stuck\n"),
            "/readyz" => {
                (StatusCode::SERVICE_UNAVAILABLE, "the cluster's objects are not synced yet\n")
            }
            _ => (StatusCode::NOT_FOUND, "expected /healthz, /readyz or /metrics\n"),
        }
    }
}

async fn serve(listener: TcpListener, health: Health, metrics: Metrics) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Nobody closes it.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        // Out of file descriptors, for instance: the next probe may succeed.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(HEADER_TIMEOUT).await;
            continue;
        };
        let (health, metrics) = (health.clone(), metrics.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let response = match request.uri().path() {
                "/metrics" => scraped(&metrics),
                path => probed(&health, path),
            };
            async { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(async move {
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
            let served = server.serve_connection(TokioIo::new(stream), service);
            // A client that goes away, or does not read, is no news.
            let _ = timeout(CONNECTION_TIMEOUT, served).await;
            drop(place);
        });
    }
}

fn scraped(metrics: &Metrics) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(metrics.text()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
    response
}

fn probed(health: &Health, path: &str) -> Response<Full<Bytes>> {
    let (status, text) = health.answer(path, Instant::now());
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_more_than_alive_and_neither_lasts_without_a_beat() {
        let now = Instant::now();
        let health = Health::new(now);
        let code = |path, now| health.answer(path, now).0.as_u16();
        health.beat_at(now, false);
        assert_eq!((code("/healthz", now), code("/readyz", now)), (200, 503));
        health.beat_at(now, true);
        assert_eq!((code("/healthz", now), code("/readyz", now)), (200, 200));
        let later = now + Duration::from_secs(60);
        assert_eq!((code("/healthz", later), code("/readyz", later)), (503, 503));
        assert_eq!(code("/", now), 404);
    }
}
