//! Which labels last: one table, with a line for each label or family of labels that does not stand
//! for what a pod is, and why not.
//!
//! A rule holds by labels that every pod of a workload has, now and after the next rollout, restart
//! or failover. Labels that differ among the pods of one owner are left out as such where rules are
//! made; this table is for what the pods at hand do not show: one replica, one revision, all of them in
//! the same state for now.

use super::object::Pod;

/// Why a label does not last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passing {
    /// It names one pod, which is replaced by another.
    OnePod,
    /// It names a revision of the template, or a run of a job.
    Revision,
    /// It changes with each release.
    Release,
    /// It is of a role that changes hands.
    Role,
    /// It is a state that a controller keeps up to date.
    State,
    /// It says where the pod runs.
    Place,
    /// It is put on by what is injected or by who installed it, and says nothing of what it is.
    Tooling,
}

/// Labels of one kind.
struct Line {
    /// Their keys; one that ends in `*` is how several begin.
    keys: &'static [&'static str],
    why: Passing,
}

const fn line(why: Passing, keys: &'static [&'static str]) -> Line {
    Line { keys, why }
}

/// Every label that is known not to last. The sources are the constants or the documentation of
/// those who set them.
const LINES: &[Line] = &[
    // Kubernetes, k8s.io/api `apps/v1` (well_known_labels.go of the controllers, "Well-Known Labels,
    // Annotations and Taints"). The index of a StatefulSet's pod is that pod's alone.
    line(Passing::OnePod, &["statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"]),
    line(
        Passing::Revision,
        &["pod-template-hash", "controller-revision-hash", "pod-template-generation"],
    ),
    // `batch/v1`: the Job's own name and uid, another with each run of a CronJob.
    line(
        Passing::Revision,
        &[
            "batch.kubernetes.io/job-name",
            "batch.kubernetes.io/controller-uid",
            "batch.kubernetes.io/cronjob-scheduled-timestamp",
            "job-name",
            "controller-uid",
        ],
    ),
    line(Passing::OnePod, &["batch.kubernetes.io/job-completion-index"]),
    // The admission plugin PodTopologyLabels copies the node's; people copy the host's name.
    line(
        Passing::Place,
        &[
            "topology.kubernetes.io/*",
            "failure-domain.beta.kubernetes.io/*",
            "kubernetes.io/hostname",
            "kubernetes.io/arch",
            "kubernetes.io/os",
            "node.kubernetes.io/*",
        ],
    ),
    // "Recommended Labels": the version is the release's. Helm's chart label holds one as well. What
    // people write of an image or a commit is in their names.
    line(
        Passing::Release,
        &[
            "app.kubernetes.io/version",
            "helm.sh/chart",
            "chart",
            "version",
            "tags.datadoghq.com/version",
            "image-tag",
            "git-sha",
            "git-commit",
            "commit",
            "build-id",
        ],
    ),
    line(
        Passing::Tooling,
        &["app.kubernetes.io/managed-by", "app.kubernetes.io/created-by", "heritage"],
    ),
    // Argo Rollouts (pkg/apis/rollouts: `DefaultRolloutUniqueLabelKey`).
    line(Passing::Revision, &["rollouts-pod-template-hash"]),
    // OpenKruise (apis/apps/pub: lifecycle and instance ids; CloneSet and Advanced StatefulSet).
    line(Passing::OnePod, &["apps.kruise.io/cloneset-instance-id", "apps.kruise.io/pod-index"]),
    line(Passing::State, &["lifecycle.apps.kruise.io/*"]),
    line(Passing::Revision, &["apps.kruise.io/rollout-batch-id", "apps.kruise.io/rollout-id"]),
    // OpenShift: one name for each deployment of a DeploymentConfig, and for each build.
    line(
        Passing::Revision,
        &[
            "openshift.io/deployment.name",
            "openshift.io/deployer-pod-for.name",
            "openshift.io/build.name",
        ],
    ),
    // JobSet, LeaderWorkerSet and Kubeflow's training operator: indices and hashes of one run.
    line(
        Passing::Revision,
        &[
            "jobset.sigs.k8s.io/job-key",
            "jobset.sigs.k8s.io/job-index",
            "jobset.sigs.k8s.io/job-global-index",
            "jobset.sigs.k8s.io/restart-attempt",
            "jobset.sigs.k8s.io/jobset-uid",
            "leaderworkerset.sigs.k8s.io/group-index",
            "leaderworkerset.sigs.k8s.io/group-key",
            "leaderworkerset.sigs.k8s.io/template-revision-hash",
        ],
    ),
    line(
        Passing::OnePod,
        &[
            "leaderworkerset.sigs.k8s.io/worker-index",
            "training.kubeflow.org/replica-index",
            "dask.org/worker-name",
        ],
    ),
    // Pipelines and runners: one name for each run (Argo Workflows `workflow/common`, Tekton
    // `pipeline/pkg/apis`, GitLab Runner, Actions Runner Controller, Jenkins, Spark, Airflow).
    line(
        Passing::Revision,
        &[
            "workflows.argoproj.io/workflow",
            "tekton.dev/pipelineRun",
            "tekton.dev/pipelineRunUID",
            "tekton.dev/taskRun",
            "tekton.dev/taskRunUID",
            "job.runner.gitlab.com/*",
            "runner-pod-name",
            "jenkins/label-digest",
            "spark-app-selector",
            "spark-exec-id",
            "run_id",
            "task_id",
            "try_number",
            "execution_date",
        ],
    ),
    line(Passing::State, &["workflows.argoproj.io/completed", "workflows.argoproj.io/phase"]),
    // Databases that change hands. CloudNativePG ("Labels and annotations"), and EDB's.
    line(Passing::OnePod, &["cnpg.io/instanceName", "k8s.enterprisedb.io/instanceName"]),
    line(Passing::Role, &["cnpg.io/instanceRole", "k8s.enterprisedb.io/instanceRole"]),
    // Zalando's Spilo and Patroni (`kubernetes.role_label`), Crunchy's (internal/naming/labels.go),
    // which Percona's operator for PostgreSQL uses as well.
    line(Passing::Role, &["spilo-role", "postgres-operator.crunchydata.com/role"]),
    line(Passing::OnePod, &["postgres-operator.crunchydata.com/instance"]),
    // MySQL: Oracle's operator, Presslabs' (which keeps `healthy` as well), MOCO, MariaDB's.
    line(
        Passing::Role,
        &["mysql.oracle.com/cluster-role", "moco.cybozu.com/role", "k8s.mariadb.com/role"],
    ),
    line(Passing::State, &["healthy"]),
    // Redis and its like: Spotahome's operator, Opstree's, KubeDB, KubeBlocks, Dragonfly.
    line(
        Passing::Role,
        &[
            "redisfailovers-role",
            "redis-role",
            "redis-cluster-role",
            "kubedb.com/role",
            "kubeblocks.io/role",
            "apps.kubeblocks.io/role",
        ],
    ),
    line(Passing::OnePod, &["apps.kubeblocks.io/pod-name", "workloads.kubeblocks.io/pod-name"]),
    line(Passing::State, &["workloads.kubeblocks.io/access-mode"]),
    // Kafka: Strimzi (ResourceLabels), whose pods may be controllers, brokers or both by turns.
    line(Passing::OnePod, &["strimzi.io/pod-name"]),
    line(Passing::Role, &["strimzi.io/controller-role", "strimzi.io/broker-role"]),
    line(Passing::State, &["strimzi.io/revision"]),
    // Search engines: ECK sets the version on each pod.
    line(Passing::Release, &["elasticsearch.k8s.elastic.co/version"]),
    // Cassandra: cass-operator's state of each node. TiDB: the member's ids.
    line(
        Passing::State,
        &["cassandra.datastax.com/node-state", "cassandra.datastax.com/seed-node"],
    ),
    line(Passing::OnePod, &["tidb.pingcap.com/store-id", "tidb.pingcap.com/member-id"]),
    // Vault and OpenBao, "Kubernetes service registration".
    line(
        Passing::State,
        &[
            "vault-active",
            "vault-sealed",
            "vault-initialized",
            "vault-perf-standby",
            "openbao-active",
            "openbao-sealed",
            "openbao-initialized",
            "openbao-perf-standby",
        ],
    ),
    line(Passing::Release, &["vault-version", "openbao-version"]),
    // Virtual machines: KubeVirt's migrations move them between pods and nodes.
    line(
        Passing::OnePod,
        &["kubevirt.io/created-by", "kubevirt.io/migrationJobUID", "kubevirt.io/nodeName"],
    ),
    // Meshes: the injector's, and a revision of its control plane (Istio `pkg/config/constants`,
    // Linkerd `pkg/k8s/labels.go`, Consul).
    line(
        Passing::Tooling,
        &[
            "security.istio.io/*",
            "service.istio.io/*",
            "istio.io/*",
            "sidecar.istio.io/*",
            "topology.istio.io/*",
            "ambient.istio.io/*",
            "linkerd.io/*",
            "consul.hashicorp.com/*",
            "admission.datadoghq.com/*",
            "azure.workload.identity/*",
            "vault.hashicorp.com/*",
        ],
    ),
    // Clouds and autoscalers: where it was put, not what it is.
    line(Passing::Place, &["eks.amazonaws.com/*", "cloud.google.com/*", "karpenter.sh/*"]),
    // Velero marks what it has restored.
    line(Passing::Revision, &["velero.io/*"]),
];

