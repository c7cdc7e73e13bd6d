//! The answer to a question about a flow, over all packets that may come of it: those of every
//! backend, address family and way that a Service may send it.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use crate::{
    cluster::{
        Snapshot,
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Class, Diagnosis, Dialled, KubeProxy, diagnose_packet, dialled},
    flow::Protocol,
    remedy::{
        NoRemedy, Remedy,
        choices::{Choice, choices_for_all},
        patch::{Patch, patch_for_all},
        remedy_for_all,
    },
    service::{Course, Fate, Packet, Source, words},
    verdict::{Decision, Question, Verdict},
};

/// Whether a flow gets through. What the specification exempts does.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Display,
    IntoStaticStr,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Effective {
    /// It does, whichever packet comes of it.
    Allow,
    /// It does not, whichever comes of it.
    Deny,
    /// Of the packets that may come of it some are denied.
    Some,
    /// It cannot be determined.
    Unknown,
}

impl Effective {
    /// Of one verdict.
    pub fn of(verdict: &Verdict) -> Self {
        match verdict.decision() {
            _ if verdict.exempt.is_some() => Self::Allow,
            Decision::Denied => Self::Deny,
            Decision::Unknown => Self::Unknown,
            Decision::Allowed | Decision::NotIsolated => Self::Allow,
        }
    }

    /// Of one diagnosis: what an engine accepts and does not enforce passes.
    pub fn of_diagnosis(diagnosis: &Diagnosis) -> Self {
        match diagnosis.cause.class {
            Class::NotEnforced => Self::Allow,
            _ => Self::of(&diagnosis.verdict),
        }
    }

    /// Of several packets, one of which comes of it; of none it is unknown.
    fn of_any(each: impl Iterator<Item = Self>) -> Self {
        let each: Vec<Self> = each.collect();
        let all = |wanted: Self| each.iter().all(|one| *one == wanted);
        match each.as_slice() {
            [] => Self::Unknown,
            _ if all(Self::Allow) => Self::Allow,
            _ if all(Self::Deny) => Self::Deny,
            _ if each.iter().any(|one| matches!(one, Self::Deny | Self::Some)) => Self::Some,
            _ => Self::Unknown,
        }
    }
}

/// A packet that may come of the question, judged.
#[derive(Clone, Debug)]
pub struct Way {
    /// As it is seen: once, or, where its addresses are replaced on the way, as it leaves and as it
    /// arrives.
    legs: Vec<Diagnosis>,
    /// Whose address it has for a source when it arrives.
    pub source: Source,
    /// Of which of the answer's courses it is one; `None`: no Service takes part.
    pub course: Option<usize>,
}

impl Way {
    /// Whether it passes.
    pub fn effective(&self) -> Effective {
        let legs = || self.legs.iter().map(Effective::of_diagnosis);
        // It must pass each.
        [Effective::Deny, Effective::Unknown]
            .into_iter()
            .find(|worse| legs().any(|leg| leg == *worse))
            .unwrap_or(Effective::Allow)
    }

    /// The packet's diagnosis. Where it is seen twice, its ends and its cause are those of the part
    /// that denies it, or else as it arrives; what policies say is that of both.
    pub fn diagnosis(&self) -> Diagnosis {
        let denied =
            self.legs.iter().position(|leg| Effective::of_diagnosis(leg) == Effective::Deny);
        let leading = denied.unwrap_or(self.legs.len() - 1);
        let mut diagnosis = self.legs[leading].clone();
        if let [leaves, arrives] = self.legs.as_slice() {
            diagnosis.verdict.egress = leaves.verdict.egress.clone();
            diagnosis.verdict.ingress = arrives.verdict.ingress.clone();
        }
        diagnosis
    }

    /// The diagnoses of how it is seen, those that deny it.
    pub fn denials(&self) -> impl Iterator<Item = &Diagnosis> {
        self.legs.iter().filter(|leg| Effective::of_diagnosis(leg) == Effective::Deny)
    }

