//! Everything that the healer does is reported: as a record, and as an Event on the policy, or on the
//! namespace where there is none.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::time::Duration;
use whydrop_core::{kinds, policy::PolicyRef};

use super::policies::Policies;
use crate::{
    cluster::api_error::answered,
    report::{
        Record,
        heal::{HealAction, HealRecord},
        text::heal_sentence,
    },
    sink::{
        Sink as _,
        events::bounded,
        log::{Format, Log},
    },
};

/// By which controller Events say that they were written.
const CONTROLLER: &str = "whydrop.io/heal";

/// How long the API server may take for an Event: they are help, not record.
const PATIENCE: Duration = Duration::from_secs(4);

/// Reports what is done.
pub(super) struct Reporting {
    log: Log,
    events: Recorder,
    policies: Policies,
}

impl Reporting {
    pub(super) fn new(
        client: Client,
        format: Format,
        identity: String,
        policies: Policies,
    ) -> Self {
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(identity) };
        Self { log: Log::start(format), events: Recorder::new(client, reporter), policies }
    }

    /// Writes a record, and its Event in the namespaces of the policies, or in this one.
    pub(super) async fn report(
        &self,
        record: HealRecord,
        policies: &[PolicyRef],
        namespace: Option<&str>,
    ) {
        let (action, note) = (record.action, bounded(&heal_sentence(&record)));
        let note = format!("incident {}: {note}", record.incident);
        self.log.write(&Record::from(record).into());
        let mut regarding = Vec::new();
        for policy in policies {
            // One that is not there yet, or no longer, has no uid.
            regarding.push(reference(policy, self.policies.uid(policy).await));
        }
        if let Some(namespace) = namespace {
            regarding.push(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Namespace".to_owned()),
                name: Some(namespace.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectReference::default()
            });
        }
        let event = Event {
            type_: match action {
                HealAction::Proposed
                | HealAction::Applied
                | HealAction::Kept
                | HealAction::Expired => EventType::Normal,
                HealAction::RolledBack | HealAction::Expiring | HealAction::Refused => {
                    EventType::Warning
                }
            },
            reason: action.reason().to_owned(),
            note: Some(bounded(&note)),
            action: "Heal".to_owned(),
            secondary: None,
        };
        for regarding in regarding {
            let published = answered(PATIENCE, self.events.publish(&event, &regarding)).await;
            if let Err(why) = published {
                tracing::warn!("an Event cannot be written: {why}");
            }
        }
    }

    /// Waits until all records are written.
    pub(super) async fn finish(mut self) {
        self.log.finish().await;
    }
}

fn reference(policy: &PolicyRef, uid: Option<String>) -> ObjectReference {
    let row = kinds::of_policy(policy.kind);
    ObjectReference {
        api_version: Some(row.api_version().to_owned()),
        kind: Some(row.kind.to_owned()),
        name: Some(policy.name.to_string()),
        namespace: policy.namespace.as_deref().map(str::to_owned),
        uid,
        ..ObjectReference::default()
    }
}
