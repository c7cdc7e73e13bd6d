//! An API server that answers anything: what stands between an agent and the real one, and lets all pass
//! until it is told otherwise.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::world::namespace::Network;

/// The longest head of a request that is looked at.
const HEAD_MAX: u64 = 64 << 10;
/// How long one that is held up is held up: longer than any test.
const HELD_UP: Duration = Duration::from_secs(600);

/// How requests are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answers {
    /// As the API server does.
    AsItIs,
    /// With these bytes, after which the connection ends.
    Bytes(Vec<u8>),
    /// With these bytes, after which nothing comes.
    AndNoMore(Vec<u8>),
    /// As the API server does, but to a watch, which is answered with this event.
    ToWatches(String),
}

impl Answers {
    /// A response with a status, a kind of content and a text.
    pub fn status(status: &str, content: &str, text: &str) -> Self {
        let length = text.len();
        Self::Bytes(
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: {content}\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n{text}"
            )
            .into_bytes(),
        )
    }
}

/// It, until it is dropped.
#[derive(Debug)]
pub struct Faulty {
    shared: Arc<Shared>,
    /// What reaches the real one with somebody's rights.
    proxy: Child,
    kubeconfig: PathBuf,
}

#[derive(Debug)]
struct Shared {
    network: Network,
    answers: Mutex<Answers>,
    /// Connections of either side, to end when answers change.
    open: Mutex<Vec<TcpStream>>,
    upstream: SocketAddr,
}

impl Faulty {
    /// Starts it in a network, before the API server that a kubeconfig leads to; the folder keeps its own.
    pub fn start(network: &Network, kubeconfig: &Path, folder: &Path) -> Result<Self> {
        let mut proxy = network
            .command("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(super::parts::KUBECTL.program()?)
            .args(["proxy", "--port=0", "--kubeconfig"])
            .arg(kubeconfig)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(proxy.stdout.take().context("its output")?).read_line(&mut line)?;
        let upstream = line.trim().rsplit(' ').next().and_then(|address| address.parse().ok());
        let upstream = upstream.with_context(|| format!("no address in {line:?}"))?;
        let listener = network.enter(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?))?;
        let server = format!("http://{}", listener.local_addr()?);
        let (answers, open) = (Mutex::new(Answers::AsItIs), Mutex::default());
        let shared = Arc::new(Shared { network: network.clone(), answers, open, upstream });
        let serving = Arc::clone(&shared);
        // Both end with the process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                thread::spawn(move || shared.serve(client));
            }
        });
        let kubeconfig = folder.join("faulty");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "faulty",
            "clusters": [{ "name": "faulty", "cluster": { "server": server } }],
            "contexts": [{ "name": "faulty", "context": { "cluster": "faulty", "user": "nobody" } }],
            "users": [{ "name": "nobody", "user": {} }],
        });
        std::fs::write(&kubeconfig, config.to_string())?;
        Ok(Self { shared, proxy, kubeconfig })
    }

    /// What leads to it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Answers like this from now on, on connections to come.
    pub fn answer(&self, answers: Answers) {
        *lock(&self.shared.answers) = answers;
        for connection in lock(&self.shared.open).drain(..) {
            // One that has ended cannot be ended.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

impl Shared {
    /// Serves one request, and all that follow where answers are as they are.
    fn serve(&self, mut client: TcpStream) -> Option<()> {
        let answers = lock(&self.answers).clone();
        lock(&self.open).push(client.try_clone().ok()?);
        let mut reader = BufReader::new(client.try_clone().ok()?.take(HEAD_MAX));
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head).ok()? == 0 {
                return None;
            }
        }
        match answers {
            Answers::Bytes(bytes) => client.write_all(&bytes).ok(),
            Answers::AndNoMore(bytes) => {
                client.write_all(&bytes).ok()?;
                thread::park_timeout(HELD_UP);
                None
            }
            Answers::ToWatches(event) if String::from_utf8_lossy(&head).contains("watch=true") => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
                client.write_all(format!("{head}{event}\n").as_bytes()).ok()
            }
            Answers::AsItIs | Answers::ToWatches(_) => {
                let is_last = answers != Answers::AsItIs;
                self.pass(client, reader.buffer(), &mut head, is_last)
            }
        }
    }

    /// Hands on what was read, and then all that comes from either side; `is_last`: of one request alone.
    fn pass(
        &self,
        client: TcpStream,
        read: &[u8],
        head: &mut Vec<u8>,
        is_last: bool,
    ) -> Option<()> {
        let mut server = self.network.enter(|| Ok(TcpStream::connect(self.upstream)?)).ok()?;
        lock(&self.open).push(server.try_clone().ok()?);
        if is_last {
            head.truncate(head.len() - 2);
            head.extend(b"Connection: close\r\n\r\n");
        }
        server.write_all(head).and_then(|()| server.write_all(read)).ok()?;
        let (mut from_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
        let (mut from_server, mut to_client) = (server, client);
        thread::spawn(move || {
            let _ = std::io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Both);
        });
        let _ = std::io::copy(&mut from_server, &mut to_client);
        to_client.shutdown(Shutdown::Both).ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
