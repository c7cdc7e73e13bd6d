//! The answer of `whydrop explain`: a verdict with the walk through policies and rules behind it.

use std::fmt::Write as _;

use serde::Serialize;
use whydrop_core::{
    cluster::profile::{Engine, EngineName},
    diagnosis::{Class, remark},
    judgement::Judgement,
    remedy::mark::Mark,
    verdict::{
        Decision, DirectionVerdict, PolicyTrace, RuleTrace,
        outcome::{MatchOutcome, PeerMiss, PortMiss},
        remarks::Remark,
    },
};

use crate::{
    convert::{cause_of, flow_of, policy_ref, remedy_of, verdict_of},
    escape::escape,
    schema::{self, Cause, Flow, ObjectRef, Remedy, Verdict},
    text,
};

/// A flow explained.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The flow, with both ends mapped.
    pub flow: Flow,
    /// Whether it gets through: `allow`, `deny` or `unknown`. What the specification exempts does.
    pub effective: &'static str,
    /// Who enforces policies.
    pub engine: EngineSeen,
    /// What is worth knowing of the ends, and beside the verdict.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// What the policies say.
    pub verdict: Verdict,
    /// Why.
    pub cause: Cause,
    /// What would let it pass.
    pub remedy: Option<Remedy>,
    /// The walk, direction by direction.
    pub trace: Trace,
}

/// Who enforces policies, as far as is known.
#[derive(Debug, Serialize)]
pub struct EngineSeen {
    /// Which; `unknown` where that does not show.
    pub name: EngineName,
    /// Its major and minor version, if that shows.
    pub version: Option<String>,
    /// What shows it, or why nothing does.
    pub evidence: String,
    /// Whether the flow would fare otherwise by the API's text alone.
    pub decided: bool,
}

/// The policies that govern each end, with all their rules.
#[derive(Debug, Serialize)]
pub struct Trace {
    /// Of the source.
    pub egress: Vec<PolicySteps>,
    /// Of the destination.
    pub ingress: Vec<PolicySteps>,
}

/// What one policy's rules say of the flow.
#[derive(Debug, Serialize)]
pub struct PolicySteps {
    /// The policy.
    pub policy: ObjectRef,
    /// Its rules.
    pub rules: Vec<RuleStep>,
}

/// What one rule says of the flow.
#[derive(Debug, Serialize)]
pub struct RuleStep {
    /// 0-based index.
    pub rule: usize,
    /// `Allow`, `Deny`, `Pass` or `Log`.
    pub action: String,
    /// What it asks of the pod that the policy selects, where that does not match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<Half>,
    /// Whether `from`/`to` matches.
    pub peer: Half,
    /// Whether `ports` matches.
    pub port: Half,
}

/// One half of a rule.
#[derive(Debug, Serialize)]
#[serde(tag = "matches", rename_all = "lowercase")]
pub enum Half {
    /// It matches.
    Yes,
    /// It does not.
    No {
        /// What it wants.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// It cannot be determined.
    Unknown {
        /// Why.
        why: String,
    },
}

impl Explanation {
    /// Explains a judged flow, as an engine takes the policies.
    pub fn new(
        judgement: &Judgement,
        effective: &'static str,
        engine: &Engine,
        remarks: &[Remark],
    ) -> Self {
        let Judgement { diagnosis, changed, remedy } = judgement;
        let flow = flow_of(diagnosis);
        let mark = Mark { command: Some(text::fix_command(&flow)), ..Mark::default() };
        let on_ends = remark::Remark::on(&diagnosis.question);
        let on_ends = on_ends.iter().map(ToString::to_string);
        Self {
            flow,
            effective,
            engine: EngineSeen {
                name: engine.name,
                version: engine.version.map(|version| version.to_string()),
                evidence: engine.evidence.to_string(),
                decided: remarks.iter().any(Remark::is_of_engine),
            },
            remarks: on_ends.chain(remarks.iter().map(ToString::to_string)).collect(),
            verdict: verdict_of(&diagnosis.verdict),
            cause: cause_of(&diagnosis.cause, changed.lead()),
            remedy: remedy.as_ref().map(|remedy| remedy_of(remedy, &mark)),
            trace: Trace {
                egress: steps(&diagnosis.verdict.egress),
                ingress: steps(&diagnosis.verdict.ingress),
            },
        }
    }
}

fn steps(verdict: &DirectionVerdict) -> Vec<PolicySteps> {
    let of_policy = |trace: &PolicyTrace| PolicySteps {
        policy: policy_ref(&trace.policy.reference),
        rules: trace.rules.iter().map(step).collect(),
    };
    verdict.trace.iter().map(of_policy).collect()
}

fn step(rule: &RuleTrace) -> RuleStep {
    RuleStep {
        rule: rule.rule,
        action: rule.action.to_string(),
        own: match &rule.own {
            MatchOutcome::Match => None,
            own => Some(half(own, PeerMiss::wanted_and_found)),
        },
        peer: half(&rule.peer, PeerMiss::wanted_and_found),
        port: half(&rule.port, PortMiss::wanted_and_found),
    }
}

fn half<Miss>(outcome: &MatchOutcome<Miss>, words: impl Fn(&Miss) -> (String, String)) -> Half {
    match outcome {
        MatchOutcome::Match => Half::Yes,
        MatchOutcome::Unknown(why) => Half::Unknown { why: why.to_string() },
        MatchOutcome::Miss(miss) => {
            let (wanted, found) = words(miss);
            Half::No { wanted, found }
        }
    }
}

/// The explanation for a person.
pub fn text(explanation: &Explanation) -> String {
    let Explanation { flow, effective, verdict, cause, remedy, trace, remarks, .. } = explanation;
    let (source, destination) = (text::end(&flow.source), &flow.destination);
    let mut lines = vec![format!(
        "{source} -> {}/{}: {}",
        text::destination_text(destination),
        flow.protocol,
        match *effective {
            "allow" => "passes",
            "deny" => "denied",
            _ => "cannot tell",
        }
    )];
    if let Some(service) = &destination.service {
        let (namespace, name) = (&service.namespace, &service.name);
        lines.push(format!("through Service {namespace}/{name}, {}:{}", service.ip, service.port));
    }
    if let Some(exempt) = verdict.exempt {
        let what = text::exemption(exempt);
        lines.push(format!("exempt by the specification, whatever the policies say: {what}"));
    }
    lines.extend(remarks.iter().map(|remark| format!("note: {remark}")));
    lines.push(String::new());
    walk(&mut lines, "egress", &source, &verdict.egress, &trace.egress);
    let destination = text::end(destination);
    walk(&mut lines, "ingress", &destination, &verdict.ingress, &trace.ingress);
    let by_policies = |direction: &schema::DirectionVerdict| direction.decision == Decision::Denied;
    if cause.class != Class::None {
        lines.push(String::new());
        lines.push(format!("cause: {}", cause.class));
        lines.push(format!("  {}", cause.text));
    } else if verdict.exempt.is_some()
        && (by_policies(&verdict.egress) || by_policies(&verdict.ingress))
    {
        lines.push(String::new());
        lines.push(format!("note: {}", cause.text));
        lines.push(format!("  if it does not pass on your cluster: {}", text::fix_command(flow)));
    }
    let mut text = lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{}", escape(line));
        text
    });
    if let Some(remedy) = remedy {
        let _ = writeln!(text, "\nremedy: {}", escape(&remedy.summary));
        let _ = writeln!(
            text,
            "  Verified. {}\n",
            cost(remedy.newly_allowed, &remedy.newly_allowed_paths)
        );
        text += &remedy.manifest;
    }
    text
}

