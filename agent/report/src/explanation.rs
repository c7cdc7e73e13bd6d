//! The answer of `whydrop explain`: a verdict with the walk through policies and rules behind it, of
//! every packet that may come of the question.

mod packets;

use std::fmt::Write as _;

use serde::Serialize;
use whydrop_core::{
    answer::{Answer, Effective},
    cluster::profile::{Engine, EngineName},
    diagnosis::{Class, Diagnosis, remark},
    remedy::{
        self, NoRemedy,
        choices::{self, ChoiceKind},
        mark::Mark,
    },
    verdict::{
        Decision, DirectionVerdict, PolicyTrace, RuleTrace, Verdict as Judged,
        outcome::{MatchOutcome, PeerMiss, PortMiss},
        remarks::Remark,
    },
};

use crate::{
    convert::{cause_of, flow_of, paths_of, policy_ref, remedy_of, verdict_of},
    escape::escape,
    schema::{self, Cause, Flow, ObjectRef, Remedy, Verdict},
    text,
};
pub use packets::{PacketStep, Through};

/// A flow explained.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The flow, with both ends mapped: of several packets that may come of it that of the first which
    /// is denied, or else of the first.
    pub flow: Flow,
    /// Whether it gets through: `allow`, `deny`, `some` (of the packets that may come of it some are
    /// denied) or `unknown`. What the specification exempts does.
    pub effective: Effective,
    /// Who enforces policies.
    pub engine: EngineSeen,
    /// What is worth knowing of the ends, and beside the verdict.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// What the policies say.
    pub verdict: Verdict,
    /// Why.
    pub cause: Cause,
    /// What would let it pass, whichever packet comes of it.
    pub remedy: Option<Remedy>,
    /// Why there is no remedy, of a flow of which some is denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_remedy: Option<WithoutRemedy>,
    /// Other ways to let it pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
    /// The walk, direction by direction.
    pub trace: Trace,
    /// The Service that is in between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Through>,
    /// The packets that may come of it, where there are several or a Service is in between.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packets: Vec<PacketStep>,
    /// The command that prints the remedy of what was asked.
    #[serde(skip)]
    fix: String,
}

/// Why there is no remedy.
#[derive(Debug, Serialize)]
pub struct WithoutRemedy {
    /// The reason, for a program: `denied-by-rule`, `not-policy`, `unnamed`, `not-matched`, `isolates`,
    /// `overrules`, `unknown` or `unproved`.
    pub reason: &'static str,
    /// The same for a person.
    pub text: String,
}

/// Another way than a new policy, tried as a remedy is.
#[derive(Debug, Serialize)]
pub struct Choice {
    /// What to do, in words, with what it newly allows.
    pub text: String,
    /// The command, where one does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// How many other pairs of ends it newly allows, at least.
    pub newly_allowed: usize,
    /// Between whom these are, the paths with most pairs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub newly_allowed_paths: Vec<String>,
    /// Whether a policy is there that was perhaps written for this flow.
    #[serde(skip)]
    is_intended: bool,
}

impl Choice {
    fn of(choice: &choices::Choice) -> Self {
        Self {
            text: choice.to_string(),
            command: choice.action.command().map(str::to_owned),
            newly_allowed: choice.newly_allowed,
            newly_allowed_paths: paths_of(&choice.newly_allowed_paths),
            is_intended: matches!(choice.action, ChoiceKind::LabelPods(_)),
        }
    }
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

/// What is said beside the answer.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// Who enforces policies.
    pub engine: &'a Engine,
    /// What is worth knowing of the ends.
    pub ends: &'a [remark::Remark],
    /// What is worth knowing of how the verdict came about.
    pub notes: &'a [Remark],
    /// Other ways to let the flow pass.
    pub choices: &'a [choices::Choice],
    /// The question named an address or a node, and no Service.
    pub by_address: bool,
    /// The command that prints the remedy of what was asked.
    pub fix: &'a str,
}

impl WithoutRemedy {
    /// Of a flow of which nothing is denied there is nothing to remedy.
    fn of(answer: &Answer, why: &NoRemedy) -> Option<Self> {
        let is_denied = matches!(answer.effective(), Effective::Deny | Effective::Some);
        is_denied.then(|| Self { reason: why.reason(), text: why.to_string() })
    }
}

impl Explanation {
    /// Explains an answer. `diagnosis`: the one that stands for it.
    pub fn new(
        answer: &Answer,
        diagnosis: &Diagnosis,
        remedy: Result<&remedy::Remedy, &NoRemedy>,
        beside: &Beside<'_>,
    ) -> Self {
        let Beside { engine, ends, notes, choices, by_address, fix } = *beside;
        let is_several = answer.ways.len() > 1 || !answer.courses.is_empty();
        let flow = flow_of(diagnosis);
        let mark = Mark { command: Some(fix.to_owned()), ..Mark::default() };
        let on_ends = ends.iter().map(ToString::to_string);
        Self {
            flow,
            effective: answer.effective(),
            engine: EngineSeen {
                name: engine.name,
                version: engine.version.map(|version| version.to_string()),
                evidence: engine.evidence.to_string(),
                decided: notes.iter().any(Remark::is_of_engine),
            },
            remarks: on_ends.chain(notes.iter().map(ToString::to_string)).collect(),
            verdict: verdict_of(&diagnosis.verdict),
            cause: cause_of(&diagnosis.cause, None),
            remedy: remedy.ok().map(|remedy| remedy_of(remedy, &mark)),
            no_remedy: remedy.err().and_then(|why| WithoutRemedy::of(answer, why)),
            choices: choices.iter().map(Choice::of).collect(),
            trace: trace(&diagnosis.verdict),
            service: Through::of(answer, by_address),
            packets: if is_several { packets::steps(answer) } else { Vec::new() },
            fix: fix.to_owned(),
        }
    }
}

