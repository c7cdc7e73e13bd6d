//! Drops that are judged later than they were: as of then, and with what has changed since.

use jiff::Timestamp;
use whydrop_core::{
    cluster::{Cluster, object::Object},
    correlate::Drop,
    diagnosis::Class,
    judgement::{Attribution, Diagnosed, Judgement, judge},
    policy::{Policy, selector::Selector},
};

use crate::{
    build::{address, at, case_of, dropped, ingress, pod, policy_key},
    history::{allow_web, apply_policy, open, words},
};

/// A drop whose flow was last answered then, judged with all that is known at the end.
fn judge_after(cluster: &Cluster, drop: &Drop, worked: Option<Timestamp>) -> Judgement {
    let (snapshot, history, case) = (cluster.snapshot(), cluster.history(), case_of(drop));
    let diagnosed = Diagnosed::new(history, &snapshot, &case);
    Judgement::new(&snapshot, history, &case, diagnosed, worked)
}

/// SYNs at these seconds, which netfilter dropped, judged with all that is known at the end.
fn judge_drop(cluster: &Cluster, seconds: &[i64]) -> Judgement {
    let drop = dropped(address(10), address(20), 8080, seconds);
    judge(&cluster.snapshot(), cluster.history(), &case_of(&drop))
}

#[test]
fn a_filter_that_still_does_what_a_deleted_policy_said_is_out_of_sync() {
    let mut cluster = open();
    apply_policy(&mut cluster, "default-deny", Vec::new(), 10);
    cluster.delete(&policy_key("backend", "default-deny"), at(100));
    let judgement = judge_drop(&cluster, &[103]);
    let cause = &judgement.diagnosis.cause;
    assert_eq!(cause.class, Class::OutOfSync);
    assert_eq!(
        cause.text,
        "no policy denies it now, and this node's filter dropped it as NetworkPolicy \
         backend/default-deny, deleted 3 s before, would have: the CNI has not caught up, or other rules \
         are in the way"
    );
    let deleted = "NetworkPolicy backend/default-deny deleted at 100";
    assert_eq!(words(&judgement.changed), [deleted]);
    assert!(judgement.remedy.is_none());
}

#[test]
fn a_filter_that_has_not_heard_of_an_edit_is_out_of_sync() {
    let mut cluster = open();
    apply_policy(&mut cluster, "api", Vec::new(), 10);
    apply_policy(&mut cluster, "api", vec![allow_web()], 100);
    let cause = judge_drop(&cluster, &[104]).diagnosis.cause;
    assert_eq!(cause.class, Class::OutOfSync);
    assert!(cause.text.contains("as NetworkPolicy backend/api, edited 4 s before"), "{cause:?}");
}

#[test]
fn a_policy_that_an_agent_saw_late_counts_from_when_it_was_written() {
    for (created, class) in [(100, Class::DefaultDeny), (105, Class::NotPolicy)] {
        let mut cluster = open();
        let policy = ingress("backend", "default-deny", Selector::EVERYTHING, Vec::new());
        let policy = Policy { created: Some(at(created)), ..policy };
        cluster.apply(Object::Policy(policy), Some(at(110)));
        let cause = judge_drop(&cluster, &[101, 102]).diagnosis.cause;
        assert_eq!(cause.class, class, "created at {created}: {}", cause.text);
    }
}

#[test]
fn a_drop_that_a_policy_explained_when_it_happened_is_still_explained() {
    let mut cluster = open();
    apply_policy(&mut cluster, "default-deny", Vec::new(), 10);
    cluster.delete(&policy_key("backend", "default-deny"), at(100));
    let judgement = judge_drop(&cluster, &[95]);
    let cause = &judgement.diagnosis.cause;
    assert_eq!(cause.class, Class::DefaultDeny);
    assert!(
        cause.text.ends_with(
            "it is no longer denied: NetworkPolicy backend/default-deny was deleted since"
        )
    );
    assert!(judgement.remedy.is_none());
}

