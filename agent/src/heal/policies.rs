//! The policies that the healer creates, and deletes: these and no others.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
    },
    core::ObjectMeta,
};
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};
use whydrop_core::{
    heal::{Proposal, Refusal, Standing},
    incident::IncidentId,
    policy::{PolicyKind, PolicyRef},
    remedy::Manifest,
};

use super::facts;
use crate::cluster::chain::kube_chain;

/// Under which field manager policies are written.
pub(super) const MANAGER: &str = "whydrop-heal";

/// What policies of the healer's carry: a label to find them by, and who created them, for which
/// incident, until when, and whether they were seen to help.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const OWNER: &str = "whydrop.io/owner";
const INCIDENT: &str = "whydrop.io/incident";
const EXPIRES: &str = "whydrop.io/expires";
const OUTCOME: &str = "whydrop.io/outcome";

/// How long the API server may take for one answer: less than what a Lease stands.
const PATIENCE: Duration = Duration::from_secs(4);

/// A version that no object has: etcd begins to count at 1, and the API server's own objects come
/// first. With it an apply creates, and never changes what is there.
const NO_VERSION: &str = "1";

/// The cluster's policies, for one healer.
#[derive(Clone)]
pub(super) struct Policies {
    client: Client,
    /// `NAMESPACE/LEASE`: what tells the healers of two installations apart.
    owner: String,
}

/// Why something was not done.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The object is there no longer.
    Gone,
    /// It is not the healer's, or is no longer.
    Foreign(String),
    /// Anything else: it may be tried again.
    Other(String),
}

impl Policies {
    pub(super) fn new(client: Client, owner: String) -> Self {
        Self { client, owner }
    }

    /// Creates what is proposed, or has the API server say whether it would.
    ///
    /// # Errors
    /// An object of the same name, or what the API server says. Then nothing is left of it.
    pub(super) async fn create(
        &self,
        incident: IncidentId,
        proposal: &Proposal,
        expires: Timestamp,
        dry_run: bool,
    ) -> Result<Option<Standing>, Refusal> {
        let parameters = PatchParams { dry_run, ..PatchParams::apply(MANAGER) };
        let mut standing: Option<Standing> = None;
        for (manifest, policy) in proposal.manifests.iter().zip(&proposal.policies) {
            let object = self.object(incident, manifest, expires);
            let created = self.create_one(policy, &object, &parameters).await;
            match created {
                Ok(created) if !dry_run => {
                    let standing = standing.get_or_insert_with(|| Standing {
                        incident,
                        policies: Vec::new(),
                        applied: created_at(&created).unwrap_or_else(Timestamp::now),
                        expires,
                        is_kept: false,
                    });
                    standing.policies.push(policy.clone());
                }
                Ok(_) => {}
                Err(refusal) => {
                    for policy in standing.iter().flat_map(|standing| &standing.policies) {
                        if let Err(failure) = self.delete(policy).await {
                            tracing::error!("{policy} is left behind: {failure:?}");
                        }
                    }
                    return Err(refusal);
                }
            }
        }
        Ok(standing)
    }

    async fn create_one(
        &self,
        policy: &PolicyRef,
        object: &Value,
        parameters: &PatchParams,
    ) -> Result<DynamicObject, Refusal> {
        let foreign = |why: &str| Refusal::Foreign { policy: policy.clone(), why: why.to_owned() };
        let api = self.api(policy);
        match answered(api.get_opt(&policy.name)).await {
            Ok(None) => {}
            Ok(Some(_)) => return Err(foreign("an object of this name is there already")),
            Err(error) => return Err(Refusal::Api(error.into_text())),
        }
        let applied = answered(api.patch(&policy.name, parameters, &Patch::Apply(object))).await;
        match applied {
            Ok(created) => Ok(created),
            Err(Error::Api(409, _)) => Err(foreign("an object of this name has come in between")),
            Err(error) => Err(Refusal::Api(error.into_text())),
        }
    }

