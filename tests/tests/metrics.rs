//! The metrics, and what deploy/monitoring makes of them: a real agent, a real dropped SYN, and a
//! real Prometheus (of Debian's package) that scrapes one and answers for the other. Needs root.

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use whydrop_core::diagnosis::Class;
use whydrop_tests::{
    kube::{
        daemon::{Daemon, Lifetime, Place, Spawner},
        debian::PROMETHEUS,
        wait::{Look, until},
    },
    play::denied,
    repository,
    world::{
        World as _,
        agent::Agent,
        manifest,
        namespace::{Network, checked},
        netns::{NAME, Node},
    },
};

/// Where the agent answers, on its node.
const AGENT: &str = "127.0.0.1:9472";
/// Where Prometheus does.
const SERVER: &str = "127.0.0.1:9090";
/// How long a reading may take: they are renewed every 10 s.
const READING_WAIT: Duration = Duration::from_secs(30);
/// How long Prometheus may take to start, and then to have scraped often enough for a rate.
const SERVER_WAIT: Duration = Duration::from_secs(30);

/// A pod of a Deployment.
fn client() -> Value {
    let mut pod = manifest::pod("frontend/web-5d9c7b9f4d-x2x4z");
    pod["metadata"]["labels"] = json!({ "pod-template-hash": "5d9c7b9f4d" });
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9c7b9f4d", "uid": "u-1",
        "controller": true,
    }]);
    pod
}

/// What there is to see of the drop: names of neither pod, nor an address.
const DROPS: &str = "whydrop_drops_total{namespace=\"frontend\",workload=\"web\",\
                     policy=\"backend/default-deny\",direction=\"ingress\",cause=\"default-deny\",\
                     evidence=\"kernel-drop\"} 1";

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).expect(path)
}

/// An agent on a node where a SYN was dropped.
struct Scraped {
    agent: Agent,
    node: Node,
}

impl Scraped {
    fn new() -> Self {
        let client = client();
        let node = denied::node(&client).expect("a node");
        let mut command = node.agent_command(NAME).expect("whydrop");
        let mut agent =
            Agent::spawn(command.args(["--health-address", AGENT])).expect("the agent starts");
        agent.wait_ready().expect("it gets ready");
        denied::drop_one(&node, &client, &mut agent).expect("a record of the drop");
        Self { agent, node }
    }

    fn curl(&self, arguments: &[&str]) -> Result<String> {
        curl(self.node.namespace(), arguments)
    }
}

fn curl(place: &Network, arguments: &[&str]) -> Result<String> {
    checked(place.command("curl").args(["-q", "--silent", "--show-error"]).args(arguments))
}

#[test]
fn a_scrape_has_the_drop_and_the_state_of_the_agent() {
    let scraped = Scraped::new();
    let page = format!("http://{AGENT}/metrics");
    let text = until("reading of the dropped SYNs", READING_WAIT, || {
        let text = scraped.curl(&["--fail", "--include", &page])?;
        let seen = text.lines().any(|line| {
            let count = line.strip_prefix("whydrop_observations_total{kind=\"kernel-drop\"} ");
            count.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count > 0)
        });
        Ok(if seen { Look::Seen(text) } else { Look::NotYet(text) })
    });
    let text = text.expect("metrics").replace('\r', "");
    let (head, body) = text.split_once("\n\n").expect("a head and a body");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.lines().any(|line| line == kind), "{head}");
    for line in [
        DROPS,
        "whydrop_build_info{version=\"0.1.0\"} 1",
        "whydrop_ready 1",
        "whydrop_interfaces{state=\"attached\"} 2",
        "whydrop_interfaces{state=\"failed\"} 0",
        "whydrop_objects{kind=\"NetworkPolicy\"} 1",
        "whydrop_agent_records_total{state=\"ready\"} 1",
        "whydrop_series_overflow_total 0",
        "whydrop_queue_length{queue=\"log\"} 0",
        "whydrop_queue_limit{queue=\"log\"} 1024",
    ] {
        assert!(body.lines().any(|have| have == line), "no {line} in\n{body}");
    }
    // What has been dropped is an incident by now, or in a moment.
    let open = "whydrop_incidents_open{severity=\"";
    until("incident", READING_WAIT, || {
        let text = scraped.curl(&["--fail", &page])?;
        let has = |start: &str| text.lines().any(|line| line.starts_with(start));
        let is_there = has(open) && has("whydrop_incidents_total{happened=\"opened\",severity=\"");
        Ok(if is_there { Look::Seen(()) } else { Look::NotYet(text) })
    })
    .expect("an incident");
    let losses: Vec<_> =
        body.lines().filter(|line| line.starts_with("whydrop_lost_total")).collect();
    assert!(losses.len() >= 5 && losses.iter().all(|line| line.ends_with(" 0")), "{losses:?}");
    // Bounded sets of values: nothing that names a pod.
    assert!(!body.contains("10.7.0.") && !body.contains("x2x4z") && !body.contains("api-0"));
    assert!(body.ends_with("# EOF\n"), "{body}");
    assert_eq!(undocumented(body), BTreeSet::new(), "metrics that the README does not name");
    scraped.agent.stop().expect("it ends");
}

