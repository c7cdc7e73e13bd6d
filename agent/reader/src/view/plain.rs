//! What is on a board, as text: where there is no terminal to look at it in.

use std::fmt::Write as _;

use whydrop_report::{
    escape::escape,
    records::board::{AgentStatus, Board, Incident, Status},
    text::fix_command,
};

use super::words::{self, at_least, badge, count, headline, moment, span};

/// The incidents, what is most urgent first, and what kept the agents from reporting more.
pub fn summary(board: &Board) -> String {
    let mut lines = Vec::new();
    let incidents = board.by_urgency();
    let open = incidents.iter().filter(|i| i.summary().status != Status::Resolved).count();
    let mut head = format!(
        "{}, {open} open; {}, {}",
        count(incidents.len() as u64, "incident"),
        count(board.agents().count() as u64, "node"),
        count(board.lines().records, "record"),
    );
    if let Some((first, last)) = board.span() {
        let _ = write!(head, " from {} to {} UTC", moment(first), moment(last));
    }
    lines.push(head);
    for incident in incidents {
        of_incident(&mut lines, board, incident);
    }
    let findings = board.findings().count() as u64;
    if findings > 0 {
        lines.push(String::new());
        lines.push(format!(
            "{}: flows pass although policies deny them",
            count(findings, "finding")
        ));
        for finding in board.findings() {
            let record = finding.record();
            let (flow, cause) = (&record.flow, &record.cause);
            lines.push(format!("  {}: {}", words::flow(flow), cause.text));
        }
    }
    troubles(&mut lines, board);
    lines.iter().fold(String::new(), |text, line| text + &escape(line) + "\n")
}

fn of_incident(lines: &mut Vec<String>, board: &Board, incident: &Incident) {
    let summary = incident.summary();
    let end = board.span().map_or(summary.last, |(_, last)| last);
    lines.push(String::new());
    lines.push(format!("{:8}  {}", badge(summary), headline(summary)));
    lines.push(format!("  {}", words::why(summary).join("; ")));
    let when = match summary.resolved {
        Some(resolved) => format!("over since {}", moment(resolved)),
        None => format!("for {}, last {} ago", span(summary.first, end), span(summary.last, end)),
    };
    let nodes: Vec<&str> = summary.nodes.iter().map(|node| node.node.as_str()).collect();
    lines.push(format!(
        "  {when}; {}, {}; reported by {}  [incident {}]",
        at_least(summary.drops, "flow"),
        at_least(summary.packets, "packet"),
        nodes.join(", "),
        incident.id(),
    ));
    if summary.status == Status::Resolved {
        return;
    }
    if let Some(step) = summary.plan.first() {
        lines.push(format!("  do: {}", step.text));
    }
    if let Some(drop) = incident.drops().find(|drop| drop.record().remedy.is_some()) {
        lines.push(format!("  fix: {}", fix_command(&drop.record().flow)));
    }
}

/// What was not reported, and which agents do not report.
fn troubles(lines: &mut Vec<String>, board: &Board) {
    let mut troubles = Vec::new();
    for agent in board.agents() {
        let node = agent.node();
        if agent.status() == AgentStatus::Stopped {
            troubles.push(format!("{node}: its agent has stopped"));
        }
        for degradation in agent.degradations() {
            troubles.push(format!("{node}: degraded: {}", degradation.what));
        }
        for (what, count) in agent.lost() {
            troubles.push(format!("{node}: lost {count} {what}"));
        }
    }
    let read = board.lines();
    if let (1.., Some(last)) = (read.unreadable, read.examples.back()) {
        troubles.push(format!(
            "{} could not be read; the last: {last}",
            count(read.unreadable, "line")
        ));
    }
    if !troubles.is_empty() {
        lines.push(String::new());
        lines.append(&mut troubles);
    }
}
