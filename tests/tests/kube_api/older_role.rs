//! An agent of a newer version than its `ClusterRole`: what is refused, and is not served, is not missed.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{runtime::Builder, time::timeout};
use whydrop::cluster::{
    connect::{KubeArgs, target},
    live::Live,
    update::Trouble,
};
use whydrop_core::cluster::Cluster;
use whydrop_tests::kube::{
    api::{Api, Settings, User},
    kubectl::Kubectl,
};

/// How long it may take until what is installed is seen: it is asked for every 30 s.
const SEEN_WAIT: Duration = Duration::from_secs(60);
/// How long it is waited for one piece of news before it is looked again.
const TURN: Duration = Duration::from_millis(200);

const NAME: &str = "system:serviceaccount:default:agent";
const TOKEN: &str = "of-the-agent";

/// What the agents of a version could read that knew neither plugins' policies nor Kubernetes' own.
const ROLE: &str = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, \
    metadata: {name: agent}, rules: [{apiGroups: [''], resources: ['*'], verbs: [get, list, watch]}]}";

/// A group of which the API server has one kind of those that an agent follows.
const DEFINITION: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: adminnetworkpolicies.policy.networking.k8s.io
  annotations: {api-approved.kubernetes.io: 'unapproved, for a test'}
spec:
  group: policy.networking.k8s.io
  scope: Cluster
  names: {kind: AdminNetworkPolicy, plural: adminnetworkpolicies}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

/// What an agent heard of the API server so far.
struct Heard {
    live: Live,
    cluster: Cluster,
    /// What cannot be followed, as it was reported last.
    failing: Option<String>,
}

impl Heard {
    /// Hears what there is, and looks.
    async fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + SEEN_WAIT;
        loop {
            // Without news failures settle.
            let _ = timeout(TURN, self.live.changed()).await;
            self.live.update(&mut self.cluster, Timestamp::now());
            match self.live.news_of_failures() {
                Some(Trouble::Failing { what, .. }) => self.failing = Some(what),
                Some(Trouble::Recovered) => self.failing = None,
                Some(Trouble::Skipped(_)) | None => {}
            }
            if is_so(self) {
                return;
            }
            let (open, failing) = (self.not_followed(), &self.failing);
            assert!(Instant::now() < until, "{what}: not followed {open:?}, {failing:?}");
        }
    }

    fn not_followed(&self) -> BTreeSet<String> {
        let not = self.live.followed().filter(|(_, is_followed)| !is_followed);
        not.map(|(name, _)| name).collect()
    }

    fn lacks_only(&self, kinds: &[&str]) -> bool {
        self.not_followed().iter().map(String::as_str).eq(kinds.iter().copied())
    }
}

fn bound(kubectl: &Kubectl) {
    kubectl.apply(ROLE).expect("a role");
    let user = format!("--user={NAME}");
    let binding = ["create", "clusterrolebinding", "agent", "--clusterrole=agent", &user];
    kubectl.run(binding).expect("bound");
}

#[test]
fn what_is_refused_counts_where_it_is_served() {
    let user = User { name: NAME.to_owned(), groups: vec![], token: TOKEN.to_owned() };
    let settings = Settings { users: vec![user], ..Settings::default() };
    let api = Api::start(settings).expect("an API server");
    let kubectl = api.kubectl().expect("kubectl");
    bound(&kubectl);
    // Whether there is such a group or not, the API server refuses it.
    for path in
        ["/apis/cilium.io/v2/ciliumnetworkpolicies", "/apis/networking.k8s.io/v1/networkpolicies"]
    {
        assert_eq!(api.get(path, TOKEN).expect("an answer").status, 403, "{path}");
    }
    let kubeconfig = Some(api.kubeconfig_for("agent", TOKEN).expect("a kubeconfig"));
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let args = KubeArgs { kubeconfig, context: None };
        let client = target(&args).await.expect("a target").client().expect("a client");
        let mut cluster = Cluster::default();
        let live = Live::start(client, "node-a".into(), &mut cluster);
        let mut heard = Heard { live, cluster, failing: None };

        // Of what it may not read only what is there is missed.
        heard.until("all but one", |heard| heard.lacks_only(&["NetworkPolicy"])).await;
        heard.until("a failure", |heard| heard.failing.is_some()).await;
        let failing = heard.failing.clone().expect("a failure");
        assert!(failing.contains("NetworkPolicy") && failing.contains("forbidden"), "{failing}");
        assert_eq!(failing.matches("forbidden").count(), 1, "{failing}");
        assert!(!heard.live.is_synced());
        kubectl.apply(&ROLE.replace("['']", "['', networking.k8s.io]")).expect("more rights");
        heard.until("all", |heard| heard.live.is_synced() && heard.failing.is_none()).await;

        // What is installed later is missed by then, and nothing else of its group.
        kubectl.apply(DEFINITION).expect("installed");
        heard.until("the new one", |heard| heard.failing.is_some()).await;
        let failing = heard.failing.clone().expect("a failure");
        assert!(
            failing.contains("AdminNetworkPolicy") && failing.contains("forbidden"),
            "{failing}"
        );
        assert!(heard.lacks_only(&["AdminNetworkPolicy"]), "{:?}", heard.not_followed());
        let more = "['', networking.k8s.io, policy.networking.k8s.io]";
        kubectl.apply(&ROLE.replace("['']", more)).expect("more rights");
        heard.until("all again", |heard| heard.failing.is_none()).await;
        assert!(heard.lacks_only(&[]), "{:?}", heard.not_followed());
    });
}