/// What a role is called that changes hands. Patroni's own are `master`, `primary`, `replica`,
/// `sync_standby`, `standby_leader`; Redis' and MySQL's operators have the others.
const ROLES: [&str; 13] = [
    "master",
    "primary",
    "leader",
    "replica",
    "secondary",
    "follower",
    "slave",
    "standby",
    "standby_leader",
    "sync_standby",
    "hot_standby",
    "promoted",
    "uninitialized",
];

/// Why this label of a pod does not last; `None`: as far as is known it does. What the template gives
/// every pod is of none alone, no role that moves and no state.
pub(crate) fn passing(pod: &Pod, key: &str, value: &str, is_of_template: bool) -> Option<Passing> {
    let is_given_later =
        |why: &Passing| matches!(why, Passing::OnePod | Passing::Role | Passing::State);
    passing_of_itself(pod, key, value).filter(|why| !(is_of_template && is_given_later(why)))
}

fn passing_of_itself(pod: &Pod, key: &str, value: &str) -> Option<Passing> {
    let is_it = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(beginning) => key.starts_with(beginning),
        None => key == *pattern,
    };
    if let Some(line) = LINES.iter().find(|line| line.keys.iter().any(&is_it)) {
        return Some(line.why);
    }
    if pod.node.as_deref() == Some(value) {
        return Some(Passing::Place);
    }
    if value.parse::<std::net::IpAddr>().is_ok() {
        return Some(Passing::OnePod);
    }
    // What nobody replaces is the only one of its name, and has no other to hand its role to.
    let workload = pod.workload.as_ref()?;
    // A workload that is named after a role, as `db-primary`, is for that role.
    let is_role = is_of_role(key) && ROLES.iter().any(|role| value.eq_ignore_ascii_case(role));
    if is_role && !workload.name.contains(value) {
        return Some(Passing::Role);
    }
    if value == pod.name.as_ref() || pod.uid.as_deref() == Some(value) {
        return Some(Passing::OnePod);
    }
    // A DeploymentConfig's pods have the name of their ReplicationController, one for each rollout.
    let is_revision = &*workload.kind == "ReplicationController" && value == workload.name.as_ref();
    is_revision.then_some(Passing::Revision)
}