/// Prometheus on the agent's node, which scrapes it and has the rules loaded.
struct Server<'s> {
    scraped: &'s Scraped,
    _daemon: Daemon,
    _folder: TempDir,
}

impl<'s> Server<'s> {
    fn start(scraped: &'s Scraped) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("prometheus.yaml");
        let rules = repository("deploy/monitoring/alerts.yaml");
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
                 rule_files: [\"{}\"]\n\
                 scrape_configs:\n\
                 - {{job_name: whydrop, static_configs: [{{targets: [\"{AGENT}\"]}}]}}\n",
                rules.display()
            ),
        )?;
        let place = Place::Network(scraped.node.namespace().name().to_owned());
        let spawner = Spawner::new(place, Lifetime::Owner)?;
        let mut command = spawner.serving(PROMETHEUS.file("usr/bin/prometheus")?);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={SERVER}"));
        let mut daemon = Daemon::start(&spawner, folder.path(), "prometheus", command)?;
        until("Prometheus that is ready", SERVER_WAIT, || {
            daemon.check()?;
            let ready = format!("http://{SERVER}/-/ready");
            Ok(match curl(scraped.node.namespace(), &["--fail", &ready]) {
                Ok(_) => Look::Seen(()),
                Err(error) => Look::NotYet(format!("{error:#}")),
            })
        })
        .with_context(|| daemon.tail())?;
        Ok(Self { scraped, _daemon: daemon, _folder: folder })
    }

    /// What one of its addresses answers, which has to be that all is well.
    fn get(&self, path: &str, query: &[&str]) -> Result<Value> {
        let page = format!("http://{SERVER}/api/v1/{path}");
        let mut arguments = vec!["--get", &page];
        for query in query {
            arguments.extend(["--data-urlencode", query]);
        }
        let answer = self.scraped.curl(&arguments)?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| answer.clone())?;
        ensure!(answer["status"] == "success", "{path} {query:?}: {answer}");
        Ok(answer["data"].clone())
    }

    /// The series that a query comes to.
    fn query(&self, query: &str) -> Result<Vec<Value>> {
        let data = self.get("query", &[&format!("query={query}")])?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }
}

