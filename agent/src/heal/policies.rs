//! The policies that the healer creates, and deletes: these and no others.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions},
    core::ObjectMeta,
};
use serde_json::{Value, json};
use tokio::time::Duration;
use whydrop_core::{
    cluster::object::Kind,
    heal::{Between, CONSENT_ANNOTATION, CaseId, Proposal, Refusal, Standing},
    kinds::{self, KindRow},
    policy::{PolicyRef, origin::HEALER},
    problem::{FieldPath, Problem},
    remedy::{
        Manifest,
        mark::{INCIDENT, MANAGED_BY, Mark},
    },
};

use super::facts;
use crate::{
    cluster::{
        api_error::{ApiError, answered},
        live::lists,
        resource::resource_in,
    },
    report::text::fix_by_id,
};

/// Under which field manager policies are written.
pub(super) const MANAGER: &str = HEALER;

/// What policies of the healer's carry beside the marks of all that remedies create: who created
/// them, between which namespaces, until when, and whether they were seen to help. Anyone who may write
/// policies can write all of this: the Lease says which of it is true. Their label says that they are the healer's,
/// and no person's.
const OWNER: &str = "whydrop.io/owner";
const BETWEEN: &str = "whydrop.io/between";
const EXPIRES: &str = "whydrop.io/expires";
const OUTCOME: &str = "whydrop.io/outcome";

/// How long the API server may take for one answer: less than what a Lease is valid for.
const PATIENCE: Duration = Duration::from_secs(4);

/// A version that no object has: etcd begins to count at 1, and the API server's own objects come
/// first. With it an apply creates, and never changes what is there.
const NO_VERSION: &str = "1";

/// The cluster's policies, for one healer.
#[derive(Clone)]
pub(super) struct Policies {
    client: Client,
    /// `NAMESPACE/LEASE`: what distinguishes the healers of two installations.
    owner: String,
    /// Which of the versions of Calico's kind the API server has, by its place in the kind's row.
    served: Arc<AtomicUsize>,
}

/// Why a policy was not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PolicyError {
    /// The object is there no longer.
    #[error("it is gone")]
    Gone,
    /// It is not the healer's, or is no longer.
    #[error(transparent)]
    Foreign(NotOurs),
    /// The API server did not do it: it may be tried again.
    #[error(transparent)]
    Api(ApiError),
}

impl From<ApiError> for PolicyError {
    fn from(error: ApiError) -> Self {
        if error.is_not_found() { Self::Gone } else { Self::Api(error) }
    }
}

/// Why a policy is not the healer's.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOurs {
    /// No healer manages it.
    #[error("it does not have the label {MANAGED_BY}={MANAGER}")]
    NoLabel,
    /// What it carries was not written by this healer.
    #[error("annotation {0}")]
    Annotation(Problem),
    /// It does not say when it was created.
    #[error("metadata.creationTimestamp: expected a time, found none")]
    NoTime,
    /// This healer has not written its rules.
    #[error("field manager {MANAGER} has not written its rules")]
    NoRules,
    /// Others have.
    #[error("its rules were written by {0:?}")]
    Rewritten(Vec<String>),
}

/// Why it is unknown which policies of the healer's there are.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    /// A kind cannot be listed.
    #[error("{kind}: {why}")]
    Kind {
        /// Which.
        kind: Kind,
        /// Why.
        why: ApiError,
    },
}

impl Policies {
    pub(super) fn new(client: Client, owner: String) -> Self {
        Self { client, owner, served: Arc::default() }
    }

