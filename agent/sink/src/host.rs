//! Where the agent runs, as far as sinks depend on it.

use std::path::Path;

use kube::Client;

/// Where the agent runs, as far as sinks depend on it.
#[derive(Clone, Copy)]
pub struct AgentHost<'p> {
    /// Its node.
    pub node: &'p str,
    /// The folder for state that survives a restart; `None`: none does.
    pub folder: Option<&'p Path>,
    /// The client of the API server; `None`: there is none.
    pub client: Option<&'p Client>,
}
