//! Incidents: what the drops of one cause come to, followed until it is over.

use jiff::Timestamp;
use whydrop_core::flow::Flow;

use super::Agent;

impl Agent {
    /// Asks the kernel which flows of open incidents work again, and tells what has become of each.
    pub(super) fn follow_incidents(&mut self, now: Timestamp) {
        let unanswered: Vec<(Flow, Option<Flow>)> =
            self.incidents.unanswered().map(|(flow, dialled)| (*flow, dialled.copied())).collect();
        for (flow, dialled) in unanswered {
            for asked in [Some(flow), dialled].into_iter().flatten() {
                match self.probe.successes.last(&asked) {
                    Ok(Some(at)) => self.incidents.answered(&flow, at),
                    Ok(None) => {}
                    Err(error) => return self.degraded(&error),
                }
            }
        }
        let snapshot = self.cluster.snapshot();
        let wanted = self.incidents.to_look_up(&snapshot, now);
        self.source.look_up(&snapshot, &wanted, now);
        for change in self.incidents.tick(&snapshot, now) {
            self.log.write(self.reporter.incident(now, &change));
        }
    }
}
