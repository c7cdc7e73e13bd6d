//! What holds of an answer.

use std::collections::BTreeMap;

use whydrop::command::{Asked, NoFix};
use whydrop_core::{
    answer::{Answer, Effective, Way},
    cluster::Snapshot,
    remedy::mark::Mark,
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
        println!("asked {asked:?}, fixed {fixed:?}, not {refused:?}");
    }

    fn fault(&mut self, cluster: &str, form: &Form, what: &str) {
        self.faults.push(format!("{cluster}, as {}: {:?}\n{what}", form.form, form.asked));
    }
}

/// What `fix` prints of a cluster's questions that are denied. Why it prints nothing is held against the
/// verdicts.
pub(crate) fn printed(variant: &Variant, tally: &mut Tally) -> Vec<Printed> {
    let Variant { name, snapshot, questions } = variant;
    let mut all = Vec::new();
    for form in questions {
        let Some(answer) = answer(snapshot, name, form, &form.asked, tally) else { continue };
        if !matches!(answer.effective(), Effective::Deny | Effective::Some) {
            continue;
        }
        *tally.asked.entry(form.form).or_default() += 1;
        match form.asked.fix(snapshot, &Mark::default()) {
            Ok(Ok(text)) => {
                *tally.fixed.entry(form.form).or_default() += 1;
                all.push(Printed { cluster: name.clone(), form: form.clone(), text });
            }
            Ok(Err(why)) => {
                let reason = reason(&why);
                *tally.refused.entry(reason).or_default() += 1;
                if !is_so(&why, &answer) {
                    tally.fault(name, form, &format!("{reason}: {why}"));
                }
            }
            Err(error) => tally.fault(name, form, &format!("{error:#}")),
        }
    }
    all
}

/// The answer; where the specification exempts what is asked about, that of who says that it does not
/// pass, as `fix` takes it.
fn answer(
    snapshot: &Snapshot,
    name: &str,
    form: &Form,
    asked: &Asked,
    tally: &mut Tally,
) -> Option<Answer> {
    let answer = match asked.answer(snapshot) {
        Ok(answer) => answer,
        Err(error) => {
            tally.fault(name, form, &format!("{asked:?}: {error:#}"));
            return None;
        }
    };
    let leading = answer.leading().map(Way::diagnosis);
    let is_exempt = leading.is_some_and(|leading| leading.verdict.exempt.is_some());
    Some(if is_exempt { answer.policed(snapshot) } else { answer })
}

fn reason(why: &NoFix) -> &'static str {
    match why {
        NoFix::Passes { .. } => "it passes",
        NoFix::ExplicitDeny { .. } => "a rule denies it",
        NoFix::NotPolicy { .. } => "it is not policy",
        NoFix::NoRule { .. } => "no rule",
        NoFix::NoPolicy { .. } => "no policy",
    }
}

/// Whether a reason why nothing is printed for what is denied is what the verdicts say.
fn is_so(why: &NoFix, answer: &Answer) -> bool {
    let verdicts = || answer.ways.iter().flat_map(Way::denials).map(|denial| &denial.verdict);
    let any = |is: fn(&Verdict) -> bool| verdicts().any(is);
    match why {
        NoFix::ExplicitDeny { .. } => any(is_denied_by_a_rule),
        NoFix::NotPolicy { .. } => !answer.is_about_policies(),
        NoFix::NoRule { .. } => any(is_unknown),
        NoFix::Passes { .. } | NoFix::NoPolicy { .. } => false,
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
        let Some(now) = answer(after, cluster, form, asked, tally) else { continue };
        let Some(then) = answer(before, cluster, form, asked, tally) else { continue };
        let is_of_the_question = *asked == form.asked;
        for (way, way_before) in now.ways.iter().zip(&then.ways) {
            let could_be_known = way_before.effective() != Effective::Unknown;
            let is_hopeless = !is_of_the_question
                && way_before.denials().any(|d| is_denied_by_a_rule(&d.verdict));
            let is_as_it_should_be = match way.effective() {
                Effective::Allow => true,
                Effective::Unknown => !could_be_known,
                Effective::Deny | Effective::Some => is_hopeless,
            };
            if !is_as_it_should_be {
                let question = &way.arrival().question;
                let what = format!("{question} does not pass ({asked:?}) with:\n{text}");
                tally.fault(cluster, form, &what);
            }
        }
        if now.ways.len() != then.ways.len() {
            tally.fault(cluster, form, &format!("other packets come of it with:\n{text}"));
        }
    }
}
