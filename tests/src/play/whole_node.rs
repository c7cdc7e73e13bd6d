//! The stories where their users live them: real pods and probes, policies that Calico enforces, the
//! agent from its own image and manifests, and nothing but `kubectl` to look at it.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{Audience, hint, stage::OVER_WAIT};
use crate::{
    kube::{
        image,
        kubectl::Kubectl,
        node::{NAME, Node, Settings},
        parts,
        wait::{Look, until},
    },
    repository,
    world::{World as _, agent::beside, namespace::checked},
};

/// From a command to its effect in the cluster: a pod's start, a policy's way into the kernel, a
/// client's next try, the agent's certainty.
const WAIT: Duration = Duration::from_secs(60);

/// How long a client has to say the same: longer than the agent takes a recovered flow for the same.
const STEADY: jiff::SignedDuration = jiff::SignedDuration::from_secs(7);

/// The image that `resolver.yaml` names.
const COREDNS: &str = "localhost/coredns:1";

/// What a client of tests/node/clients.yaml asks.
const SERVER: &str = "http://10.96.0.80:8080/healthz";

/// What plays a network plugin that polices the node as well: Calico, as most do, lets a node
/// reach its own pods whatever the policies say.
const STRICT: &str = "table inet strict {
  chain output {
    type filter hook output priority filter; policy accept;
    ip daddr ADDRESS tcp dport 8080 ct state new counter drop
  }
}
";

/// Starts a node, plays all stories on it, and ends it; the error says what was not as it should be.
pub fn play(audience: &mut dyn Audience) -> Result<()> {
    audience.say(
        "A real Kubernetes of one node: API server, controllers, scheduler, kubelet, containerd, \
         kube-proxy, CoreDNS, and Calico, which enforces the policies.",
    );
    let node = Node::start_reporting(&Settings::default(), |what, after| {
        audience.output(&format!("{:4.1} s  {what}", after.as_secs_f64()));
    })?;
    let mut show = Show { kubectl: node.kubectl()?, node: &node, audience };
    let played = show.play();
    played.map_err(|error| {
        let log = show.agent_log();
        let pods = show.kubectl.run(["get", "pods", "-A", "-o", "wide"]);
        let pods = pods.unwrap_or_else(|error| format!("{error:#}"));
        error.context(format!("the agent's log:\n{log}\n{pods}"))
    })
}

/// A node, and the audience of what is done on it.
struct Show<'a> {
    node: &'a Node,
    kubectl: Kubectl,
    audience: &'a mut dyn Audience,
}