#[test]
fn prometheus_takes_the_scrape_the_dashboard_and_the_rules() {
    let scraped = Scraped::new();
    let server = Server::start(&scraped).expect("Prometheus");
    until("second scrape", SERVER_WAIT, || {
        let scrapes = server.query("count_over_time(whydrop_drops_total[1m])")?;
        let count = scrapes.first().and_then(|scrape| scrape["value"][1].as_str()?.parse().ok());
        Ok(match count {
            Some(2_u32..) => Look::Seen(()),
            _ => Look::NotYet(format!("{scrapes:?}, {}", server.get("targets", &[])?)),
        })
    })
    .expect("it scrapes");
    let targets = server.get("targets", &[]).expect("targets");
    let target = &targets["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()), "{target}");

    let queries = dashboard_queries();
    assert!(queries.len() > 15, "{queries:?}");
    for query in &queries {
        // What Grafana puts in their place.
        let query = query.replace("$__rate_interval", "1m").replace("$namespace", ".*");
        assert!(!query.contains('$'), "a variable that is not known here: {query}");
        let found = server.query(&query).expect("the dashboard's query");
        let is_of_drops = query.contains("whydrop_drops_total");
        assert!(!found.is_empty() || !is_of_drops, "nothing comes of {query}");
    }

    let rules = until("evaluation of every rule", SERVER_WAIT, || {
        let rules = server.get("rules", &[])?;
        let groups = rules["groups"].as_array().cloned().unwrap_or_default();
        let rules: Vec<_> = groups
            .iter()
            .filter_map(|group| group["rules"].as_array())
            .flatten()
            .cloned()
            .collect();
        let is_done = rules.iter().all(|rule| rule["health"] != "unknown");
        Ok(if is_done { Look::Seen(rules) } else { Look::NotYet(format!("{rules:?}")) })
    });
    let rules = rules.expect("rules");
    assert!(!rules.is_empty());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}

/// Every query of the dashboard's panels.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&read("deploy/monitoring/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect()
}

/// The metrics that a text names and the README does not.
fn undocumented(text: &str) -> BTreeSet<String> {
    let known = names(&read("README.md"));
    names(text).into_iter().filter(|name| !known.contains(name)).collect()
}

/// The names of series in a text; those of metrics as `HELP` has them are no such.
fn names(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let words = lines.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    words.filter(|word| word.starts_with("whydrop_")).map(str::to_owned).collect()
}

#[test]
fn promtool_passes_the_rules_and_their_tests() {
    let promtool = PROMETHEUS.file("usr/bin/promtool").expect("promtool");
    for (job, file) in
        [("check", "deploy/monitoring/alerts.yaml"), ("test", "tests/monitoring/alerts.yaml")]
    {
        let said = checked(Command::new(&promtool).args([job, "rules"]).arg(repository(file)));
        said.unwrap_or_else(|error| panic!("{error:#}"));
    }
}

#[test]
fn every_alert_leads_to_a_part_of_the_playbook() {
    let alerts: Value =
        serde_saphyr::from_str(&read("deploy/monitoring/alerts.yaml")).expect("YAML");
    let groups = alerts["groups"].as_array().expect("groups").iter();
    let rules: Vec<_> = groups.filter_map(|group| group["rules"].as_array()).flatten().collect();
    assert!(!rules.is_empty());
    let playbook = read("docs/playbook.md");
    // As GitHub makes them of headings in lower case.
    let anchors: BTreeSet<_> = playbook
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"))
        .collect();
    for class in CLASSES.map(Class::name) {
        assert!(anchors.contains(class), "the playbook has nothing on {class}");
    }
    for rule in rules {
        let link = rule["annotations"]["runbook_url"].as_str().expect("a runbook");
        let (page, anchor) = link.split_once('#').expect("an anchor");
        assert_eq!(page, "https://github.com/whydrop/whydrop/blob/main/docs/playbook.md");
        // Any class may stand for this one, and each has a part.
        let is_class = anchor == "{{ $labels.cause }}";
        assert!(is_class || anchors.contains(anchor), "no {anchor} for {}", rule["alert"]);
    }
    for file in ["deploy/monitoring/alerts.yaml", "deploy/monitoring/dashboard.json"] {
        let unknown = undocumented(&read(file));
        assert_eq!(unknown, BTreeSet::new(), "{file} asks for what no agent reports");
    }
}

/// Everything that a record can give as the cause.
const CLASSES: [Class; 13] = [
    Class::ExplicitDeny,
    Class::NamespaceSelectorMismatch,
    Class::PodSelectorMismatch,
    Class::PortMismatch,
    Class::ProtocolMismatch,
    Class::IpBlockMismatch,
    Class::IpBlockExcept,
    Class::NamedPortUnresolved,
    Class::DefaultDeny,
    Class::NotEnforced,
    Class::OutOfSync,
    Class::NotPolicy,
    Class::CannotTell,
];
