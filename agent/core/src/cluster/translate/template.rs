//! Workloads, of which only the pods that they make take part.

use std::sync::Arc;

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::Deserialize;

use super::pod;
use crate::{
    cluster::object::{Template, Workload, WorkloadKind},
    policy::metadata::name_of,
    problem::Problem,
};

/// A workload as far as it takes part: its template; of a `CronJob`, that of the Jobs that it makes.
#[derive(Debug, Deserialize)]
pub struct WithTemplate {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: WorkloadSpec,
}

#[derive(Debug, Default, Deserialize)]
struct WorkloadSpec {
    replicas: Option<i32>,
    suspend: Option<bool>,
    template: Option<core::PodTemplateSpec>,
    #[serde(rename = "jobTemplate")]
    job_template: Option<JobTemplate>,
}

#[derive(Debug, Deserialize)]
struct JobTemplate {
    spec: Option<JobTemplateSpec>,
}

#[derive(Debug, Deserialize)]
struct JobTemplateSpec {
    template: Option<core::PodTemplateSpec>,
}

/// The labels by which a Job's pods name it; the API server sets them on its template.
///
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#batch-kubernetes-io-job-name>
const JOB_NAME: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// Translates a workload.
///
/// # Errors
/// The first field that cannot be read.
pub fn template(kind: WorkloadKind, workload: WithTemplate) -> Result<Template, Problem> {
    let WithTemplate { metadata, spec } = workload;
    let name = name_of(&metadata)?;
    let (template, path) = match kind {
        WorkloadKind::CronJob => {
            let template = spec.job_template.and_then(|job| job.spec?.template);
            (template, "spec.jobTemplate.spec.template")
        }
        _ => (spec.template, "spec.template"),
    };
    let template = template.unwrap_or_default();
    let of_template = core::Pod {
        metadata: ObjectMeta {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            labels: template.metadata.and_then(|metadata| metadata.labels),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    let within =
        |problem: Problem| Problem { field: format!("{path}.{}", problem.field), ..problem };
    let mut pod = pod(&of_template).map_err(within)?;
    pod.name = format!("{}/{name}", kind.short()).into();
    pod.is_template = true;
    pod.workload = Some(Workload { kind: kind.to_string().into(), name: name.clone() });
    if kind == WorkloadKind::Job {
        for key in JOB_NAME {
            pod.labels.entry(key.into()).or_insert_with(|| name.clone());
        }
    }
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| Workload {
        kind: owner.kind.as_str().into(),
        name: owner.name.as_str().into(),
    });
    let is_idle = spec.replicas == Some(0) || spec.suspend == Some(true);
    Ok(Template { kind, name, owner, pod: Arc::new(pod), is_idle })
}
