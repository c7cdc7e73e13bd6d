//! The one state of the view, and everything that changes it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use jiff::Timestamp;

use whydrop_report::{
    Remedy,
    records::{
        Line,
        board::{Board, Incident, ReportedDrop},
    },
};

use super::{
    filter::Filter,
    keys::{Action, action},
};

/// How many lines are held while the view is paused (about 4 kB each). Beyond that they wait in
/// the pipe.
pub const HELD_LINES_MAX: usize = 20_000;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screen {
    /// All incidents.
    Incidents,
    /// One of them.
    Incident {
        /// Its id.
        id: String,
    },
    /// Its remedy alone.
    Remedy {
        /// The incident's id.
        id: String,
    },
    /// Its drops.
    Drops {
        /// The incident's id.
        id: String,
    },
    /// One drop.
    Drop {
        /// The incident's id.
        id: String,
        /// The drop's.
        drop: String,
    },
    /// What passes although policies deny it.
    Findings,
    /// One of these.
    Finding {
        /// Its id.
        id: String,
    },
    /// The agents.
    Agents,
    /// The keys.
    Help,
}

/// A screen, and where in it one is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) screen: Screen,
    /// Of lists: what is selected, by its id. None: the first, whatever that is.
    pub(super) selected: Option<String>,
    /// The first row that is shown.
    pub(super) offset: usize,
}

impl Place {
    const fn of(screen: Screen) -> Self {
        Self { screen, selected: None, offset: 0 }
    }
}

/// How much of a screen was shown when it was drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Viewport {
    /// Rows, or items of a list, that are there.
    pub total: usize,
    /// How many of them fit.
    pub fit: usize,
    /// The first that is shown.
    pub offset: usize,
}

/// What is to be done outside the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// End the view.
    Quit,
    /// Stop the process until it is continued.
    Suspend,
    /// Draw everything again.
    Redraw,
    /// Put a text into the terminal's clipboard.
    Copy(String),
}

/// Where the lines come from, and whether more do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// More may come.
    Open,
    /// That was all.
    Ended,
    /// It could not be read any further.
    Failed(String),
}

/// Everything that is shown, and how.
#[derive(Debug)]
pub struct View {
    pub(super) board: Board,
    pub(super) source: Source,
    pub(super) filter: Filter,
    /// What is looked at, and where one came from.
    places: Vec<Place>,
    /// A search that is being typed, and what it was before.
    pub(super) search: Option<String>,
    /// Lines that came while the view is paused.
    held: Option<Vec<Line>>,
    pub(super) notice: Option<String>,
    clock: Option<Timestamp>,
    viewport: Viewport,
}

impl Default for View {
    fn default() -> Self {
        Self {
            board: Board::default(),
            source: Source::Open,
            filter: Filter::default(),
            places: vec![Place::of(Screen::Incidents)],
            search: None,
            held: None,
            notice: None,
            clock: None,
            viewport: Viewport::default(),
        }
    }
}

impl View {
    /// Adds lines of the log; while the view is paused they are held.
    pub fn add(&mut self, lines: Vec<Line>) {
        if let Some(held) = &mut self.held {
            held.extend(lines);
        } else {
            for line in lines {
                self.board.add(line);
            }
        }
    }

    /// Whether there is room for more lines.
    pub fn has_room(&self) -> bool {
        self.held.as_ref().is_none_or(|held| held.len() < HELD_LINES_MAX)
    }

    /// Says that no more lines come; `why`, where they could not be read any further.
    pub fn end(&mut self, why: Option<String>) {
        self.source = why.map_or(Source::Ended, Source::Failed);
    }

    /// Says what time it is. It matters only as long as lines come: of a log that has ended, the last
    /// record says when it was.
    pub fn tick(&mut self, now: Timestamp) {
        self.clock = Some(now);
    }

    /// Says how much of the screen was shown.
    pub fn shown(&mut self, viewport: Viewport) {
        self.viewport = viewport;
        self.place_mut().offset = viewport.offset;
    }

    /// What the records have come to.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// What is looked at.
    pub fn screen(&self) -> &Screen {
        &self.place().screen
    }

    /// The time that ages are counted to.
    pub(super) fn now(&self) -> Timestamp {
        let last = self.board.span().map(|(_, last)| last);
        let clock = self.clock.filter(|_| self.source == Source::Open);
        last.max(clock).unwrap_or_default()
    }

