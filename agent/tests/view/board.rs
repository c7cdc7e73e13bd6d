//! What the board makes of records, in whatever order they come.

use std::{fmt::Write as _, sync::LazyLock};

use proptest::prelude::*;
use whydrop::{
    records::{
        Line,
        board::{Agent, AgentStatus, Board, Count, DROPS_KEPT_MAX, Incident, Status},
        read_line,
    },
    report::{
        AgentState, Record,
        incident::{HappenedKind, Severity},
    },
};
use whydrop_core::{diagnosis::Class, flow::Protocol};

use super::stream::{Node, Way, at, filtered, fleet, lines};

fn board_of(records: &[Record]) -> Board {
    let mut board = Board::default();
    for record in records {
        board.add(Line::Record(Box::new(record.clone())));
    }
    board
}

fn of_class(board: &Board, class: Class) -> &Incident {
    let mut of_class = board.incidents().filter(|i| i.summary().cause.class == class);
    of_class.next().unwrap_or_else(|| panic!("no incident of class {class}"))
}

const fn exactly(count: u64) -> Count {
    Count { at_least: count, is_exact: true }
}

#[test]
fn one_incident_of_two_nodes_is_listed_and_counted_once() {
    let board = board_of(&fleet(12));
    let incident = of_class(&board, Class::PortMismatch);
    let summary = incident.summary();
    assert_eq!(incident.nodes().keys().collect::<Vec<_>>(), ["worker-1", "worker-2"]);
    assert_eq!((summary.status, summary.severity), (Status::Open, Some(Severity::Critical)));
    // Eight flows; four are reported by both nodes, and the node where they were dropped counts.
    assert_eq!(summary.drops, exactly(8));
    assert_eq!(summary.packets, exactly(8 * 26));
    let [path] = summary.affected.as_slice() else { panic!("{:?}", summary.affected) };
    assert_eq!((path.pods, path.replicas, path.pod_names.len()), (8, 8, 8));
    assert_eq!(summary.last_success, Some(at(1)));
    assert!(summary.text.starts_with("8 of 8 backend/backend-api cannot reach"));
    assert!(summary.remedy().expect("a remedy").manifest.contains("port: 5432"));
    for drop in incident.drops() {
        assert!(drop.record().primary, "{drop:?}");
    }
    // Two nodes report four of them, and they are as many flows as before.
    let flows: Vec<u64> = incident.activity().minutes().map(|(_, flows)| flows).collect();
    assert_eq!(flows, [8; 12]);
    assert_eq!(summary.changes.len(), 1);
}

#[test]
fn what_is_most_urgent_comes_first() {
    let board = board_of(&fleet(12));
    let order: Vec<_> = board
        .by_urgency()
        .iter()
        .map(|incident| (incident.summary().status, incident.summary().severity))
        .collect();
    let mut sorted = order.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    assert_eq!(order, sorted);
    assert_eq!(order.last().map(|(status, _)| *status), Some(Status::Resolved));
}

#[test]
fn drops_without_an_incident_stand_for_it() {
    let all = fleet(6);
    let records: Vec<_> =
        all.iter().filter(|record| matches!(record, Record::Drop(_))).cloned().collect();
    let board = board_of(&records);
    let incident = of_class(&board, Class::PortMismatch);
    let summary = incident.summary();
    assert!(!summary.is_reported);
    assert_eq!((summary.status, summary.severity), (Status::Open, None));
    assert_eq!(summary.drops, exactly(8));
    let [path] = summary.affected.as_slice() else { panic!("{:?}", summary.affected) };
    assert_eq!(path.source.name, "backend/backend-api");
    assert_eq!(path.pods, 8);
    assert_eq!(summary.cause.responsible.len(), 1);
    assert!(summary.remedy().is_some());
    // Once an agent reports it, it is that one.
    let reported = board_of(&all);
    assert_eq!(of_class(&reported, Class::PortMismatch).id(), incident.id());
}