/// `role`, `postgres.example/role`, `db-role`, `instanceRole`.
fn is_of_role(key: &str) -> bool {
    let own = key.rsplit('/').next().unwrap_or(key);
    own == "role" || own.ends_with("-role") || own.ends_with("_role") || own.ends_with("Role")
}

/// How well a label says what a pod is: the lower, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Says {
    /// What it is, by a name that people, charts or an operator give one application.
    Name(usize),
    /// Which part of an application. By itself it names nothing.
    Part(usize),
    /// Anything else.
    Other,
}

/// By which labels applications are named, the most distinctive first: Kubernetes' "Recommended
/// Labels", those that were usual before, and those of operators.
const NAMES: [&str; 20] = [
    "app.kubernetes.io/name",
    "app",
    "k8s-app",
    "name",
    "app.kubernetes.io/instance",
    "run",
    "release",
    "strimzi.io/name",
    "cnpg.io/cluster",
    "cnpg.io/poolerName",
    "k8s.enterprisedb.io/cluster",
    "cluster-name",
    "application",
    "postgres-operator.crunchydata.com/cluster",
    "elasticsearch.k8s.elastic.co/cluster-name",
    "kibana.k8s.elastic.co/name",
    "mysql.oracle.com/cluster",
    "cassandra.datastax.com/cluster",
    "serving.knative.dev/service",
    "deploymentconfig",
];

/// By which labels the parts of one application differ.
const PARTS: [&str; 5] = ["app.kubernetes.io/component", "component", "tier", "role", "process"];

/// Labels by which an operator keeps the sorts of pods of one cluster apart: poolers, jobs and
/// proxies come and go beside the database, so the sort goes along with the name, whether another is
/// there now or not.
const SORTS: [&str; 5] = [
    "cnpg.io/podRole",
    "k8s.enterprisedb.io/podRole",
    "postgres-operator.crunchydata.com/data",
    "strimzi.io/component-type",
    "common.k8s.elastic.co/type",
];

/// What a label says.
pub(crate) fn says(key: &str) -> Says {
    let place = |list: &[&str]| list.iter().position(|known| *known == key);
    place(&NAMES).map(Says::Name).or_else(|| place(&PARTS).map(Says::Part)).unwrap_or(Says::Other)
}

/// Whether a label goes along with the name of a cluster that an operator made.
pub(crate) fn is_sort(key: &str) -> bool {
    SORTS.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_label_stands_in_two_lines() {
        let keys: Vec<_> = LINES.iter().flat_map(|line| line.keys).collect();
        for (place, key) in keys.iter().enumerate() {
            assert!(!keys[place + 1..].contains(key), "{key}");
            assert_eq!(says(key), Says::Other, "{key} lasts, and does not");
        }
    }
}
