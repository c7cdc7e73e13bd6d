//! Why the API server did not do what it was asked.

use kube::runtime::watcher;
use tokio::time::{Duration, timeout};
use whydrop_core::chain::chain;

/// Why a request to the API server came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The API server refused it.
    #[error("{answer} ({code})")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// What it says.
        answer: String,
    },
    /// There was no answer in time.
    #[error("the API server did not answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// It was not reached, or its answer was not understood: the error and its causes.
    #[error("{0}")]
    Failed(String),
}

impl ApiError {
    /// Whether the API server does not know the object, or its kind.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// Whether whoever asks may not.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { code: 403, .. })
    }

    /// Whether there is another object of this name, or the object is not what it was.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code: 409, .. })
    }
}

impl From<&kube::Error> for ApiError {
    fn from(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let says = if status.message.is_empty() { &status.reason } else { &status.message };
                Self::Refused { code: status.code, answer: says.clone() }
            }
            error => Self::Failed(chain(error)),
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&watcher::Error> for ApiError {
    fn from(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => error.into(),
            watcher::Error::WatchError(status) => {
                Self::Refused { code: status.code, answer: status.message.clone() }
            }
            watcher::Error::NoResourceVersion => Self::Failed(error.to_string()),
        }
    }
}

/// Why a request came to nothing, in as few words as possible: what the API server says, or the last
/// cause, such as `Connection refused`.
pub fn reason(error: &kube::Error) -> String {
    if let kube::Error::Api(_) = error {
        return ApiError::from(error).to_string();
    }
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    let text = last.to_string();
    // The number says nothing that the words do not.
    let text = text.split(" (os error ").next().unwrap_or(&text);
    // Within a sentence.
    match text.split_at_checked(1) {
        Some((first, rest)) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => {
            first.to_ascii_lowercase() + rest
        }
        _ => text.to_owned(),
    }
}

/// What the API server answers, if it does within this time.
///
/// # Errors
/// That it refuses, is not reached, or takes longer.
pub async fn answered<T, E: Into<ApiError>>(
    within: Duration,
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, ApiError> {
    match timeout(within, request).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(ApiError::NoAnswer(within)),
    }
}
