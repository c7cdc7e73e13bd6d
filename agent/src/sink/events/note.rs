//! What a Kubernetes Event says about a denial.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use whydrop_core::diagnosis::Diagnosis;

use crate::report::{DropRecord, text::fix_command};

/// What an Event says.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The pod that is affected.
    pub regarding: ObjectReference,
    /// The policy to look at first.
    pub related: Option<ObjectReference>,
    /// For people.
    pub text: String,
    /// The incident, which names the Event together with the pod.
    pub incident: u64,
    /// When it was seen.
    pub at: Timestamp,
}

impl Note {
    /// About a denial, for the pod that is affected: the one that connects, or the one that the
    /// kubelet cannot probe. `None`: no denial, or no pod.
    pub fn of(diagnosis: &Diagnosis, record: &DropRecord, at: Timestamp) -> Option<Self> {
        if !diagnosis.cause.class.is_denial() {
            return None;
        }
        let question = &diagnosis.question;
        let pod = question.source.pod().or(question.destination.pod())?;
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.to_string()),
            name: Some(pod.name.to_string()),
            uid: pod.uid.as_deref().map(str::to_owned),
            ..ObjectReference::default()
        };
        let related = diagnosis.cause.policy.as_ref().map(|policy| ObjectReference {
            api_version: Some(policy.api_version.to_string()),
            kind: Some(policy.reference.kind.api_name().to_owned()),
            namespace: policy.reference.namespace.as_deref().map(str::to_owned),
            name: Some(policy.reference.name.to_string()),
            uid: policy.uid.as_deref().map(str::to_owned),
            ..ObjectReference::default()
        });
        let text = format!("{question}: {}. Try: {}", diagnosis.cause.text, fix_command(record));
        Some(Self { regarding, related, text, incident: diagnosis.incident(), at })
    }
}
