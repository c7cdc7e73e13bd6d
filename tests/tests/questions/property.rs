//! What holds of an answer.

use std::collections::BTreeMap;

use whydrop::command::{Asked, NoFix};
use whydrop_core::{
    answer::{Answer, Effective, Way},
    cluster::{
        Snapshot,
        profile::Blocks,
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Class, Diagnosis},
    remedy::{NoRemedy, mark::Mark},
    verdict::{Decision, Verdict},
};

use crate::forms::{Form, Variant};

/// What `fix` printed for a question.
pub(crate) struct Printed {
    /// Of which cluster.
    pub(crate) cluster: String,
    pub(crate) form: Form,
    pub(crate) text: String,
}

/// How many questions came to what.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// By form.
    asked: BTreeMap<&'static str, usize>,
    fixed: BTreeMap<&'static str, usize>,
    /// By reason.
    pub(crate) refused: BTreeMap<&'static str, usize>,
    faults: Vec<String>,
}

/// How many faults are shown.
const SHOWN_MAX: usize = 20;

impl Tally {
    /// That no question came to anything else than it should.
    pub(crate) fn assert(&self) {
        let Self { asked, fixed, refused, faults } = self;
        let some: Vec<&str> = faults.iter().take(SHOWN_MAX).map(String::as_str).collect();
        assert!(
            faults.is_empty(),
            "{} faults of {asked:?}, {fixed:?}, {refused:?}:\n{}",
            faults.len(),
            some.join("\n\n")
        );
        assert!(fixed.values().sum::<usize>() > 0, "nothing was fixed of {asked:?}");
    }

    /// Counts what was printed elsewhere.
    pub(crate) fn fixed(&mut self, printed: &Printed) {
        *self.fixed.entry(printed.form.kind).or_default() += 1;
    }

    fn fault(&mut self, cluster: &str, form: &Form, what: &str) {
        self.faults.push(format!("{cluster}, as {}: {:?}\n{what}", form.kind, form.asked));
    }
}

/// What `fix` prints of a cluster's questions that are denied. Why it prints nothing is held against the
/// verdicts.
pub(crate) fn printed(variant: &Variant, tally: &mut Tally) -> Vec<Printed> {
    let Variant { name, snapshot, questions, .. } = variant;
    let mut all = Vec::new();
    for form in questions {
        let Some(answered) = Answered::of(snapshot, name, form, &form.asked, tally) else {
            continue;
        };
        if !answered.is_denied() {
            continue;
        }
        *tally.asked.entry(form.kind).or_default() += 1;
        match form.asked.fix(snapshot, &Mark::default()) {
            Ok(Ok(text)) => {
                *tally.fixed.entry(form.kind).or_default() += 1;
                all.push(Printed { cluster: name.clone(), form: form.clone(), text });
            }
            Ok(Err(why)) => {
                let reason = reason(&why);
                *tally.refused.entry(reason).or_default() += 1;
                if !answered.is_so(snapshot, &why) {
                    tally.fault(name, form, &format!("{reason}: {why}"));
                }
            }
            Err(error) => tally.fault(name, form, &format!("{error:#}")),
        }
    }
    all
}

fn reason(why: &NoFix) -> &'static str {
    match why {
        NoFix::Passes { .. } => "passes",
        NoFix::ExplicitDeny { .. } => "explicit-deny",
        NoFix::NotPolicy { .. } => "not-policy",
        NoFix::NoRule { why, .. } => why.reason(),
        NoFix::NoPolicy { .. } => "no-policy",
    }
}

/// An answer, and whether it is that of who says that what the specification exempts does not pass, as
/// `fix` takes it where nothing else is denied.
struct Answered {
    answer: Answer,
    is_policed: bool,
}

impl Answered {
    fn of(
        snapshot: &Snapshot,
        name: &str,
        form: &Form,
        asked: &Asked,
        tally: &mut Tally,
    ) -> Option<Self> {
        let answer = match asked.answer(snapshot) {
            Ok(answer) => answer,
            Err(error) => {
                tally.fault(name, form, &format!("{asked:?}: {error:#}"));
                return None;
            }
        };
        let leading = answer.leading().map(Way::diagnosis);
        let is_exempt = leading.is_some_and(|leading| leading.verdict.exempt.is_some());
        let is_policed = is_exempt && answer.effective() == Effective::Allow;
        let answer = if is_policed { answer.policed(snapshot) } else { answer };
        Some(Self { answer, is_policed })
    }

