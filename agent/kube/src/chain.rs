//! Errors of the Kubernetes client in one line, for people.

use whydrop_core::chain::chain;

/// An error of the Kubernetes client: what the API server answered and its status code, or the error
/// and its causes.
pub fn kube_chain(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let answer = if status.message.is_empty() { &status.reason } else { &status.message };
        return format!("{answer} ({})", status.code);
    }
    chain(error)
}
