//! Keys and what they do.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    Suspend,
    Redraw,
    Up,
    Down,
    PageUp,
    PageDown,
    Top,
    Bottom,
    Open,
    Back,
    Search,
    Severity,
    Namespace,
    Node,
    Class,
    Shown,
    Pause,
    Copy,
    Remedy,
    Drops,
    Agents,
    Findings,
    Help,
}

/// What keys do, as help shows it.
pub(super) struct KeyHelp {
    pub(super) keys: &'static str,
    pub(super) what: &'static str,
}

const fn help(keys: &'static str, what: &'static str) -> KeyHelp {
    KeyHelp { keys, what }
}

/// All keys, in the order of help.
pub(super) const HELP: &[(&str, &[KeyHelp])] = &[
    (
        "Move",
        &[
            help("↑ ↓  k j", "one up, one down"),
            help("PgUp PgDn", "a page; also Ctrl-B, Ctrl-F"),
            help("Home End  g G", "to the top, to the bottom"),
            help("Enter →  l", "open what is selected"),
            help("Esc ←  h", "back; at the list: forget the filters"),
        ],
    ),
    (
        "Of an incident",
        &[
            help("r", "the remedy alone, as YAML"),
            help("y c", "copy the remedy to the terminal's clipboard"),
            help("d", "its drops; Enter opens one: evidence and policy walk"),
        ],
    ),
    (
        "Show less",
        &[
            help("/", "search: every word, in names, addresses, ids, policies, text"),
            help("s", "severity: all, critical, warning or worse"),
            help("o", "all, open, over"),
            help("n", "the next namespace"),
            help("N", "the next node"),
            help("t", "the next type of cause"),
        ],
    ),
    (
        "More",
        &[
            help("Space p", "pause: what comes is held, and shown when you go on"),
            help("a", "the agents: how they are, what they lost"),
            help("f", "findings: what passes although policies deny it"),
            help("Ctrl-L", "redraw everything"),
            help("?", "this help"),
            help("q Ctrl-C", "quit"),
        ],
    ),
];

pub(super) fn action(key: KeyEvent) -> Option<Action> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Action::Quit),
            KeyCode::Char('z') => Some(Action::Suspend),
            KeyCode::Char('l') => Some(Action::Redraw),
            KeyCode::Char('f') => Some(Action::PageDown),
            KeyCode::Char('b') => Some(Action::PageUp),
            _ => None,
        };
    }
    Some(match key.code {
        KeyCode::Char('q') => Action::Quit,
        KeyCode::Up | KeyCode::Char('k') => Action::Up,
        KeyCode::Down | KeyCode::Char('j') => Action::Down,
        KeyCode::PageUp => Action::PageUp,
        KeyCode::PageDown => Action::PageDown,
        KeyCode::Home | KeyCode::Char('g') => Action::Top,
        KeyCode::End | KeyCode::Char('G') => Action::Bottom,
        KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => Action::Open,
        KeyCode::Esc | KeyCode::Left | KeyCode::Backspace | KeyCode::Char('h') => Action::Back,
        KeyCode::Char('/') => Action::Search,
        KeyCode::Char('s') => Action::Severity,
        KeyCode::Char('n') => Action::Namespace,
        KeyCode::Char('N') => Action::Node,
        KeyCode::Char('t') => Action::Class,
        KeyCode::Char('o') => Action::Shown,
        KeyCode::Char(' ' | 'p') => Action::Pause,
        KeyCode::Char('y' | 'c') => Action::Copy,
        KeyCode::Char('r') => Action::Remedy,
        KeyCode::Char('d') => Action::Drops,
        KeyCode::Char('a') => Action::Agents,
        KeyCode::Char('f') => Action::Findings,
        KeyCode::Char('?') | KeyCode::F(1) => Action::Help,
        _ => return None,
    })
}