    /// What becomes of a packet as it is seen.
    fn decision(&self, seen: &Diagnosis) -> Decision {
        let is_exempt = seen.verdict.exempt.is_some() && !self.is_policed;
        match seen.cause.class {
            Class::NotEnforced => Decision::Allowed,
            _ if is_exempt => Decision::Allowed,
            _ => seen.verdict.decision(),
        }
    }

    fn seen(&self) -> impl Iterator<Item = &Diagnosis> {
        self.answer.ways.iter().flat_map(|way| way.departure().into_iter().chain([way.arrival()]))
    }

    fn denials(&self) -> impl Iterator<Item = &Diagnosis> {
        self.seen().filter(|seen| self.decision(seen) == Decision::Denied)
    }

    fn is_denied(&self) -> bool {
        let is_refused = matches!(self.answer.effective(), Effective::Deny | Effective::Some);
        is_refused || self.denials().next().is_some()
    }

    /// Whether a reason why nothing is printed for what is denied is what the verdicts say.
    fn is_so(&self, snapshot: &Snapshot, why: &NoFix) -> bool {
        let any = |is: &dyn Fn(&Verdict) -> bool| self.denials().any(|seen| is(&seen.verdict));
        let ends = || {
            let of = |seen: &'_ Diagnosis| {
                [seen.question.source.clone(), seen.question.destination.clone()]
            };
            self.denials().flat_map(of).collect::<Vec<Endpoint>>()
        };
        let named = |end: &str| ends().into_iter().find(|own| own.to_string() == end);
        match why {
            NoFix::ExplicitDeny { .. } => any(&is_denied_by_a_rule),
            NoFix::NotPolicy { .. } => !self.answer.is_about_policies(),
            NoFix::NoRule { why: NoRemedy::DeniedByRule(rule), .. } => {
                let by = |verdict: &Verdict| {
                    let directions = [&verdict.egress, &verdict.ingress];
                    directions.iter().any(|direction| direction.denied_by.as_ref() == Some(rule))
                };
                self.seen().any(|seen| by(&seen.verdict))
            }
            NoFix::NoRule { why: NoRemedy::Unnamed(end), .. } => {
                let is_nameless = |end: Endpoint| match end.holder {
                    Holder::Service(_) | Holder::Hidden(_) | Holder::Unknown(_) => true,
                    _ => end.address.is_none(),
                };
                named(end).is_some_and(is_nameless)
            }
            NoFix::NoRule { why: NoRemedy::NotMatched { end, .. }, .. } => {
                let is_node = named(end).is_some_and(|end| matches!(end.holder, Holder::Node(_)));
                is_node && snapshot.engine().profile().blocks == Blocks::OutsideOnly
            }
            NoFix::NoRule { why: NoRemedy::Unknown(of), .. } => {
                any(&is_unknown) || of.contains("may decide")
            }
            NoFix::NoRule { .. } | NoFix::Passes { .. } | NoFix::NoPolicy { .. } => false,
        }
    }
}

fn is_denied_by_a_rule(verdict: &Verdict) -> bool {
    [&verdict.egress, &verdict.ingress].iter().any(|direction| direction.denied_by.is_some())
}

fn is_unknown(verdict: &Verdict) -> bool {
    let directions = [&verdict.egress, &verdict.ingress];
    directions.iter().any(|direction| direction.decision == Decision::Unknown)
}

/// Every packet that the question stands for passes in the cluster with what was printed, and so it is
/// asked as the workloads of its pods; what was unknown may be.
pub(crate) fn passes(before: &Snapshot, after: &Snapshot, printed: &Printed, tally: &mut Tally) {
    let Printed { cluster, form, text } = printed;
    for asked in std::iter::once(&form.asked).chain(&form.also) {
        let Some(then) = Answered::of(before, cluster, form, asked, tally) else { continue };
        let Some(now) = Answered::of(after, cluster, form, asked, tally) else { continue };
        let now = Answered { is_policed: then.is_policed, ..now };
        let is_of_the_question = *asked == form.asked;
        for (seen, before) in now.seen().zip(then.seen()) {
            let is_hopeless = !is_of_the_question && is_denied_by_a_rule(&before.verdict);
            let is_as_it_should_be = match now.decision(seen) {
                Decision::Allowed | Decision::NotIsolated => true,
                Decision::Unknown => then.decision(before) == Decision::Unknown,
                Decision::Denied => is_hopeless,
            };
            if !is_as_it_should_be {
                let what = format!("{} does not pass ({asked:?}) with:\n{text}", seen.question);
                tally.fault(cluster, form, &what);
            }
        }
        if now.seen().count() != then.seen().count() {
            tally.fault(cluster, form, &format!("other packets come of it with:\n{text}"));
        }
    }
}