    /// Where it arrives.
    pub fn destination(&self) -> &Endpoint {
        &self.arrival().question.destination
    }

    /// As it leaves, where it arrives otherwise.
    pub fn departure(&self) -> Option<&Diagnosis> {
        self.legs.first().filter(|_| self.legs.len() > 1)
    }

    /// As it arrives.
    pub fn arrival(&self) -> &Diagnosis {
        &self.legs[self.legs.len() - 1]
    }
}

/// The answer to a question about a flow.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// What Services make of it, one for each address that may be dialled.
    pub courses: Vec<Course>,
    /// The packets that may come of it, or, of a Service that refuses it, would.
    pub ways: Vec<Way>,
    /// Only one of the packets without a Service is sent each time, and which one the objects do not
    /// say: those of a node, which has several addresses.
    pub is_one_of_ways: bool,
    /// Of each course what kube-proxy refuses of it.
    kube_proxy: Vec<Option<Arc<KubeProxy>>>,
}

impl Answer {
    /// Adds a packet that no Service takes part in.
    pub fn add_packet(&mut self, snapshot: &Snapshot, question: Question) {
        let legs = vec![diagnose_packet(snapshot, question, None)];
        self.ways.push(Way { legs, source: Source::Kept, course: None });
    }

    /// Adds what a Service makes of a connection.
    pub fn add_course(&mut self, snapshot: &Snapshot, course: Course) {
        let number = Some(self.courses.len());
        let dialled = named(&course);
        let ways = course.packets().iter().map(|packet| Way {
            legs: legs(snapshot, packet, course.protocol, dialled.as_ref()),
            source: packet.source.clone(),
            course: number,
        });
        self.ways.extend(ways);
        self.kube_proxy.push(KubeProxy::of(snapshot, &course).map(Arc::new));
        self.courses.push(course);
    }

    /// What becomes of the flow.
    pub fn effective(&self) -> Effective {
        let plain = self.ways_of(None).map(Way::effective);
        let courses = self.courses.iter().enumerate();
        let courses = courses.flat_map(|(number, course)| -> Vec<Effective> {
            match &course.fate {
                Fate::Sent(_) | Fate::Untranslated(_) => {
                    self.ways_of(Some(number)).map(Way::effective).collect()
                }
                Fate::Refused { .. } => vec![Effective::Deny],
                Fate::Name(_) | Fate::Unknown(_) => vec![Effective::Unknown],
            }
        });
        match Effective::of_any(plain.chain(courses)) {
            Effective::Some if self.is_one_of_ways && self.courses.is_empty() => Effective::Unknown,
            effective => effective,
        }
    }

    /// The packets of a course, or those that no Service takes part in.
    pub fn ways_of(&self, course: Option<usize>) -> impl Iterator<Item = &Way> {
        self.ways.iter().filter(move |way| way.course == course)
    }

    /// The packet to look at first: one that is denied, or else one of which it is unknown, or else
    /// the first.
    pub fn leading(&self) -> Option<&Way> {
        let first = |wanted: Effective| self.ways.iter().find(|way| way.effective() == wanted);
        first(Effective::Deny).or_else(|| first(Effective::Unknown)).or(self.ways.first())
    }

    /// The course that the leading packet is of; where all packets pass, one that a Service refuses by
    /// itself, such as that of its other address family.
    pub fn leading_course(&self) -> Option<&Course> {
        Some(&self.courses[self.leading_place()?])
    }

    fn leading_place(&self) -> Option<usize> {
        let own = |way: &Way| way.course.filter(|place| *place < self.courses.len());
        let leading = self.leading();
        if leading.is_some_and(|way| way.effective() != Effective::Allow) {
            return leading.and_then(own);
        }
        let is_sent =
            |course: &Course| matches!(course.fate, Fate::Sent(_) | Fate::Untranslated(_));
        let by_itself = self.courses.iter().position(|course| !is_sent(course));
        by_itself.or_else(|| match leading {
            Some(way) => own(way),
            None => (!self.courses.is_empty()).then_some(0),
        })
    }