/// What else a remedy allows, and between whom, for a person.
pub fn cost(newly_allowed: usize, paths: &[String]) -> String {
    format!("It {}.", text::newly_allowed(newly_allowed, paths))
}

/// Kinds that have no say in a direction without rules for it: they isolate nobody.
const LEAVES_IT_TO_OTHERS: [&str; 2] = ["AdminNetworkPolicy", "BaselineAdminNetworkPolicy"];

fn walk(
    lines: &mut Vec<String>,
    direction: &str,
    end: &str,
    verdict: &schema::DirectionVerdict,
    steps: &[PolicySteps],
) {
    let decision = text::decision(verdict.decision);
    let tier = verdict.tier.as_ref().map(|tier| format!(", in tier {tier}")).unwrap_or_default();
    lines.push(format!("{direction} of {end}: {decision}{tier}"));
    for PolicySteps { policy, rules } in steps {
        let namespace = policy.namespace.as_deref().map(|ns| format!("{ns}/")).unwrap_or_default();
        let none = match rules.is_empty() {
            true if LEAVES_IT_TO_OTHERS.contains(&policy.kind.as_str()) => {
                format!(": no {direction} rules, leaves it to the others")
            }
            true => ": no rules, admits nothing".to_owned(),
            false => String::new(),
        };
        let would_deny = if verdict.would_deny.contains(policy) {
            ": decides nothing, and would deny this if it were in force".to_owned()
        } else {
            none
        };
        lines.push(format!("  {} {namespace}{}{would_deny}", policy.kind, policy.name));
        for rule in rules {
            lines.push(format!("    rule {} ({}): {}", rule.rule, rule.action, outcome_of(rule)));
        }
    }
}

fn outcome_of(rule: &RuleStep) -> String {
    match &rule.own {
        Some(Half::No { wanted, found }) => {
            return format!("no: of the pod itself it wants {wanted}; found {found}");
        }
        Some(Half::Unknown { why }) => return format!("cannot tell: {why}"),
        Some(Half::Yes) | None => {}
    }
    match (&rule.peer, &rule.port) {
        (Half::Yes, Half::Yes) => "matches".to_owned(),
        (Half::No { wanted, found }, Half::Yes) => {
            format!("no: peer wants {wanted}; found {found}")
        }
        (Half::Yes, Half::No { wanted, found }) => format!("no: wants {wanted}; found {found}"),
        (Half::No { wanted, found }, Half::No { wanted: port, .. }) => {
            format!("no: wants {port}, and peer wants {wanted}; found {found}")
        }
        (Half::No { wanted, found }, Half::Unknown { .. })
        | (Half::Unknown { .. }, Half::No { wanted, found }) => {
            format!("no: wants {wanted}; found {found}")
        }
        (Half::Unknown { why }, _) | (_, Half::Unknown { why }) => format!("cannot tell: {why}"),
    }
}
