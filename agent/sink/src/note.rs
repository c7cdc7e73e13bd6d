//! What a Kubernetes Event says about a denial.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use whydrop_core::{diagnosis::Diagnosis, docket, kinds};

use whydrop_report::{
    flow_of,
    text::{fix_command, short},
};

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
    /// What it says about a denial, and how bad its incident is.
    pub fn of(note: &docket::Note) -> Self {
        let docket::Note { pod, judged, incident, severity, at } = note;
        let Diagnosis { question, cause, .. } = &judged.judgement.diagnosis;
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.to_string()),
            name: Some(pod.name.to_string()),
            uid: pod.uid.as_deref().map(str::to_owned),
            ..ObjectReference::default()
        };
        let related = cause.policy.as_ref().map(|policy| ObjectReference {
            api_version: Some(policy.api_version.to_string()),
            kind: Some(kinds::of_policy(policy.reference.kind).kind.to_owned()),
            namespace: policy.reference.namespace.as_deref().map(str::to_owned),
            name: Some(policy.reference.name.to_string()),
            uid: policy.uid.as_deref().map(str::to_owned),
            ..ObjectReference::default()
        });
        let name = short(&incident.to_string());
        let incident_name = match severity {
            Some(severity) => format!("{severity} incident {name}"),
            None => format!("incident {name}"),
        };
        let fix = fix_command(&flow_of(&judged.judgement.diagnosis));
        let text = format!("{incident_name}: {question}: {}. Try: {fix}", cause.text);
        Self { regarding, related, text, incident: incident.0, at: *at }
    }
}