    /// How many lines are held, where the view is paused.
    pub(super) fn held(&self) -> Option<usize> {
        self.held.as_ref().map(Vec::len)
    }

    pub(super) fn place(&self) -> &Place {
        // There always is the list of incidents at the bottom.
        self.places.last().unwrap_or(const { &Place::of(Screen::Incidents) })
    }

    fn place_mut(&mut self) -> &mut Place {
        if self.places.is_empty() {
            self.places.push(Place::of(Screen::Incidents));
        }
        let last = self.places.len() - 1;
        &mut self.places[last]
    }

    /// The incidents that are shown, what is most urgent first.
    pub(super) fn incidents(&self) -> Vec<&Incident> {
        let mut incidents = self.board.by_urgency();
        incidents.retain(|incident| self.filter.admits(incident));
        incidents
    }

    /// The drops of an incident, the latest first.
    pub(super) fn drops(&self, id: &str) -> Vec<&ReportedDrop> {
        let incident = self.board.incident(id);
        sorted(incident.into_iter().flat_map(Incident::drops).collect())
    }

    /// The findings, the latest first.
    pub(super) fn findings(&self) -> Vec<&ReportedDrop> {
        sorted(self.board.findings().collect())
    }

    /// Where in a list of ids the selected one is; the first, where it is gone.
    pub(super) fn position(&self, ids: &[&str]) -> usize {
        let selected = self.place().selected.as_deref();
        ids.iter().position(|id| Some(*id) == selected).unwrap_or(0)
    }

    /// The remedy that is looked at, or that of what is selected.
    pub(super) fn remedy(&self) -> Option<&Remedy> {
        match self.screen() {
            Screen::Drop { drop, .. } => {
                let drop = self.shown_incident()?.drop(drop)?;
                drop.record().remedy.as_ref()
            }
            Screen::Incidents
            | Screen::Incident { .. }
            | Screen::Remedy { .. }
            | Screen::Drops { .. } => self.shown_incident()?.summary().remedy(),
            Screen::Findings | Screen::Finding { .. } | Screen::Agents | Screen::Help => None,
        }
    }

    /// The incident that is looked at, or selected.
    pub(super) fn shown_incident(&self) -> Option<&Incident> {
        match self.screen() {
            Screen::Incident { id }
            | Screen::Remedy { id }
            | Screen::Drops { id }
            | Screen::Drop { id, .. } => self.board.incident(id),
            Screen::Incidents => {
                let incidents = self.incidents();
                let ids: Vec<&str> = incidents.iter().map(|incident| incident.id()).collect();
                incidents.get(self.position(&ids)).copied()
            }
            Screen::Findings | Screen::Finding { .. } | Screen::Agents | Screen::Help => None,
        }
    }

    /// Handles a key.
    pub fn key(&mut self, key: KeyEvent) -> Option<Effect> {
        self.notice = None;
        if self.search.is_some() && !is_interrupt(key) {
            self.type_search(key.code);
            return None;
        }
        match action(key)? {
            Action::Quit => return Some(Effect::Quit),
            Action::Suspend => return Some(Effect::Suspend),
            Action::Redraw => return Some(Effect::Redraw),
            Action::Up => self.step(-1),
            Action::Down => self.step(1),
            Action::PageUp => self.step(-self.page()),
            Action::PageDown => self.step(self.page()),
            Action::Top => self.step(isize::MIN),
            Action::Bottom => self.step(isize::MAX),
            Action::Open => self.open(),
            Action::Back => self.back(),
            Action::Search => {
                self.leave_to_list();
                self.search = Some(self.filter.text.clone());
            }
            Action::Severity => self.filtered(|filter, _| filter.next_severity()),
            Action::Shown => self.filtered(|filter, _| filter.next_shown()),
            Action::Namespace => self.filtered(Filter::next_namespace),
            Action::Node => self.filtered(Filter::next_node),
            Action::Class => self.filtered(Filter::next_class),
            Action::Pause => self.pause(),
            Action::Copy => return self.copy(),
            Action::Remedy => match self.shown_incident().map(|i| i.id().to_owned()) {
                Some(id) if self.remedy().is_some() => self.push(Screen::Remedy { id }),
                Some(_) => self.say("there is no remedy that can be proved"),
                None => {}
            },
            Action::Drops => {
                if let Some(id) = self.shown_incident().map(|i| i.id().to_owned()) {
                    self.push(Screen::Drops { id });
                }
            }
            Action::Agents => self.push(Screen::Agents),
            Action::Findings => self.push(Screen::Findings),
            Action::Help => self.push(Screen::Help),
        }
        None
    }