    /// Whether policies have a part in what becomes of a course: they deny some of what may come of it,
    /// or would if kube-proxy sent it on, or no Service refuses it by itself.
    fn is_policys(&self, place: usize) -> bool {
        match &self.courses[place].fate {
            Fate::Refused { .. } => {
                self.ways_of(Some(place)).any(|way| way.effective() == Effective::Deny)
            }
            Fate::Sent(_) | Fate::Untranslated(_) => true,
            Fate::Name(_) | Fate::Unknown(_) => false,
        }
    }

    /// The diagnosis that stands for the answer: of the leading packet, or, where a Service refuses
    /// the flow by itself, that. `client`: of an answer without packets.
    pub fn diagnosis(&self, snapshot: &Snapshot, client: &Endpoint) -> Option<Diagnosis> {
        let leading = self.leading();
        let Some(place) = self.leading_place() else { return leading.map(Way::diagnosis) };
        let course = &self.courses[place];
        // A packet of another course says nothing of this one.
        let own = leading.filter(|way| way.course == Some(place));
        if let Some(kube_proxy) = &self.kube_proxy[place] {
            return Some(refused(snapshot, kube_proxy, own.map(Way::diagnosis)));
        }
        if self.is_policys(place)
            && let Some(way) = leading
        {
            return Some(way.diagnosis());
        }
        let why = words::fate(course).unwrap_or_default();
        let mut diagnosis =
            own.map_or_else(|| without_packet(snapshot, client, course, &why), Way::diagnosis);
        let cause = &mut diagnosis.cause;
        if !matches!(course.fate, Fate::Unknown(_)) {
            cause.class = Class::NotPolicy;
            cause.confidence = 1.0;
            cause.reasons = vec!["computed from the objects given".to_owned()];
        }
        cause.leave_policies_out();
        cause.text = why;
        Some(diagnosis)
    }

    /// The first packet, as it is seen, that policies deny, or would where it is exempt and policed.
    pub fn first_denial(&self) -> Option<&Diagnosis> {
        let mut seen = self.ways.iter().flat_map(|way| &way.legs);
        seen.find(|leg| leg.cause.class.is_denial())
    }

    /// The packets as they are seen, by policies of both ends or of one.
    pub fn questions(&self) -> impl Iterator<Item = &Question> {
        self.ways.iter().flat_map(|way| &way.legs).map(|leg| &leg.question)
    }

    /// The ends that may not be reached, where others may, and how many there are of all of them.
    pub fn denied_part(&self) -> Option<(Vec<String>, usize)> {
        let names = |ways: &mut dyn Iterator<Item = &Way>| {
            let mut names: Vec<String> = ways
                .map(|way| {
                    let question = &way.arrival().question;
                    format!("{}:{}", question.destination, question.port)
                })
                .collect();
            names.sort();
            names.dedup();
            names
        };
        let is_denied = |way: &&Way| way.effective() == Effective::Deny;
        (self.effective() == Effective::Some).then(|| {
            let all = names(&mut self.ways.iter()).len();
            (names(&mut self.ways.iter().filter(is_denied)), all)
        })
    }

    /// What the Service that leads does by itself, beside what policies say; nothing where it just
    /// sends on, or where the diagnosis says it.
    pub fn beside(&self) -> Option<String> {
        let place = self.leading_place()?;
        let is_beside = self.kube_proxy[place].is_none() && self.is_policys(place);
        is_beside.then(|| words::fate(&self.courses[place])).flatten()
    }