#[test]
fn an_incident_without_its_drops_says_how_many_there_are_at_least() {
    let all = fleet(6);
    let records: Vec<_> =
        all.iter().filter(|record| matches!(record, Record::Incident(_))).cloned().collect();
    let board = board_of(&records);
    let summary = of_class(&board, Class::PortMismatch).summary();
    // The ids are reported with it; whether the packets of two nodes are the same is not.
    assert_eq!(summary.drops, exactly(8));
    assert_eq!(summary.packets, Count { at_least: 8 * 14, is_exact: false });
}

#[test]
fn open_on_one_node_is_open() {
    let (mut one, mut two) = (Node::new("worker-1"), Node::new("worker-2"));
    let alerts = Way([10, 1, 0, 70], [10, 1, 0, 72], 9093, Protocol::Tcp);
    for node in [&mut one, &mut two] {
        node.drops(alerts, &[1, 2], &filtered(), None);
        node.tick(9);
    }
    // Ten minutes of silence on the one; on the other it goes on.
    two.drops(alerts, &[590, 591], &filtered(), None);
    one.tick(700);
    two.tick(700);
    let resolved = one.records.last().expect("a record").clone();
    let is_over = |record: &Record| match record {
        Record::Incident(record) => record.happened == HappenedKind::Resolved,
        _ => false,
    };
    assert!(is_over(&resolved), "{resolved:?}");
    let mut records = one.records.clone();
    records.append(&mut two.records.clone());
    let board = board_of(&records);
    let [incident] = board.by_urgency()[..] else { panic!("one incident") };
    assert_eq!(incident.summary().status, Status::Open);
    assert_eq!(incident.summary().resolution, None);
    // Until it is over there as well.
    two.tick(2_000);
    records.extend(two.records.last().cloned());
    let board = board_of(&records);
    let summary = board.by_urgency()[0].summary();
    assert_eq!(summary.status, Status::Resolved);
    assert_eq!(summary.resolved, Some(at(2_000)));
    assert!(summary.resolution.is_some());
}

#[test]
fn what_a_stopped_agent_left_open_is_not_followed() {
    let mut node = Node::new("worker-1");
    node.ready(-5);
    let alerts = Way([10, 1, 0, 70], [10, 1, 0, 72], 9093, Protocol::Tcp);
    node.drops(alerts, &[1, 2], &filtered(), None);
    node.tick(9);
    assert_eq!(board_of(&node.records).by_urgency()[0].summary().status, Status::Open);
    node.reports(20, AgentState::Stopping { why: "SIGTERM".to_owned(), counts: [].into() });
    let board = board_of(&node.records);
    assert_eq!(board.by_urgency()[0].summary().status, Status::Unfollowed);
    let agent = board.agents().next().expect("an agent");
    assert_eq!(agent.status(), AgentStatus::Stopped);
    node.ready(30);
    let board = board_of(&node.records);
    assert_eq!(board.by_urgency()[0].summary().status, Status::Unfollowed);
    assert_eq!(board.agents().next().map(Agent::status), Some(AgentStatus::Ready));
}

#[test]
fn agents_report_how_they_are_and_what_they_lost() {
    let records = fleet(3);
    // Repeated by a reader that connected again.
    let doubled: Vec<_> = records.iter().chain(&records).cloned().collect();
    let board = board_of(&doubled);
    let agents: Vec<_> = board.agents().collect();
    assert_eq!(agents[0].node(), "worker-1");
    assert_eq!(agents[0].status(), AgentStatus::Degraded);
    assert_eq!(agents[0].degradations().next().expect("one").what, "policies.yaml: not YAML");
    assert_eq!(agents[0].lost().values().sum::<u64>(), 3);
    assert_eq!(agents[1].status(), AgentStatus::Ready);
    assert_eq!(board.findings().count(), 1);
}