    fn type_search(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.search = None,
            KeyCode::Esc => self.filter.text = self.search.take().unwrap_or_default(),
            KeyCode::Backspace => {
                self.filter.text.pop();
            }
            KeyCode::Char(c) => self.filter.text.push(c),
            _ => {}
        }
        self.place_mut().selected = None;
    }

    fn filtered(&mut self, change: impl Fn(&mut Filter, &Board)) {
        self.leave_to_list();
        change(&mut self.filter, &self.board);
        self.place_mut().selected = None;
    }

    fn leave_to_list(&mut self) {
        self.places.truncate(1);
    }

    fn pause(&mut self) {
        match self.held.take() {
            Some(held) => self.add(held),
            None => self.held = Some(Vec::new()),
        }
    }

    fn copy(&mut self) -> Option<Effect> {
        let Some(remedy) = self.remedy() else {
            self.say("nothing to copy: there is no remedy here");
            return None;
        };
        let manifest = remedy.manifest.clone();
        self.say("remedy copied, if this terminal takes OSC 52; else press r and select it");
        Some(Effect::Copy(manifest))
    }

    fn say(&mut self, what: &str) {
        self.notice = Some(what.to_owned());
    }

    fn push(&mut self, screen: Screen) {
        if *self.screen() != screen {
            self.places.push(Place::of(screen));
        }
    }

    fn open(&mut self) {
        let next = match self.screen() {
            Screen::Incidents => {
                self.shown_incident().map(|i| Screen::Incident { id: i.id().to_owned() })
            }
            Screen::Incident { id } => Some(Screen::Drops { id: id.clone() }),
            Screen::Drops { id } => {
                let drop = self.selected_id(&self.drops(id));
                drop.map(|drop| Screen::Drop { id: id.clone(), drop })
            }
            Screen::Findings => self.selected_id(&self.findings()).map(|id| Screen::Finding { id }),
            _ => None,
        };
        if let Some(next) = next {
            self.push(next);
        }
    }

    fn selected_id(&self, drops: &[&ReportedDrop]) -> Option<String> {
        let ids = ids_of(drops);
        ids.get(self.position(&ids)).map(|id| (*id).to_owned())
    }

    fn back(&mut self) {
        if self.places.len() > 1 {
            self.places.pop();
        } else {
            self.filter = Filter::default();
        }
    }

    fn page(&self) -> isize {
        isize::try_from(self.viewport.fit.saturating_sub(1).max(1)).unwrap_or(1)
    }

    /// Moves the selection, or the text where there is none.
    fn step(&mut self, by: isize) {
        let ids: Vec<String> = match self.screen() {
            Screen::Incidents => self.incidents().iter().map(|i| i.id().to_owned()).collect(),
            Screen::Drops { id } => {
                ids_of(&self.drops(id)).into_iter().map(str::to_owned).collect()
            }
            Screen::Findings => ids_of(&self.findings()).into_iter().map(str::to_owned).collect(),
            _ => {
                let last = self.viewport.total.saturating_sub(self.viewport.fit);
                let place = self.place_mut();
                place.offset = place.offset.saturating_add_signed(by).min(last);
                return;
            }
        };
        let Some(last) = ids.len().checked_sub(1) else { return };
        let borrowed: Vec<&str> = ids.iter().map(String::as_str).collect();
        let position = self.position(&borrowed).saturating_add_signed(by).min(last);
        self.place_mut().selected = ids.into_iter().nth(position);
    }
}

pub(super) fn ids_of<'a>(drops: &[&'a ReportedDrop]) -> Vec<&'a str> {
    drops.iter().map(|drop| drop.record().id.as_str()).collect()
}

fn sorted(mut drops: Vec<&ReportedDrop>) -> Vec<&ReportedDrop> {
    drops.sort_by_key(|drop| std::cmp::Reverse((drop.seen().1, &drop.record().id)));
    drops
}

fn is_interrupt(key: KeyEvent) -> bool {
    key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c')
}