    /// What lets every packet pass that policies deny: one remedy for all of them, each tried.
    ///
    /// # Errors
    /// Why there is none for one of them, or that policies are not what stops the flow.
    pub fn remedy(&self, snapshot: &Snapshot) -> Result<Remedy, NoRemedy> {
        let packets = self.seen_by_policies(snapshot).ok_or(NoRemedy::NotPolicy)?;
        let remedy = remedy_for_all(snapshot, &packets)?;
        let is_refused = self.leading_place().is_some_and(|place| self.kube_proxy[place].is_some());
        Ok(if is_refused { remedy.for_later() } else { remedy })
    }

    /// Policies that are there, with which the rules of a remedy let every packet pass that policies
    /// deny.
    pub fn patch(&self, snapshot: &Snapshot, remedy: &Remedy) -> Option<Patch> {
        patch_for_all(snapshot, &self.seen_by_policies(snapshot)?, remedy)
    }

    /// Other ways to let every packet pass.
    pub fn choices(&self, snapshot: &Snapshot) -> Vec<Choice> {
        choices_for_all(snapshot, &self.seen_by_policies(snapshot).unwrap_or_default())
    }

    /// All packets as they are seen, where policies are what stops the flow; where they only stop what a
    /// mesh makes of one, that.
    fn seen_by_policies(&self, snapshot: &Snapshot) -> Option<Vec<Diagnosis>> {
        let legs = || self.ways.iter().flat_map(|way| &way.legs);
        let sent = |leg: &Diagnosis| leg.as_carried(snapshot).unwrap_or_else(|| leg.clone());
        self.is_about_policies().then(|| legs().map(sent).collect())
    }

    /// The same answer where somebody says that what the specification exempts does not pass.
    #[must_use]
    pub fn policed(&self, snapshot: &Snapshot) -> Self {
        let mut policed = self.clone();
        for leg in policed.ways.iter_mut().flat_map(|way| &mut way.legs) {
            *leg = leg.policed(snapshot);
        }
        policed
    }

    /// Whether policies are what the answer is about, as far as a Service takes part.
    pub fn is_about_policies(&self) -> bool {
        self.leading_place().is_none_or(|place| self.is_policys(place))
    }
}

/// The Service as records name it; not for an address that is its balancer's own.
fn named(course: &Course) -> Option<Dialled> {
    dialled(course).filter(|_| !matches!(course.fate, Fate::Untranslated(_)))
}

/// Of a connection that kube-proxy refuses: who is named first is who is asked first.
fn refused(
    snapshot: &Snapshot,
    kube_proxy: &Arc<KubeProxy>,
    leading: Option<Diagnosis>,
) -> Diagnosis {
    let case = kube_proxy.asked();
    let is_denied = leading.as_ref().is_some_and(|own| own.cause.class.is_denial());
    match leading {
        Some(own) if is_denied && kube_proxy.is_policys_first(snapshot, case.fate) => {
            own.besides(snapshot, &case, kube_proxy.clone())
        }
        leading => {
            let course = &kube_proxy.course;
            let unknown = || {
                let why = words::fate(course).unwrap_or_default();
                without_packet(snapshot, &course.client, course, &why)
            };
            let verdict = leading.unwrap_or_else(unknown).verdict;
            Diagnosis::of_kube_proxy(snapshot, &case, kube_proxy.clone(), verdict)
        }
    }
}

fn legs(
    snapshot: &Snapshot,
    packet: &Packet,
    protocol: Protocol,
    dialled: Option<&Dialled>,
) -> Vec<Diagnosis> {
    Question::of_packet(packet, protocol)
        .map(|question| diagnose_packet(snapshot, question, dialled.cloned()))
        .collect()
}

/// Of a Service of which no packet is known to come.
fn without_packet(snapshot: &Snapshot, client: &Endpoint, course: &Course, why: &str) -> Diagnosis {
    let destination = Endpoint { address: course.address, holder: Holder::Unknown(why.into()) };
    let question = Question::new(client.clone(), destination, course.port, course.protocol);
    diagnose_packet(snapshot, question, named(course))
}
