//! The file by which a client knows where an API server is and who it is there.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

/// Writes a kubeconfig that holds everything itself: the authority's certificate and the token.
///
/// It is JSON, which every reader of YAML takes.
pub fn write(path: &Path, server: &str, authority: &str, token: &str) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "lab",
            "cluster": { "server": server, "certificate-authority-data": STANDARD.encode(authority) },
        }],
        "users": [{ "name": "lab", "user": { "token": token } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
        "current-context": "lab",
    });
    fs::write(path, config.to_string()).with_context(|| path.display().to_string())
}
