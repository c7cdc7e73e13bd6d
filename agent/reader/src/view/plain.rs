//! What a board comes to, as text: where there is no terminal to look at it in.

use std::fmt::Write as _;

use whydrop_report::records::board::{AgentStatus, Board, Incident, Status};
use whydrop_report::{escape::escape, text::fix_command};

use super::words::{self, badge, count, count_of, headline, moment, span};

/// The incidents, what is most urgent first, and what kept the agents from telling more.
pub fn summary(board: &Board) -> String {
    let mut lines = Vec::new();
    let incidents = board.by_urgency();
    let open = incidents.iter().filter(|i| i.summary().status != Status::Resolved).count();
    let tally = board.tally();
    let mut head = format!(
        "{}, {open} open; {}, {}",
        count(incidents.len() as u64, "incident"),
        count(board.agents().count() as u64, "node"),
        count(tally.records, "record"),
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
            let flow = words::flow(&flow.source, &flow.destination, &flow.protocol);
            lines.push(format!("  {flow}: {}", cause.text));
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
    lines.push(format!("  {}", words::why(summary)));
    let when = match summary.resolved {
        Some(resolved) => format!("over since {}", moment(resolved)),
        None => format!("for {}, last {} ago", span(summary.first, end), span(summary.last, end)),
    };
    let nodes: Vec<&str> = summary.nodes.iter().map(|node| node.node.as_str()).collect();
    lines.push(format!(
        "  {when}; {}, {}; told by {}  [incident {}]",
        count_of(summary.drops, "flow"),
        count_of(summary.packets, "packet"),
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

/// What was not told, and who does not tell.
fn troubles(lines: &mut Vec<String>, board: &Board) {
    let mut told = Vec::new();
    for agent in board.agents() {
        let node = agent.node();
        if agent.status() == AgentStatus::Stopped {
            told.push(format!("{node}: its agent has stopped"));
        }
        for degradation in agent.degradations() {
            told.push(format!("{node}: degraded: {}", degradation.what));
        }
        for (what, count) in agent.lost() {
            told.push(format!("{node}: lost {count} {what}"));
        }
    }
    let tally = board.tally();
    if tally.unreadable > 0 {
        let last = tally.examples.back().map_or("", String::as_str);
        told.push(format!(
            "{} could not be read; the last: {last}",
            count(tally.unreadable, "line")
        ));
    }
    if !told.is_empty() {
        lines.push(String::new());
        lines.append(&mut told);
    }
}