    /// The policies of this healer's that stand, by incident.
    ///
    /// # Errors
    /// What cannot be listed.
    pub(super) async fn standing(&self) -> Result<Vec<Standing>, String> {
        let mut standing: BTreeMap<IncidentId, Standing> = BTreeMap::new();
        for kind in [PolicyKind::NetworkPolicy, PolicyKind::CalicoNetworkPolicy] {
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource(kind));
            let ours = ListParams::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
            let listed = match answered(api.list(&ours)).await {
                Ok(listed) => listed.items,
                // A cluster without Calico's kinds.
                Err(Error::Api(404, _)) => continue,
                Err(error) => return Err(format!("{kind}: {}", error.into_text())),
            };
            for object in listed {
                let metadata = &object.metadata;
                let policy = PolicyRef {
                    kind,
                    namespace: metadata.namespace.as_deref().map(Into::into),
                    name: metadata.name.as_deref().unwrap_or_default().into(),
                };
                let read = self.is_ours(metadata).and_then(|()| of(policy.clone(), metadata));
                match read {
                    Ok(one) => match standing.get_mut(&one.incident) {
                        Some(known) => {
                            known.policies.extend(one.policies);
                            known.applied = known.applied.min(one.applied);
                            known.expires = known.expires.min(one.expires);
                            known.is_kept &= one.is_kept;
                        }
                        None => {
                            standing.insert(one.incident, one);
                        }
                    },
                    Err(why) => tracing::warn!("{kind} {policy} is left alone: {why}"),
                }
            }
        }
        Ok(standing.into_values().collect())
    }

    /// Notes on a policy that it helps, for whoever leads next.
    pub(super) async fn keep(&self, policy: &PolicyRef) -> Result<(), Failure> {
        let object = self.own(policy).await?;
        let mut annotations = object.metadata.annotations.unwrap_or_default();
        annotations.insert(OUTCOME.to_owned(), "kept".to_owned());
        let is_own = |name: &String| name.starts_with("whydrop.io/");
        annotations.retain(|name, _| is_own(name));
        // An apply says all that its manager wants; of what it leaves out, nothing stays.
        let object = json!({
            "apiVersion": resource(policy.kind).api_version,
            "kind": policy.kind.api_name(),
            "metadata": {
                "name": &*policy.name,
                "labels": { MANAGED_BY: MANAGER },
                "annotations": annotations,
                "uid": object.metadata.uid,
                "resourceVersion": object.metadata.resource_version,
            },
            "spec": object.data["spec"],
        });
        let parameters = PatchParams::apply(MANAGER);
        let api = self.api(policy);
        answered(api.patch(&policy.name, &parameters, &Patch::Apply(&object))).await?;
        Ok(())
    }

    /// Deletes a policy, if it is the healer's and is what it was a moment ago.
    pub(super) async fn delete(&self, policy: &PolicyRef) -> Result<(), Failure> {
        let object = self.own(policy).await?;
        let preconditions = Preconditions {
            uid: object.metadata.uid,
            resource_version: object.metadata.resource_version,
        };
        let parameters = DeleteParams::default().preconditions(preconditions);
        answered(self.api(policy).delete(&policy.name, &parameters)).await?;
        Ok(())
    }

    /// The `metadata.uid` of a policy that is there.
    pub(super) async fn uid(&self, policy: &PolicyRef) -> Option<String> {
        answered(self.api(policy).get_metadata_opt(&policy.name)).await.ok()??.metadata.uid
    }

    /// What a namespace's annotation says, of one that is there.
    pub(super) async fn consent(&self, namespace: &str) -> Result<Option<String>, String> {
        let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let found = answered(api.get_metadata_opt(namespace)).await.map_err(Error::into_text)?;
        let annotations = found.and_then(|found| found.metadata.annotations);
        let name = whydrop_core::heal::CONSENT_ANNOTATION;
        Ok(annotations.and_then(|annotations| annotations.get(name).cloned()))
    }

    /// A policy as it is now, if it is the healer's.
    async fn own(&self, policy: &PolicyRef) -> Result<DynamicObject, Failure> {
        let found = answered(self.api(policy).get_opt(&policy.name)).await?;
        let object = found.ok_or(Failure::Gone)?;
        self.is_ours(&object.metadata).map_err(Failure::Foreign)?;
        Ok(object)
    }

    /// Whether this healer created the object, and nobody else has written its rules since.
    fn is_ours(&self, metadata: &ObjectMeta) -> Result<(), String> {
        let label = metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
        if label.map(String::as_str) != Some(MANAGER) {
            return Err(format!("it does not have the label {MANAGED_BY}={MANAGER}"));
        }
        let owner = annotation(metadata, OWNER);
        if owner != Some(&self.owner) {
            let found = owner.map_or("is missing", String::as_str);
            return Err(format!("annotation {OWNER}: expected {}, found {found}", self.owner));
        }
        let fields = metadata.managed_fields.as_deref().unwrap_or_default();
        let writes_rules = fields.iter().filter(|entry| {
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
            fields.is_some_and(|fields| fields.get("f:spec").is_some())
        });
        let writers: Vec<&str> =
            writes_rules.map(|entry| entry.manager.as_deref().unwrap_or_default()).collect();
        match writers.as_slice() {
            [MANAGER] => Ok(()),
            [] => Err(format!("field manager {MANAGER} has not written its rules")),
            several => {
                let others: Vec<_> = several.iter().filter(|name| **name != MANAGER).collect();
                Err(format!("its rules were written by {others:?}"))
            }
        }
    }

    fn api(&self, policy: &PolicyRef) -> Api<DynamicObject> {
        let namespace = policy.namespace.as_deref().unwrap_or_default();
        Api::namespaced_with(self.client.clone(), namespace, &resource(policy.kind))
    }

    fn object(&self, incident: IncidentId, manifest: &Manifest, expires: Timestamp) -> Value {
        let (api_version, metadata, spec) = match manifest {
            Manifest::Kubernetes(policy) => {
                ("networking.k8s.io/v1", &policy.metadata, json!(policy.spec))
            }
            Manifest::Calico(policy, group) => {
                (group.api_version(), &policy.metadata, json!(policy.spec))
            }
        };
        json!({
            "apiVersion": api_version,
            "kind": "NetworkPolicy",
            "metadata": {
                "name": metadata.name,
                "namespace": metadata.namespace,
                "resourceVersion": NO_VERSION,
                "labels": { MANAGED_BY: MANAGER },
                "annotations": {
                    INCIDENT: incident.to_string(),
                    OWNER: self.owner,
                    EXPIRES: format!("{expires:.0}"),
                },
            },
            "spec": spec,
        })
    }
}

