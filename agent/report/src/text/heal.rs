//! The line of what a healer did.

use std::fmt::Write as _;

use super::{newly_allowed, object, short};
use crate::{
    heal::{HealAction, HealRecord},
    time::Time,
};

/// What was done with which policies, and why: `applied NetworkPolicy backend/allow-… until …: WHY`.
pub fn sentence(record: &HealRecord) -> String {
    let policies = record.policies.iter().map(object).collect::<Vec<_>>().join(" and ");
    let HealRecord { why, .. } = record;
    let until = record.expires.map(Time::seconds).unwrap_or_default();
    let mut text = match record.action {
        HealAction::Proposed => format!("would apply {policies} (dry run): {why}"),
        HealAction::Applied => format!("applied {policies} until {until}: {why}"),
        HealAction::Kept => format!("kept {policies} until {until}: {why}"),
        HealAction::RolledBack => format!("rolled back {policies}: {why}"),
        HealAction::Expiring => format!("will delete {policies} at {until}: {why}"),
        HealAction::Expired => format!("deleted {policies}, whose time is over: {why}"),
        HealAction::Refused if policies.is_empty() => format!("leaves it alone: {why}"),
        HealAction::Refused => format!("leaves {policies} alone: {why}"),
    };
    if let Some(number @ 1..) = record.newly_allowed {
        let _ = write!(text, "; it {}", newly_allowed(number, &[]));
    }
    text
}

/// `TIME HEAL INCIDENT applied NetworkPolicy backend/allow-… until …: WHY`.
pub(super) fn line(record: &HealRecord) -> String {
    format!("{} HEAL {} {}", record.time.seconds(), short(&record.incident), sentence(record))
}