    /// Creates what is proposed, or has the API server say whether it would.
    ///
    /// # Errors
    /// An object of the same name, or what the API server says. Then nothing is left of it.
    pub(super) async fn create(
        &self,
        case: &CaseId,
        proposal: &Proposal,
        expires: Timestamp,
        dry_run: bool,
    ) -> Result<Option<Standing>, Refusal> {
        let parameters = PatchParams { dry_run, ..PatchParams::apply(MANAGER) };
        let mut standing: Option<Standing> = None;
        for (manifest, policy) in proposal.manifests.iter().zip(&proposal.policies) {
            self.is_served(kinds::of_policy(policy.kind), manifest.api_version());
            let object = self.object(case, manifest, expires);
            let created = self.create_one(policy, &object, &parameters).await;
            match created {
                Ok(created) if !dry_run => {
                    let standing = standing.get_or_insert_with(|| Standing {
                        case: case.clone(),
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
                            tracing::error!("{policy} cannot be removed again: {failure}");
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
        match answered(PATIENCE, api.get_opt(&policy.name)).await {
            Ok(None) => {}
            Ok(Some(_)) => return Err(foreign("an object of this name is there already")),
            Err(error) => return Err(Refusal::Api(error.to_string())),
        }
        let patch = Patch::Apply(object);
        let created = answered(PATIENCE, api.patch(&policy.name, parameters, &patch)).await;
        created.map_err(|error| match error.is_conflict() {
            true => foreign("an object of this name has come in between"),
            false => Refusal::Api(error.to_string()),
        })
    }

    /// The policies that say that they are this healer's, each for itself.
    ///
    /// # Errors
    /// What cannot be listed.
    pub(super) async fn standing(&self) -> Result<Vec<Standing>, ListError> {
        let mut standing = Vec::new();
        for row in kinds::all().filter(|row| row.is_remedy) {
            let Some(Kind::Policy(kind)) = row.reads() else { continue };
            let listed = self.list(row).await;
            for object in listed.map_err(|why| ListError::Kind { kind: Kind::Policy(kind), why })? {
                let metadata = &object.metadata;
                let policy = PolicyRef {
                    kind,
                    namespace: metadata.namespace.as_deref().map(Into::into),
                    name: metadata.name.as_deref().unwrap_or_default().into(),
                };
                let read = self.is_ours(metadata).and_then(|()| of(policy.clone(), metadata));
                match read {
                    Ok(one) => standing.push(one),
                    Err(why) => tracing::warn!("{kind} {policy} is left alone: {why}"),
                }
            }
        }
        Ok(standing)
    }

    /// Those of a kind that carry the healer's label, in the first version of the kind that the API
    /// server has; none in a cluster without the kind.
    async fn list(&self, row: &KindRow) -> Result<Vec<DynamicObject>, ApiError> {
        let ours = ListParams::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
        for api_version in row.api_versions {
            let resource = resource_in(row, api_version);
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
            match answered(PATIENCE, api.list(&ours)).await {
                Err(error) if error.is_not_found() => {}
                // Who has no right to a kind is refused whether there is one or not.
                Err(error)
                    if error.is_refused()
                        && !Box::pin(lists(&self.client, row, api_version)).await => {}
                listed => {
                    self.is_served(row, api_version);
                    return Ok(listed?.items);
                }
            }
        }
        Ok(Vec::new())
    }

    /// The API server has a kind in this version.
    fn is_served(&self, row: &KindRow, api_version: &str) {
        let place = row.api_versions.iter().position(|known| *known == api_version);
        if let Some(place) = place.filter(|_| row.api_versions.len() > 1) {
            self.served.store(place, Ordering::Relaxed);
        }
    }

    /// The version in which the API server has a kind.
    fn api_version(&self, row: &KindRow) -> &'static str {
        let place = self.served.load(Ordering::Relaxed);
        row.api_versions.get(place).copied().unwrap_or_else(|| row.api_version())
    }

    /// Notes on a policy that it helps, for the healer that leads next.
    pub(super) async fn keep(&self, policy: &PolicyRef) -> Result<(), PolicyError> {
        let object = self.own(policy).await?;
        let mut annotations = object.metadata.annotations.unwrap_or_default();
        annotations.insert(OUTCOME.to_owned(), "kept".to_owned());
        let is_own = |name: &String| name.starts_with("whydrop.io/");
        annotations.retain(|name, _| is_own(name));
        // An apply says all that its manager wants; what it leaves out is removed.
        let row = kinds::of_policy(policy.kind);
        let object = json!({
            "apiVersion": self.api_version(row),
            "kind": row.kind,
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
        answered(PATIENCE, api.patch(&policy.name, &parameters, &Patch::Apply(&object))).await?;
        Ok(())
    }

    /// Deletes a policy, if it is the healer's and is what it was a moment ago.
    pub(super) async fn delete(&self, policy: &PolicyRef) -> Result<(), PolicyError> {
        let object = self.own(policy).await?;
        let preconditions = Preconditions {
            uid: object.metadata.uid,
            resource_version: object.metadata.resource_version,
        };
        let parameters = DeleteParams::default().preconditions(preconditions);
        answered(PATIENCE, self.api(policy).delete(&policy.name, &parameters)).await?;
        Ok(())
    }

    /// The `metadata.uid` of a policy that is there.
    pub(super) async fn uid(&self, policy: &PolicyRef) -> Option<String> {
        let api = self.api(policy);
        answered(PATIENCE, api.get_metadata_opt(&policy.name)).await.ok()??.metadata.uid
    }

    /// What a namespace's annotation says, of one that is there.
    pub(super) async fn consent(&self, namespace: &str) -> Result<Option<String>, ApiError> {
        let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let found = answered(PATIENCE, api.get_metadata_opt(namespace)).await?;
        Ok(found.and_then(|found| annotation(&found.metadata, CONSENT_ANNOTATION).cloned()))
    }

    /// A policy as it is now, if it is the healer's.
    async fn own(&self, policy: &PolicyRef) -> Result<DynamicObject, PolicyError> {
        let found = answered(PATIENCE, self.api(policy).get_opt(&policy.name)).await?;
        let object = found.ok_or(PolicyError::Gone)?;
        self.is_ours(&object.metadata).map_err(PolicyError::Foreign)?;
        Ok(object)
    }

    /// Whether this healer created the object, and nobody else has written its rules since.
    fn is_ours(&self, metadata: &ObjectMeta) -> Result<(), NotOurs> {
        let label = metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
        if label.map(String::as_str) != Some(MANAGER) {
            return Err(NotOurs::NoLabel);
        }
        let owner = named(metadata, OWNER, &self.owner)?;
        if *owner != self.owner {
            let expected = FieldPath::root(OWNER).expected(&self.owner, owner);
            return Err(NotOurs::Annotation(expected));
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
            [] => Err(NotOurs::NoRules),
            several => {
                let others = several.iter().filter(|name| **name != MANAGER);
                Err(NotOurs::Rewritten(others.map(ToString::to_string).collect()))
            }
        }
    }

    fn api(&self, policy: &PolicyRef) -> Api<DynamicObject> {
        let namespace = policy.namespace.as_deref().unwrap_or_default();
        let row = kinds::of_policy(policy.kind);
        let resource = resource_in(row, self.api_version(row));
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    fn object(&self, case: &CaseId, manifest: &Manifest, expires: Timestamp) -> Value {
        let (metadata, spec) = match manifest {
            Manifest::Kubernetes(policy) => (&policy.metadata, json!(policy.spec)),
            Manifest::Calico(policy, _) => (&policy.metadata, json!(policy.spec)),
        };
        let incident = case.incident.to_string();
        let command = Some(fix_by_id(&incident));
        let mut annotations = Mark { incident: Some(incident), at: None, command }.annotations();
        annotations.insert(OWNER.to_owned(), self.owner.clone());
        annotations.insert(BETWEEN.to_owned(), case.between.to_string());
        annotations.insert(EXPIRES.to_owned(), format!("{expires:.0}"));
        json!({
            "apiVersion": manifest.api_version(),
            "kind": kinds::of_policy(manifest.kind()).kind,
            "metadata": {
                "name": metadata.name,
                "namespace": metadata.namespace,
                "resourceVersion": NO_VERSION,
                "labels": { MANAGED_BY: MANAGER },
                "annotations": annotations,
            },
            "spec": spec,
        })
    }
}

/// A policy of the healer's, by what it carries.
fn of(policy: PolicyRef, metadata: &ObjectMeta) -> Result<Standing, NotOurs> {
    let incident = named(metadata, INCIDENT, "the name of an incident")?;
    let incident = facts::id(INCIDENT, incident).map_err(NotOurs::Annotation)?;
    // One of a version that healed whole incidents does not say it.
    let between: Result<Between, _> =
        annotation(metadata, BETWEEN).map_or(Ok(Between::default()), |text| text.parse());
    let between = between.map_err(|_| {
        let found = annotation(metadata, BETWEEN).map(String::as_str).unwrap_or_default();
        NotOurs::Annotation(FieldPath::root(BETWEEN).expected("CLIENT/SERVER", found))
    })?;
    let time = "a time of RFC 3339";
    let expires = named(metadata, EXPIRES, time)?;
    let expires = expires
        .parse()
        .map_err(|_| NotOurs::Annotation(FieldPath::root(EXPIRES).expected(time, expires)))?;
    let applied = metadata.creation_timestamp.as_ref().ok_or(NotOurs::NoTime)?.0;
    Ok(Standing {
        case: CaseId { incident, between },
        policies: vec![policy],
        applied,
        expires,
        is_kept: annotation(metadata, OUTCOME).is_some(),
    })
}

fn named<'a>(metadata: &'a ObjectMeta, name: &str, expected: &str) -> Result<&'a String, NotOurs> {
    let missing = || NotOurs::Annotation(FieldPath::root(name).expected(expected, "none"));
    annotation(metadata, name).ok_or_else(missing)
}

fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a String> {
    metadata.annotations.as_ref()?.get(name)
}

fn created_at(object: &DynamicObject) -> Option<Timestamp> {
    object.metadata.creation_timestamp.as_ref().map(|time| time.0)
}
