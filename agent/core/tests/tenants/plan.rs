//! What happens in a run, drawn from its seed: how the victims lose what they had, and what the tenants
//! try.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    random::Random,
    time::Ms,
    world::{API, BOOKS, Client, DB, LONG_AGO, NAMESPACES, SERVERS, SHOP, Server, TENANTS},
};

/// How long the victims have had their server when they lose it, at the least and at the most. The agent
/// sees all of that.
const HAD: (Ms, Ms) = (400_000, 460_000);

/// How long a run goes on after that: a watch, and what comes before and after it.
const AFTER: Ms = 420_000;

/// How many things a tenant does.
const ACTS: (Ms, Ms) = (2, 6);

/// How many pods it makes at once at most.
const PODS_MAX: Ms = 4;

/// How many connections it forges at a time at most.
const FORGED_MAX: Ms = 40;

/// How the victims lose what they had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The policy that admits them is edited.
    Edit,
    /// Another comes, and then it is deleted.
    Replace,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// A pod begins to dial a server, every so often, until the end.
    Dials(Client, Server, Ms),
    /// Answers to a pod's connections that no server gave, one a second, as if the kernel counted them.
    Forges(Client, Server, Ms),
    /// A policy of the tenant's own cuts all of its pods off, or does no more.
    CutsOff(&'static str, bool),
    /// A policy of the tenant's own says that it is the healer's, for the victims' incident.
    LooksLikeTheHealers { namespace: &'static str, expires: Ms, is_kept: bool },
    /// A tool of the servers' owners writes their policy anew, as it is.
    Rewrites,
    /// The victims lose what they had.
    Change(Change),
    /// The agent is restarted: what it has seen of changes is gone, its table of answers is not.
    AgentRestarts,
    /// Another healer takes over.
    TakesOver,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// In the order of time.
    pub(crate) acts: Vec<(Ms, Act)>,
    /// What the annotations of namespaces say.
    pub(crate) consents: BTreeMap<&'static str, &'static str>,
    /// Those whom the servers' policy admits until it changes.
    pub(crate) admitted: Vec<&'static str>,
    pub(crate) until: Ms,
    /// The victims are to get back what they had.
    pub(crate) is_rightful: bool,
}

fn client(namespace: &'static str, workload: Option<&'static str>, last: [u8; 2]) -> Client {
    let [third, fourth] = last;
    Client {
        namespace,
        workload,
        name: format!("{}-{third}-{fourth}", workload.unwrap_or("pod")),
        app: workload.unwrap_or("web"),
        address: IpAddr::from([10, 1, third, fourth]),
        created: LONG_AGO,
    }
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let change = random.between(HAD.0, HAD.1);
        let until = change + AFTER;
        let how = *random.pick(&[Change::Edit, Change::Replace]);
        let mut acts = vec![(change, Act::Change(how))];
        for (n, every) in [(0, 11_000), (1, 17_000)] {
            let web = client(SHOP, Some("web"), [0, 30 + n]);
            acts.push((random.between(0, 9_000), Act::Dials(web, DB, every)));
        }
        let mut admitted = vec![SHOP];
        if random.chance(30) {
            admitted.push(TENANTS[0]);
        }
        let restart = random.between(60_000, until);
        let restarts = how == Change::Edit && random.chance(50);
        if restarts {
            acts.push((restart, Act::AgentRestarts));
        }
        if random.chance(40) {
            acts.push((random.between(change, until), Act::TakesOver));
        }
        if random.chance(50) {
            acts.push((random.between(1_000, until), Act::Rewrites));
        }
        for (index, tenant) in TENANTS.into_iter().enumerate() {
            acts.extend(tries(tenant, index, &mut random, (change, until)));
        }
        acts.sort_by_key(|(time, _)| *time);
        let mut consents = BTreeMap::new();
        for namespace in NAMESPACES {
            let is_owner = [BOOKS, SHOP].contains(&namespace);
            let likely = if is_owner { 80 } else { 50 };
            let other = *random.pick(&["", "dry-run", "Apply", "true"]);
            let says = if random.chance(likely) { "apply" } else { other };
            if !says.is_empty() {
                consents.insert(namespace, says);
            }
        }
        let consent = [BOOKS, SHOP].iter().all(|of| consents.get(of) == Some(&"apply"));
        // An agent that is restarted since has not seen an old policy edited, and does not know any more
        // what it is to see recover.
        let saw_it = !restarts || restart < change - 1_000;
        Self { acts, consents, admitted, until, is_rightful: consent && saw_it }
    }
}

/// What a tenant tries.
fn tries(
    tenant: &'static str,
    index: usize,
    random: &mut Random,
    (change, until): (Ms, Ms),
) -> Vec<(Ms, Act)> {
    let mut acts = Vec::new();
    let mut last = 1;
    let third = 1 + u8::try_from(index).expect("two tenants");
    for _ in 0..random.between(ACTS.0, ACTS.1) {
        // As often before as after.
        let (from, to) = if random.chance(50) { (0, change) } else { (change - 5_000, until) };
        let time = random.between(from, to);
        let server = *random.pick(&SERVERS);
        match random.below(6) {
            0..=2 => {
                let workload = *random.pick(&[Some("web"), Some("evil"), None]);
                let is_old = random.chance(30);
                let (every, how_long) =
                    (random.between(9_000, 60_000), random.between(30_000, 500_000));
                let forges = random.chance(60);
                for _ in 0..random.between(1, PODS_MAX) {
                    let created = if is_old { LONG_AGO } else { time };
                    let pod = Client { created, ..client(tenant, workload, [third, last]) };
                    last += 1;
                    acts.push((time, Act::Dials(pod.clone(), server, every)));
                    if forges {
                        let begin = (time - how_long).max(1_000);
                        let count = random.between(1, FORGED_MAX);
                        acts.push((begin, Act::Forges(pod, server, count)));
                    }
                }
            }
            3 => {
                acts.push((time, Act::CutsOff(tenant, true)));
                if random.chance(50) {
                    acts.push((random.between(time, until), Act::CutsOff(tenant, false)));
                }
            }
            4 => {
                let expires = random.between(-60_000, 600_000);
                let is_kept = random.chance(50);
                let looks = Act::LooksLikeTheHealers { namespace: tenant, expires, is_kept };
                acts.push((time, looks));
            }
            _ => {
                // What it has had by right, if it has.
                let pod = client(tenant, Some("reader"), [third, last]);
                last += 1;
                acts.push((random.between(0, 20_000), Act::Dials(pod, API, 9_000)));
            }
        }
    }
    acts
}