#[test]
fn the_last_of_what_was_denied_is_no_lag_once_it_has_worked_since() {
    let mut cluster = open();
    apply_policy(&mut cluster, "default-deny", Vec::new(), 10);
    apply_policy(&mut cluster, "allow", vec![allow_web()], 100);
    let judged = |dropped_at, worked: Option<i64>| {
        let drop = dropped(address(10), address(20), 8080, &[dropped_at]);
        judge_after(&cluster, &drop, worked.map(at))
    };
    let class = |dropped_at, worked| judged(dropped_at, worked).diagnosis.cause.class;
    assert_eq!(class(101, Some(102)), class(95, None));
    assert!(class(95, None).is_denial());
    assert_eq!(class(101, None), Class::OutOfSync, "nothing shows that it works");
    assert_eq!(class(101, Some(50)), Class::OutOfSync, "it worked before");
    assert_eq!(class(160, Some(170)), Class::OutOfSync, "no plugin takes a minute");
}

#[test]
fn what_died_and_worked_again_before_the_denial_did_not_die_of_it() {
    let mut cluster = open();
    apply_policy(&mut cluster, "default-deny", Vec::new(), 100);
    let drop = dropped(address(10), address(20), 8080, &[97, 98]);
    let judged = |worked| judge_after(&cluster, &drop, worked);
    let judgement = judged(Some(at(99)));
    assert_eq!(judgement.diagnosis.cause.class, Class::NotPolicy);
    assert_eq!(judgement.changed, Attribution::None);
    assert!(judgement.remedy.is_none());
    // Nothing says that it did not: the policy may be seen later than it was enforced.
    for worked in [None, Some(at(90))] {
        assert_eq!(judged(worked).diagnosis.cause.class, Class::DefaultDeny, "{worked:?}");
    }
}

#[test]
fn a_denial_that_was_seen_soon_after_is_what_dropped_it() {
    let class = |created: i64| {
        let mut cluster = open();
        apply_policy(&mut cluster, "default-deny", Vec::new(), created);
        judge_drop(&cluster, &[95]).diagnosis.cause.class
    };
    assert_eq!([95, 97, 98].map(class), [Class::DefaultDeny, Class::DefaultDeny, Class::NotPolicy]);
}

#[test]
fn what_changes_is_taken_back_and_what_is_learned_stays() {
    let mut cluster = open();
    cluster.look_up_on_demand();
    apply_policy(&mut cluster, "allow", vec![allow_web()], 10);
    let client = |app: &str| Object::Pod(pod("frontend", "web-0", 10, &[("app", app)]));
    // Followed, it is seen to lose its label after the drop; looked up, it is found without it.
    cluster.apply(client("shop"), Some(at(100)));
    assert_eq!(judge_drop(&cluster, &[95]).diagnosis.cause.class, Class::OutOfSync);
    let mut cluster = open();
    cluster.look_up_on_demand();
    apply_policy(&mut cluster, "allow", vec![allow_web()], 10);
    cluster.apply_found(client("shop"), at(100));
    let judgement = judge_drop(&cluster, &[95]);
    assert_eq!(judgement.diagnosis.cause.class, Class::PodSelectorMismatch);
    let expected = "Pod frontend/web-0 relabelled at 100: label app is shop, was web";
    assert_eq!(words(&judgement.changed), [expected]);
}

#[test]
fn a_filter_that_drops_long_after_the_last_denial_has_other_reasons() {
    let mut cluster = open();
    apply_policy(&mut cluster, "default-deny", Vec::new(), 10);
    cluster.delete(&policy_key("backend", "default-deny"), at(100));
    let judgement = judge_drop(&cluster, &[1_000]);
    assert_eq!(judgement.diagnosis.cause.class, Class::NotPolicy);
    assert_eq!(judgement.changed, Attribution::None);
}