#[test]
fn what_cannot_be_read_is_counted() {
    let lines = lines(&fleet(1));
    let mut board = Board::default();
    board.add(read_line(&lines[0]));
    board.add(read_line(&lines[1][..90]));
    board.add(read_line("2026-01-02T03:04:05Z a message of the runtime"));
    let drop = lines.iter().find(|line| line.contains(r#""kind":"drop""#)).expect("a drop");
    board.add(read_line(&drop.replace(r#""first":"2026"#, r#""first":"in 2026"#)));
    let counts = board.lines();
    assert_eq!((counts.records, counts.others, counts.unreadable), (1, 1, 2));
    let why = counts.examples[1].to_string();
    assert!(why.starts_with("evidence.first: expected a time in RFC 3339"), "{why}");
}

#[test]
fn of_many_drops_the_latest_are_kept_and_all_are_counted() {
    let mut records = Vec::new();
    let mut node = Node::new("worker-2");
    let api = Way([10, 1, 0, 10], [10, 1, 0, 101], 5432, Protocol::Tcp);
    node.drops(api, &[3, 4], &filtered(), None);
    let Some(Record::Drop(template)) = node.records.first() else { panic!("a drop") };
    for n in 0..300 {
        let mut drop = template.clone();
        drop.id = format!("{n:016x}");
        drop.time = at(10 + n).into();
        records.push(Record::Drop(drop));
    }
    let board = board_of(&records);
    let incident = board.by_urgency()[0];
    assert_eq!(incident.drops().count(), DROPS_KEPT_MAX);
    assert_eq!(incident.drops_not_kept(), 300 - DROPS_KEPT_MAX as u64);
    assert_eq!(incident.summary().drops, exactly(300));
    assert_eq!(incident.summary().packets, exactly(600));
    assert!(incident.drop(&format!("{:016x}", 299)).is_some());
    assert!(incident.drop(&format!("{:016x}", 0)).is_none());
}

#[test]
fn activity_fits_any_number_of_columns() {
    let board = board_of(&fleet(12));
    let dns = board.incidents().find(|i| i.summary().text.contains("nightly")).expect("one");
    let (first, last) = board.span().expect("records");
    let columns = dns.activity().columns(first, last, 6);
    assert_eq!(columns.len(), 6);
    assert_eq!((columns[0], columns[5]), (0, 1));
    assert_eq!(dns.activity().columns(at(610), at(630), 3), [1, 1, 1]);
    assert!(dns.activity().columns(first, last, 0).is_empty());
}

/// Everything that can be read off a board but the number of lines.
fn everything(board: &Board) -> String {
    let mut text = String::new();
    for incident in board.by_urgency() {
        let drops: Vec<_> = incident.drops().collect();
        let (activity, moments) = (incident.activity(), incident.moments());
        let (summary, nodes) = (incident.summary(), incident.nodes());
        writeln!(text, "{summary:#?} {nodes:?} {drops:?} {activity:?} {moments:?}")
            .expect("memory");
    }
    for agent in board.agents() {
        writeln!(text, "{agent:?} {:?}", agent.status()).expect("memory");
    }
    let findings: Vec<_> = board.findings().collect();
    writeln!(text, "{findings:?} {:?}", board.span()).expect("memory");
    text
}

static RECORDS: LazyLock<Vec<Record>> = LazyLock::new(|| {
    let mut records = fleet(5);
    let mut node = Node::new("worker-2");
    node.reports(290, AgentState::Stopping { why: "SIGTERM".to_owned(), counts: [].into() });
    records.append(&mut node.records);
    records
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_order_of_lines_and_their_doubles_do_not_matter(
        order in Just((0..RECORDS.len()).collect::<Vec<_>>()).prop_shuffle(),
        doubled in proptest::collection::vec(0..RECORDS.len(), 0..40),
    ) {
        let shuffled: Vec<_> =
            order.iter().chain(&doubled).map(|index| RECORDS[*index].clone()).collect();
        prop_assert_eq!(everything(&board_of(&shuffled)), everything(&board_of(&RECORDS)));
    }
}