/// A policy of the healer's, by what it carries.
fn of(policy: PolicyRef, metadata: &ObjectMeta) -> Result<Standing, String> {
    let named = |name: &str| {
        annotation(metadata, name).ok_or_else(|| format!("annotation {name}: expected, found none"))
    };
    let expires = named(EXPIRES)?;
    let expires = expires.parse().map_err(|_| {
        format!("annotation {EXPIRES}: expected a time of RFC 3339, found {expires}")
    })?;
    let applied = metadata.creation_timestamp.as_ref().map(|time| time.0);
    Ok(Standing {
        incident: facts::id(INCIDENT, named(INCIDENT)?)?,
        policies: vec![policy],
        applied: applied.ok_or("metadata.creationTimestamp: expected, found none")?,
        expires,
        is_kept: annotation(metadata, OUTCOME).is_some(),
    })
}

fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a String> {
    metadata.annotations.as_ref()?.get(name)
}

fn created_at(object: &DynamicObject) -> Option<Timestamp> {
    object.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// The kinds that remedies are of, as they are stored.
fn resource(kind: PolicyKind) -> ApiResource {
    let (group, version) = match kind {
        PolicyKind::CalicoNetworkPolicy => ("crd.projectcalico.org", "v1"),
        _ => ("networking.k8s.io", "v1"),
    };
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: "NetworkPolicy".to_owned(),
        plural: "networkpolicies".to_owned(),
    }
}

/// The API server's error, or that there was no answer.
#[derive(Debug)]
enum Error {
    Api(u16, String),
    Other(String),
}

impl Error {
    fn into_text(self) -> String {
        match self {
            Self::Api(_, text) | Self::Other(text) => text,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(404, _) => Self::Gone,
            error => Self::Other(error.into_text()),
        }
    }
}

async fn answered<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error @ kube::Error::Api(_))) => {
            let kube::Error::Api(status) = &error else {
                return Err(Error::Other(kube_chain(&error)));
            };
            Err(Error::Api(status.code, kube_chain(&error)))
        }
        Ok(Err(error)) => Err(Error::Other(kube_chain(&error))),
        Err(_) => Err(Error::Other(format!("the API server does not answer within {PATIENCE:?}"))),
    }
}
