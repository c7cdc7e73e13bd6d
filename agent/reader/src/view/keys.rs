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

/// What a key is for, as help tells it.
pub(super) struct Told {
    pub(super) keys: &'static str,
    pub(super) what: &'static str,
}

const fn told(keys: &'static str, what: &'static str) -> Told {
    Told { keys, what }
}

/// All keys, in the order of help.
pub(super) const HELP: &[(&str, &[Told])] = &[
    (
        "Move",
        &[
            told("↑ ↓  k j", "one up, one down"),
            told("PgUp PgDn", "a page; also Ctrl-B, Ctrl-F"),
            told("Home End  g G", "to the top, to the bottom"),
            told("Enter →  l", "open what is selected"),
            told("Esc ←  h", "back; at the list: forget the filters"),
        ],
    ),
    (
        "Of an incident",
        &[
            told("r", "the remedy alone, as YAML"),
            told("y c", "copy the remedy to the terminal's clipboard"),
            told("d", "its drops; Enter opens one: evidence and policy walk"),
        ],
    ),
    (
        "Show less",
        &[
            told("/", "search: every word, in names, addresses, ids, policies, text"),
            told("s", "severity: all, critical, warning or worse"),
            told("o", "all, open, over"),
            told("n", "the next namespace"),
            told("N", "the next node"),
            told("t", "the next type of cause"),
        ],
    ),
    (
        "Else",
        &[
            told("Space p", "pause: what comes is held, and shown when you go on"),
            told("a", "the agents: how they are, what they lost"),
            told("f", "findings: what passes although policies deny it"),
            told("Ctrl-L", "draw everything anew"),
            told("?", "this help"),
            told("q Ctrl-C", "quit"),
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
