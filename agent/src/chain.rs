//! Errors in one line, for people.

/// The error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}

/// An error of the Kubernetes client: what the API server answered and its status code, or the error
/// and its causes.
pub(crate) fn kube_chain(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let answer = if status.message.is_empty() { &status.reason } else { &status.message };
        return format!("{answer} ({})", status.code);
    }
    chain(error)
}
