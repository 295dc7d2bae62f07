// SPDX-License-Identifier: GPL-2.0
//! What `top` shows, and what keys do to it.

use std::collections::BTreeSet;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use regex_lite::Regex;

use super::level::{Id, Level, Line};
use crate::device::System;
use crate::reading::{Clock, Reading};
use crate::region::Names;
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

/// A level, and where one is there.
struct Step {
    level: Level,
    /// What the page is called.
    name: String,
    /// None: the first line, whichever that is.
    chosen: Option<Id>,
    /// First line that is shown.
    scroll: usize,
}

impl Step {
    fn into(level: Level, name: String) -> Self {
        Self {
            level,
            name,
            chosen: None,
            scroll: 0,
        }
    }
}

pub struct App {
    pub names: Names,
    pub view: View,
    pub interval: Duration,
    pub color: bool,
    pub help: bool,
    pub prompt: Option<Prompt>,
    /// Where this is, and what is behind that.
    step: Step,
    behind: Vec<Step>,
    /// Totals begin here.
    base: Reading,
    /// The last reading and the one before.
    last: Reading,
    before: Reading,
    /// What has grown since the start, and in the last interval.
    grown: [Reading; 2],
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
            step: Step::into(Level::Pages(None), String::new()),
            behind: Vec::new(),
            base: Reading::default(),
            last: Reading::default(),
            before: Reading::default(),
            grown: Default::default(),
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
        self.compare();
    }

    /// Once for each reading, as it takes its time with many VMs.
    fn compare(&mut self) {
        self.grown = [&self.base, &self.before].map(|earlier| self.last.since(earlier));
    }

    fn reset(&mut self) {
        self.base = self.last.clone();
        self.compare();
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

    /// The options with names of which it is not known whose they are.
    pub fn names_unused(&self) -> BTreeSet<&'static str> {
        let processes = self.last.vms.values().map(|vm| vm.tgid).collect();
        self.names.maps(&processes).unused
    }

    pub fn vms(&self) -> usize {
        self.last.vms.values().filter(|vm| !vm.ended).count()
    }

    /// Accesses of no page since the start, of the VMs that are shown.
    pub fn dropped(&self) -> u64 {
        let only = self.level().vm();
        let shown = self.grown[0].vms.iter().filter(|(id, vm)| {
            only.is_none_or(|only| only == **id) && self.view.filter.has_vm(**id, vm)
        });
        shown.map(|(_, vm)| vm.heat_dropped).sum()
    }

    pub fn level(&self) -> Level {
        self.step.level
    }

    /// What the page that is looked into is called.
    pub fn page_name(&self) -> &str {
        &self.step.name
    }

    /// Whether Esc goes back.
    pub fn is_deep(&self) -> bool {
        !self.behind.is_empty()
    }

    /// All that was accessed since the start, the busiest now first.
    pub fn lines(&self) -> Vec<Line> {
        let grown = self.grown.each_ref();
        self.level().lines(grown, &self.names, &self.view)
    }

    /// Which of the lines is chosen.
    pub fn chosen(&self, lines: &[Line]) -> usize {
        let is_it = |line: &Line| Some(line.id) == self.step.chosen;
        lines.iter().position(is_it).unwrap_or(0)
    }

    /// The first line that is shown, if there is room for so many: what is chosen is among them.
    pub fn scroll(&mut self, lines: &[Line], room: usize) -> usize {
        let chosen = self.chosen(lines);
        let least = (chosen + 1).saturating_sub(room);
        let most = chosen.min(lines.len().saturating_sub(room)).max(least);
        self.step.scroll = self.step.scroll.clamp(least, most);
        self.step.scroll
    }

    fn choose(&mut self, by: isize) {
        let lines = self.lines();
        let last = lines.len().saturating_sub(1);
        let place = self.chosen(&lines).saturating_add_signed(by).min(last);
        self.step.chosen = lines.get(place).map(|line| line.id);
    }

    fn enter(&mut self) {
        let lines = self.lines();
        let chosen = lines.get(self.chosen(&lines));
        let Some((line, level)) = chosen.and_then(|line| Some((line, Level::below(line)?))) else {
            return;
        };
        self.step.chosen = Some(line.id);
        let next = Step::into(level, line.name.clone());
        self.behind.push(std::mem::replace(&mut self.step, next));
    }

    fn back(&mut self) -> Action {
        let Some(step) = self.behind.pop() else {
            return Action::Quit;
        };
        self.step = step;
        Action::None
    }

    /// From wherever it is to all VMs, or from these to all pages.
    fn turn(&mut self) {
        let level = match self.level() {
            Level::Vms => Level::Pages(None),
            _ => Level::Vms,
        };
        self.step = Step::into(level, String::new());
        self.behind.clear();
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
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Esc => return self.back(),
            KeyCode::Enter => self.enter(),
            KeyCode::Tab => self.turn(),
            KeyCode::Char('h' | '?') => self.help = true,
            KeyCode::Char('c') => self.view.filter = Filter::default(),
            KeyCode::Char('f') => self.ask(Question::Name),
            KeyCode::Char('g') => self.ask(Question::Vm),
            KeyCode::Char('p') => self.ask(Question::Pid),
            KeyCode::Char('v') => self.ask(Question::Vcpu),
            KeyCode::Char('s') => self.ask(Question::Interval),
            KeyCode::Char('o') => self.view.sort = self.view.sort.next(),
            KeyCode::Char('r') => self.reset(),
            KeyCode::Char('x') => self.view.per_vcpu = !self.view.per_vcpu,
            KeyCode::Down | KeyCode::Char('j') => self.choose(1),
            KeyCode::Up | KeyCode::Char('k') => self.choose(-1),
            KeyCode::PageDown => self.choose(10),
            KeyCode::PageUp => self.choose(-10),
            KeyCode::Home => self.step.chosen = None,
            KeyCode::End => self.choose(isize::MAX),
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
        self.step.chosen = None;
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