fn trace(verdict: &Judged) -> Trace {
    Trace { egress: steps(&verdict.egress), ingress: steps(&verdict.ingress) }
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

/// What became of a flow, for a person.
const fn outcome(effective: Effective) -> &'static str {
    match effective {
        Effective::Allow => "passes",
        Effective::Deny => "denied",
        Effective::Some => "some denied",
        Effective::Unknown => "cannot tell",
    }
}

/// The explanation for a person.
pub fn text(explanation: &Explanation) -> String {
    let Explanation { flow, effective, remarks, verdict, cause, trace, service, packets, .. } =
        explanation;
    let mut lines = vec![headline(explanation)];
    if let Some(through) = service {
        through.write(&mut lines);
    }
    lines.extend(remarks.iter().map(|remark| format!("note: {remark}")));
    if packets.len() > 1 {
        packets::write(&mut lines, packets, *effective);
    } else {
        if let Some(exempt) = verdict.exempt {
            let what = text::exemption(exempt);
            lines.push(format!("exempt by the specification, whatever the policies say: {what}"));
        }
        lines.extend(packets.iter().filter_map(PacketStep::way));
        lines.push(String::new());
        let seen = packets.first().map_or(flow, |packet| &packet.flow);
        walks(&mut lines, packets::source_of(packets, flow), seen, verdict, trace);
    }
    let by_policies = |direction: &schema::DirectionVerdict| direction.decision == Decision::Denied;
    if cause.class != Class::None {
        lines.push(String::new());
        lines.push(format!("cause: {}", cause.class));
        lines.push(format!("  {}", cause.text));
    } else if cause.situation.is_some()
        || (verdict.exempt.is_some()
            && (by_policies(&verdict.egress) || by_policies(&verdict.ingress)))
    {
        lines.push(String::new());
        lines.push(format!("note: {}", cause.text));
        lines.push(format!("  if it does not pass on your cluster: {}", explanation.fix));
    }
    let mut text = lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{}", escape(line));
        text
    });
    write_remedy(&mut text, explanation);
    text
}

/// What would let it pass: first what was perhaps intended to, and the other ways after the remedy.
fn write_remedy(text: &mut String, explanation: &Explanation) {
    let Explanation { remedy, no_remedy, choices, cause, .. } = explanation;
    let (intended, others): (Vec<_>, Vec<_>) =
        choices.iter().partition(|choice| choice.is_intended);
    for choice in intended {
        let _ = writeln!(text, "\nperhaps intended: {}", escape(&choice.text));
    }
    let head = if remedy.is_some() { "  or " } else { "\nanother way: " };
    if let Some(remedy) = remedy {
        let _ = writeln!(text, "\nremedy: {}", escape(&remedy.summary));
        let cost = cost(remedy.newly_allowed, &remedy.newly_allowed_paths);
        let tried = match cause.kube_proxy {
            Some(_) => "Verified with what is behind the Service, as if it were ready.",
            None => "Verified.",
        };
        let _ = writeln!(text, "  {tried} {cost}");
    }
    if let Some(why) = no_remedy {
        let _ = writeln!(text, "\nno remedy: {}", escape(&why.text));
    }
    for choice in others {
        let _ = writeln!(text, "{head}{}", escape(&choice.text));
    }
    if let Some(remedy) = remedy {
        let _ = write!(text, "\n{}", remedy.manifest);
    }
}

/// Kinds that have no say in a direction without rules for it: they isolate nobody.
const LEAVES_IT_TO_OTHERS: [&str; 2] = ["AdminNetworkPolicy", "BaselineAdminNetworkPolicy"];

/// `frontend/pod-a -> backend/pod-b:8080/TCP: denied`.
fn headline(explanation: &Explanation) -> String {
    let Explanation { flow, effective, service, packets, .. } = explanation;
    let source = text::end(packets::source_of(packets, flow));
    let outcome = outcome(*effective);
    match service {
        // Of one packet it is the packet's, unless it is never sent.
        Some(through) if packets.len() != 1 || explanation.cause.kube_proxy.is_some() => {
            format!("{source} -> {}: {outcome}", through.destination())
        }
        _ => {
            let destination = text::destination_text(&flow.destination);
            format!("{source} -> {destination}/{}: {outcome}", flow.protocol)
        }
    }
}

/// What else a remedy allows, and between whom, for a person.
pub fn cost(newly_allowed: usize, paths: &[String]) -> String {
    format!("It {}.", text::newly_allowed(newly_allowed, paths))
}

/// Both directions of a packet. `source`: as it leaves.
fn walks(
    lines: &mut Vec<String>,
    source: &schema::End,
    flow: &Flow,
    verdict: &Verdict,
    trace: &Trace,
) {
    walk(lines, "egress", &text::end(source), &verdict.egress, &trace.egress);
    walk(lines, "ingress", &text::end(&flow.destination), &verdict.ingress, &trace.ingress);
}

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
