//! What the pods of the agent get, and what they are asked.

use std::fs;

use serde_json::{Value, json};
use whydrop_tests::repository;

use crate::{base, base_pod, chart, seccomp_overlay};

#[test]
fn the_agent_gets_three_capabilities_the_hosts_network_and_a_folder_of_its_own() {
    let pod = base_pod();
    assert_eq!(pod.host_network, Some(true));
    assert_eq!((pod.host_pid, pod.host_ipc), (None, None));
    let volumes = json!(pod.volumes);
    let folder = json!({"path": "/var/lib/whydrop", "type": "DirectoryOrCreate"});
    assert_eq!(volumes, json!([{"name": "state", "hostPath": folder}]));
    let everywhere = &pod.tolerations.as_deref().unwrap_or_default()[0];
    assert_eq!((everywhere.operator.as_deref(), &everywhere.key), (Some("Exists"), &None));

    let [container] = pod.containers.as_slice() else { panic!("one container") };
    // It is where the agent looks for it, and can be left out.
    let mount = &container.volume_mounts.as_deref().expect("a mount")[0].mount_path;
    let argument = format!("--state-directory={mount}");
    assert!(container.args.as_deref().expect("arguments").contains(&argument), "{argument}");
    let without = serde_json::to_string(&chart(&["--set", "stateDirectory="])).expect("JSON");
    for word in ["hostPath", "volume", "--state-directory"] {
        assert!(!without.contains(word), "{word} in {without}");
    }
    let security = container.security_context.as_ref().expect("a security context");
    let capabilities = security.capabilities.as_ref().expect("capabilities");
    let names = |list: &Option<Vec<String>>| list.clone().unwrap_or_default().join(" ");
    assert_eq!(names(&capabilities.add), "BPF NET_ADMIN PERFMON");
    assert_eq!(names(&capabilities.drop), "ALL");
    assert_eq!(security.privileged, None);
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.read_only_root_filesystem, Some(true));
    let profile = pod.security_context.and_then(|context| context.seccomp_profile);
    assert_eq!(profile.expect("a seccomp profile").type_, "RuntimeDefault");
}

/// The overlay names the file that is shipped, and changes nothing else; so do the chart's values.
#[test]
fn the_seccomp_profile_that_is_shipped_can_be_named() {
    let name = "whydrop.json";
    assert!(repository("deploy/seccomp").join(name).is_file());
    let named = json!({"type": "Localhost", "localhostProfile": name});
    let set = |profile: &str| format!("podSecurityContext.seccompProfile.{profile}");
    let path = set("localhostProfile=whydrop.json");
    let with_values = chart(&["--set", &set("type=Localhost"), "--set", &path]);
    let of_pod = |mut objects: Vec<Value>| {
        let daemons = objects.iter_mut().find(|object| object["kind"] == "DaemonSet");
        let pod = &mut daemons.expect("a DaemonSet")["spec"]["template"]["spec"];
        let profile = pod["securityContext"]["seccompProfile"].take();
        (profile, objects)
    };
    let (profile, rest) = of_pod(seccomp_overlay());
    assert_eq!(profile, named);
    assert_eq!(rest, of_pod(base()).1);
    assert_eq!(of_pod(with_values).0, named);
}

#[test]
fn the_kubelet_asks_where_the_agent_answers() {
    let [container] = &base_pod().containers[..] else { panic!("one container") };
    let probes = [(&container.liveness_probe, "/healthz"), (&container.readiness_probe, "/readyz")];
    for (probe, path) in probes {
        let probe = probe.as_ref().and_then(|probe| probe.http_get.as_ref()).expect("a probe");
        assert_eq!(probe.path.as_deref(), Some(path));
        let port = serde_json::to_value(&probe.port).expect("a port");
        let flag = format!("--health-address={}:{port}", probe.host.as_deref().unwrap_or_default());
        let arguments = container.args.as_deref().unwrap_or_default();
        assert!(arguments.contains(&flag), "no {flag} in {arguments:?}");
    }
}

#[test]
fn chart_base_and_program_have_one_version() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = fs::read_to_string(repository("deploy/helm/whydrop/Chart.yaml")).expect("a chart");
    let chart: Value = serde_saphyr::from_str(&chart).expect("YAML");
    assert_eq!(chart["appVersion"], version);
    let image = base_pod().containers[0].image.clone().expect("an image");
    assert_eq!(image.rsplit_once(':').expect("a tag").1, version);
    let dockerfile = fs::read_to_string(repository("deploy/Dockerfile")).expect("a Dockerfile");
    let label = format!("org.opencontainers.image.version=\"{version}\"");
    assert!(dockerfile.contains(&label), "no {label} in deploy/Dockerfile");
}