impl Show<'_> {
    fn play(&mut self) -> Result<()> {
        self.deploy().context("deploy")?;
        self.frontend_to_backend().context("frontend to backend")?;
        self.deny_egress().context("deny egress")?;
        self.resolver_cut_off().context("resolver")?;
        self.probes_cut_off().context("probes")?;
        self.audience.say("Nothing but that pod was ever restarted.");
        let restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        let others = ["get", "pods", "-A", "--field-selector=metadata.name!=api", "-o", restarts];
        let restarts = self.kubectl.run(others)?;
        ensure!(restarts.split(' ').all(|count| count == "0"), "restarts: {restarts}");
        Ok(())
    }

    /// Brings the agent, the resolver and the workloads, and waits until all of them run.
    fn deploy(&mut self) -> Result<()> {
        self.audience.say("The agent comes from its image and its manifests, both as they are.");
        let folder = tempfile::tempdir()?;
        let archive = folder.path().join("whydrop.tar");
        self.audience.command("", "cargo xtask image -o whydrop.tar");
        let mut make = Command::new(beside("xtask")?);
        checked(make.args(["image", "-o"]).arg(&archive))?;
        self.audience.command("", "ctr --namespace k8s.io images import whydrop.tar");
        self.node.import_archive(&archive)?;
        self.node.import(&image::Image {
            name: COREDNS.into(),
            entrypoint: vec!["/coredns".into()],
            files: vec![("coredns".into(), image::Content::From(parts::COREDNS.program()?))],
            ..image::Image::default()
        })?;
        self.show("apply -k", "deploy/kustomize/base")?;
        self.show("apply -f", "tests/node/resolver.yaml")?;
        for (what, namespace) in
            [("daemonset/whydrop", "whydrop"), ("deployment/coredns", "kube-system")]
        {
            self.kubectl.run(["rollout", "status", what, "-n", namespace, "--timeout=60s"])?;
        }
        self.show("apply -f", "tests/node/servers.yaml")?;
        self.reached()?;
        self.show("apply -f", "tests/node/clients.yaml")?;
        self.audience.say("Every client reaches its server.");
        for (namespace, pod, word) in [
            ("frontend", "pod-a", "reached"),
            ("frontend", "network-test", "reached"),
            ("shop", "checkout", "resolved"),
        ] {
            self.client(namespace, pod, word)?;
            self.steadily(namespace, pod, word)?;
        }
        Ok(())
    }

    /// Waits until kube-proxy leads what is sent to the server's Service to the server.
    fn reached(&self) -> Result<()> {
        let node = self.node.network(NAME)?;
        until("the server's Service", WAIT, || {
            let mut ask = node.command("curl");
            ask.args(["--silent", "--max-time", "1", "--output", "/dev/null", SERVER]);
            let asked = ask.status()?;
            Ok(if asked.success() { Look::Seen(()) } else { Look::NotYet(asked.to_string()) })
        })
    }

    /// Waits until a client has said the same for a while. What was dropped in a pod's first moments,
    /// before it was programmed, is another drop than what a policy denies only once it has worked
    /// between.
    fn steadily(&self, namespace: &str, pod: &str, word: &str) -> Result<()> {
        let logs = ["logs", pod, "-n", namespace, "--timestamps"];
        until(&format!("steadily {word:?} from {pod}"), WAIT, || {
            let said = self.kubectl.run(logs)?;
            let lines = said.lines().rev().map_while(|line| line.split_once(' '));
            let steady = lines.take_while(|(_, said)| said.trim() == word);
            let times: Vec<jiff::Timestamp> =
                steady.filter_map(|(at, _)| at.parse().ok()).collect();
            let for_long = match (times.first(), times.last()) {
                (Some(last), Some(first)) => last.duration_since(*first) >= STEADY,
                _ => false,
            };
            Ok(if for_long { Look::Seen(()) } else { Look::NotYet(said) })
        })
    }

    fn frontend_to_backend(&mut self) -> Result<()> {
        self.audience.say("Somebody applies a default deny, and what is to let the frontend in.");
        self.show("apply -f", "tests/node/default-deny.yaml")?;
        self.client("frontend", "pod-a", "blocked")?;
        self.audience.say("The pods run, and nothing of Kubernetes' own says why. The agent does:");
        let line = self.line("DROP frontend/pod-a -> backend/pod-b:8080/TCP")?;
        for part in [
            "ingress denied by NetworkPolicy backend/",
            "wants namespace label name=frontend",
            "NETFILTER_DROP",
        ] {
            ensure!(line.contains(part), "not {part:?}: {line}");
        }
        self.event("frontend", "pod-a", &["NetworkPolicyDenied", "backend/default-deny"])?;
        self.audience.say("What the line proposes, applied, ends it.");
        self.remedy(&line)?;
        self.client("frontend", "pod-a", "reached")
    }

    fn deny_egress(&mut self) -> Result<()> {
        self.audience.say("A policy that allows no way out, as the guides have it.");
        self.show("apply -f", "tests/node/deny-egress.yaml")?;
        self.client("frontend", "network-test", "blocked")?;
        let line = self.line("DROP frontend/network-test -> ")?;
        let denied = "egress denied by NetworkPolicy frontend/deny-egress-network-test";
        ensure!(line.contains(denied), "{line}");
        self.remedy(&line)?;
        self.client("frontend", "network-test", "reached")
    }

    fn resolver_cut_off(&mut self) -> Result<()> {
        self.audience.say("A list of what checkout may reach, which forgets the resolver.");
        self.show("apply -f", "tests/node/allow-backend-only.yaml")?;
        self.client("shop", "checkout", "unresolved")?;
        let line = self.line("DROP shop/checkout -> kube-system/coredns-")?;
        for part in [":53/UDP", "egress denied by NetworkPolicy shop/allow-backend-only"] {
            ensure!(line.contains(part), "not {part:?}: {line}");
        }
        let id = self.critical("shop/allow-backend-only")?;
        self.audience.say("A pager has nothing but the incident's id. It is enough:");
        let manifest = self.apply_fix(&["fix".to_owned(), id])?;
        ensure!(manifest.contains("k8s-app: kube-dns"), "not the resolver:\n{manifest}");
        self.client("shop", "checkout", "resolved")
    }

    fn probes_cut_off(&mut self) -> Result<()> {
        self.audience.say(
            "A policy that lets the neighbours in, and so not the kubelet. Calico lets a node reach \
             its own pods anyway; a rule stands for a network plugin that does not.",
        );
        self.show("apply -f", "tests/node/same-namespace-only.yaml")?;
        let address = ["get", "pod", "api", "-n", "shop", "-o", "jsonpath={.status.podIP}"];
        let address = self.kubectl.run(address)?;
        self.nft(&STRICT.replace("ADDRESS", &address))?;
        self.event("shop", "api", &["Liveness probe failed", "NetworkPolicyDenied"])?;
        let line = self.line("-> shop/api:8080/TCP")?;
        for part in ["ingress denied by NetworkPolicy shop/same-namespace-only", "probe"] {
            ensure!(line.contains(part), "not {part:?}: {line}");
        }
        self.critical("shop/same-namespace-only")?;
        let restarted = ["get", "pod", "api", "-n", "shop"];
        let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
        until("restart by the kubelet", WAIT, || {
            let count = self.kubectl.run(restarted.iter().copied().chain(["-o", restarts]))?;
            Ok(if count == "0" { Look::NotYet(count) } else { Look::Seen(()) })
        })?;
        self.show("get pod", "api -n shop")?;
        self.remedy(&line)?;
        // The rule follows the policy, as the plugin that it stands for would.
        self.nft("delete table inet strict")?;
        self.kubectl.run([
            "wait",
            "pod/api",
            "-n",
            "shop",
            "--for=condition=Ready",
            "--timeout=60s",
        ])?;
        self.audience.say("Once nothing has been dropped for a while, the incidents are over.");
        self.over("shop/allow-backend-only")?;
        self.over("shop/same-namespace-only")
    }

    /// Runs kubectl in sight; a path below the repository is the last word.
    fn show(&mut self, words: &str, last: &str) -> Result<()> {
        self.audience.command("", &format!("kubectl {words} {last}"));
        let path = repository(last);
        let last = if path.exists() { path.to_string_lossy() } else { last.into() };
        let printed = self.kubectl.run(words.split(' ').chain(last.split(' ')))?;
        self.audience.output(&printed);
        Ok(())
    }

    /// Waits until the last word of a client's is this one.
    fn client(&mut self, namespace: &str, pod: &str, word: &str) -> Result<()> {
        until(&format!("{word:?} from {pod}"), WAIT, || {
            let said = self.kubectl.output(["logs", pod, "-n", namespace, "--tail=1"])?;
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            Ok(if said.trim() == word { Look::Seen(()) } else { Look::NotYet(said) })
        })?;
        self.audience.command("", &format!("kubectl logs {pod} -n {namespace} --tail=1"));
        self.audience.output(word);
        Ok(())
    }

    fn agent_log(&self) -> String {
        self.kubectl.run(["logs", "daemonset/whydrop", "-n", "whydrop"]).unwrap_or_default()
    }

    /// Waits for a line of the agent's log that holds this.
    fn line(&mut self, part: &str) -> Result<String> {
        let line = until("line in kubectl logs", WAIT, || {
            let log = self.agent_log();
            let line = log.lines().find(|line| line.contains(part)).map(str::to_owned);
            Ok(line.map_or(Look::NotYet(log), Look::Seen))
        })?;
        let typed = format!("kubectl logs daemonset/whydrop -n whydrop | grep -e '{part}'");
        self.audience.command("", &typed);
        self.audience.output(&line);
        Ok(line)
    }

    /// Waits until an incident by this policy is reported as critical, and returns its id.
    fn critical(&mut self, policy: &str) -> Result<String> {
        let line = until("critical incident", OVER_WAIT, || {
            let log = self.agent_log();
            let is_it = |line: &&str| {
                [" INCIDENT ", " critical ", policy, "; do: "]
                    .iter()
                    .all(|part| line.contains(part))
            };
            let line = log.lines().find(is_it).map(str::to_owned);
            Ok(line.map_or(Look::NotYet(log), Look::Seen))
        })?;
        self.audience.output(&line);
        let id = line.split_whitespace().skip_while(|word| *word != "INCIDENT").nth(1);
        Ok(id.context("an id")?.to_owned())
    }

    /// Waits until the incident by this policy is over.
    fn over(&mut self, policy: &str) -> Result<()> {
        let line = until("end of the incident", OVER_WAIT, || {
            let log = self.agent_log();
            let is_it = |line: &&str| {
                line.contains(" INCIDENT ") && line.contains(" resolved: ") && line.contains(policy)
            };
            let line = log.lines().find(is_it).map(str::to_owned);
            Ok(line.map_or(Look::NotYet(log), Look::Seen))
        })?;
        let is_well = ["traffic passes since", "policies allow it now"];
        ensure!(is_well.iter().any(|why| line.contains(why)), "{line}");
        self.audience.output(&line);
        Ok(())
    }

    /// Waits until the events of a pod hold all these words.
    fn event(&mut self, namespace: &str, pod: &str, words: &[&str]) -> Result<()> {
        let events = until("event", WAIT, || {
            let described = self.kubectl.run(["describe", "pod", pod, "-n", namespace])?;
            let events = described.split_once("\nEvents:").map(|(_, events)| events.to_owned());
            let events = events.unwrap_or_default();
            Ok(if words.iter().all(|word| events.contains(word)) {
                Look::Seen(events)
            } else {
                Look::NotYet(events)
            })
        })?;
        let typed = format!("kubectl describe pod {pod} -n {namespace} | grep -e Warning");
        self.audience.command("", &typed);
        for event in events.lines().filter(|line| line.contains("Warning")) {
            self.audience.output(&event.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        Ok(())
    }

    /// Runs the command that a line of the log proposes, and applies what it prints.
    fn remedy(&mut self, line: &str) -> Result<String> {
        self.apply_fix(&hint::of_line(line)?)
    }

    /// Runs `whydrop fix …`, and applies what it prints.
    fn apply_fix(&mut self, words: &[String]) -> Result<String> {
        self.audience.command("", &format!("whydrop {} | tee remedy.yaml", words.join(" ")));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let fixed = self.node.whydrop(NAME, &words)?;
        ensure!(fixed.status.success(), "{}", String::from_utf8_lossy(&fixed.stderr));
        let manifest = String::from_utf8(fixed.stdout)?;
        self.audience.output(&manifest);
        self.audience.command("", "kubectl apply -f remedy.yaml");
        self.audience.output(&self.kubectl.apply(&manifest)?);
        Ok(manifest)
    }

    /// Feeds rules to the node's own nftables.
    fn nft(&mut self, rules: &str) -> Result<()> {
        self.audience.command("node", "nft -f -");
        self.audience.output(rules);
        self.node.network(NAME)?.nft(rules)
    }
}
