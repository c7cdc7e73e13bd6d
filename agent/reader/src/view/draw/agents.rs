//! The agents: how they are, and what they lost.

use super::{Page, Theme};
use crate::view::{
    model::View,
    words::{count, moment, span},
};
use whydrop_report::{
    AgentState,
    records::board::{Agent, AgentStatus},
};

pub(super) fn page(view: &View, width: usize, theme: Theme) -> Page {
    let mut page = Page::new(width, theme);
    let lines = view.board().lines();
    page.heading("This log");
    page.text(&format!(
        "{}, {} of other text, {} that could not be read",
        count(lines.records, "record"),
        count(lines.others, "line"),
        count(lines.unreadable, "record"),
    ));
    for why in &lines.examples {
        page.item("-", &why.to_string());
    }
    // Those that need somebody first.
    let mut agents: Vec<&Agent> = view.board().agents().collect();
    agents.sort_by_key(|agent| (agent.status(), agent.node().to_owned()));
    for agent in agents {
        let status = match agent.status() {
            AgentStatus::Stopped => "STOPPED",
            AgentStatus::Degraded => "DEGRADED",
            AgentStatus::Unknown => "running, start time unknown",
            AgentStatus::Ready => "ready",
        };
        let heard = span(agent.last_heard(), view.now());
        page.heading(&format!("{}  {status}, last heard {heard} ago", agent.node()));
        of_agent(&mut page, agent);
    }
    page
}

fn of_agent(page: &mut Page, agent: &Agent) {
    if let (Some(at), Some(AgentState::Stopping { why, .. })) =
        (agent.stopped_at(), agent.stopping())
    {
        page.field("stopped", &format!("{}: {why}", moment(at)));
    }
    for degradation in agent.degradations() {
        let since = moment(degradation.since);
        page.field("degraded", &format!("since {since}: {}", degradation.what));
    }
    for (what, count) in agent.lost() {
        page.field("lost", &format!("{count} {what}"));
    }
    for (what, count) in agent.folded() {
        page.field(
            "folded",
            &format!("{count} {what} of sources with too many flows to list each"),
        );
    }
    for (by, count) in agent.muted() {
        page.field("muted", &format!("{count} by {by}"));
    }
    let Some(at) = agent.ready_since() else { return };
    page.field("ready since", &moment(at));
    if let Some(AgentState::Ready { version, kernel, interfaces, objects, cannot }) = agent.ready()
    {
        let interfaces = count(interfaces.len() as u64, "interface");
        page.field("is", &format!("whydrop {version} on Linux {kernel}, attached to {interfaces}"));
        let objects: Vec<_> = objects.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        page.field("knows", &objects.join(", "));
        for what in cannot {
            page.field("cannot", what);
        }
    }
}
