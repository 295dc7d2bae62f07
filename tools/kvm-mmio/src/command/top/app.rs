// SPDX-License-Identifier: GPL-2.0
//! What `top` shows, and what keys do to it.

use std::collections::HashMap;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use regex_lite::Regex;

use crate::counts::Counts;
use crate::device::System;
use crate::reading::{Clock, Reading};
use crate::region::Names;
use crate::row::{Key, Row, rows};
use crate::view::{Filter, View};

/// What the caller has to do after a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    None,
    /// The interval has changed.
    Restart,
    Quit,
}

/// What is being typed, and for what.
pub struct Prompt {
    pub what: Question,
    pub text: String,
    /// Why the last answer was refused.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Name,
    Vm,
    Pid,
    Vcpu,
    Interval,
}

impl Question {
    pub fn text(self) -> &'static str {
        match self {
            Self::Name => "only pages whose name matches (regular expression)",
            Self::Vm => "only VMs (numbers)",
            Self::Pid => "only processes (numbers)",
            Self::Vcpu => "only vCPUs (numbers)",
            Self::Interval => "interval (0.1 to 25.5 seconds)",
        }
    }
}

/// A page, since the start and in the last interval.
pub struct Line {
    pub row: Row,
    pub now: Counts,
}

pub struct App {
    pub names: Names,
    pub view: View,
    pub interval: Duration,
    pub color: bool,
    pub help: bool,
    pub prompt: Option<Prompt>,
    /// First line that is shown.
    pub scroll: usize,
    /// Totals begin here.
    base: Reading,
    /// The last reading and the one before.
    last: Reading,
    before: Reading,
    started: bool,
}

impl App {
    pub fn new(names: Names, view: View, interval: Duration, color: bool) -> Self {
        Self {
            names,
            view,
            interval,
            color,
            help: false,
            prompt: None,
            scroll: 0,
            base: Reading::default(),
            last: Reading::default(),
            before: Reading::default(),
            started: false,
        }
    }

    pub fn update(&mut self, reading: Reading, system: &System) {
        self.names.learn(system, &reading);
        if !self.started {
            (self.base, self.last) = (reading.clone(), reading.clone());
            self.started = true;
        }
        self.before = std::mem::replace(&mut self.last, reading);
    }

    /// Seconds of the last interval.
    pub fn seconds(&self) -> f64 {
        self.last
            .elapsed_since(&self.before)
            .as_secs_f64()
            .max(1e-9)
    }

    pub fn clock(&self) -> Clock {
        self.last.clock
    }

    /// Whether there are names of pages of which it is not known whose they are.
    pub fn names_unused(&self) -> bool {
        let processes = self.last.vms.values().map(|vm| vm.tgid).collect();
        self.names.maps(&processes).unused
    }

    pub fn vms(&self) -> usize {
        self.last.vms.values().filter(|vm| !vm.ended).count()
    }

    /// Accesses of no page since the start.
    pub fn dropped(&self) -> u64 {
        self.last
            .since(&self.base)
            .vms
            .values()
            .map(|vm| vm.heat_dropped)
            .sum()
    }

    /// All pages that were accessed since the start, the busiest now first.
    pub fn lines(&self) -> Vec<Line> {
        let grown = self.last.since(&self.before);
        let now = rows(&grown, &self.names, &self.view);
        let order: HashMap<Key, (usize, Counts)> = (0..)
            .zip(&now)
            .map(|(place, row)| (row.key, (place, row.counts)))
            .collect();
        let total = rows(&self.last.since(&self.base), &self.names, &self.view);
        let mut lines: Vec<_> = total
            .into_iter()
            .map(|row| {
                let (place, now) = order
                    .get(&row.key)
                    .copied()
                    .unwrap_or((usize::MAX, Counts::default()));
                (place, Line { row, now })
            })
            .collect();
        if self.view.sort != crate::view::Sort::Page {
            lines.sort_by_key(|(place, _)| *place);
        }
        lines.into_iter().map(|(_, line)| line).collect()
    }

    /// The keys of kvm_stat where it has them.
    pub fn key(&mut self, key: KeyEvent) -> Action {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Action::Quit;
        }
        if self.prompt.is_some() {
            return self.prompt_key(key.code);
        }
        if self.help {
            self.help = false;
            return Action::None;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char('h' | '?') => self.help = true,
            KeyCode::Char('c') => self.view.filter = Filter::default(),
            KeyCode::Char('f') => self.ask(Question::Name),
            KeyCode::Char('g') => self.ask(Question::Vm),
            KeyCode::Char('p') => self.ask(Question::Pid),
            KeyCode::Char('v') => self.ask(Question::Vcpu),
            KeyCode::Char('s') => self.ask(Question::Interval),
            KeyCode::Char('o') => self.view.sort = self.view.sort.next(),
            KeyCode::Char('r') => self.base = self.last.clone(),
            KeyCode::Char('x') => self.view.per_vcpu = !self.view.per_vcpu,
            KeyCode::Down | KeyCode::Char('j') => self.scroll += 1,
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown => self.scroll += 10,
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(10),
            KeyCode::Home => self.scroll = 0,
            _ => {}
        }
        Action::None
    }

    fn ask(&mut self, what: Question) {
        self.prompt = Some(Prompt {
            what,
            text: String::new(),
            error: None,
        });
    }

    fn prompt_key(&mut self, code: KeyCode) -> Action {
        let Some(prompt) = &mut self.prompt else {
            return Action::None;
        };
        match code {
            KeyCode::Char(c) => prompt.text.push(c),
            KeyCode::Backspace => {
                prompt.text.pop();
            }
            KeyCode::Esc => self.prompt = None,
            KeyCode::Enter => return self.answer(),
            _ => {}
        }
        Action::None
    }

    fn answer(&mut self) -> Action {
        let Some(Prompt { what, text, .. }) = self.prompt.take() else {
            return Action::None;
        };
        match self.apply(what, text.trim()) {
            Ok(action) => action,
            Err(error) => {
                let error = Some(error);
                self.prompt = Some(Prompt { what, text, error });
                Action::None
            }
        }
    }

    /// An empty answer takes a filter away.
    fn apply(&mut self, what: Question, text: &str) -> Result<Action, String> {
        let filter = &mut self.view.filter;
        match what {
            Question::Name if text.is_empty() => filter.name = None,
            Question::Name => filter.name = Some(Regex::new(text).map_err(|e| e.to_string())?),
            Question::Vm => filter.vms = numbers(text)?,
            Question::Pid => filter.pids = numbers(text)?,
            Question::Vcpu => filter.vcpus = numbers(text)?,
            Question::Interval => {
                let seconds: f64 = text.parse().map_err(|_| "no number".to_owned())?;
                if !(0.1..=25.5).contains(&seconds) {
                    return Err("not between 0.1 and 25.5".to_owned());
                }
                self.interval = Duration::from_secs_f64(seconds);
                return Ok(Action::Restart);
            }
        }
        self.scroll = 0;
        Ok(Action::None)
    }
}

/// Numbers with blanks or commas between them.
fn numbers<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
    text.split([' ', ','])
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().map_err(|_| format!("{part:?} is no number")))
        .collect()
}
