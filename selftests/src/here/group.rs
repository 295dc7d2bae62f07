// SPDX-License-Identifier: GPL-2.0
//! A program of tests that report TAP, and what it has reported.

use super::child::End;

/// Lines of explanation that are kept of a failure.
const EXPLANATION: usize = 12;
/// The exit status by which a program of the kernel's selftests says that it cannot run.
const SKIPPED: i32 = 4;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub skipped: usize,
    /// The title of each test that failed, and what was said of it.
    pub failed: Vec<(String, Vec<String>)>,
    /// How many tests were announced.
    plan: Option<usize>,
}

impl Tally {
    /// Counts what a program has reported.
    pub fn of(end: &End) -> Self {
        let mut tally = Self::parse(&end.output);
        let code = end.status.code();
        let run = tally.run();
        if let Some(plan) = tally.plan.filter(|plan| *plan != run) {
            tally.fail(
                format!("{plan} tests planned, {run} run; {}", end.describe()),
                &end.errors,
            );
        } else if code == Some(SKIPPED) && run == 0 {
            tally.skipped += 1;
        } else if code != Some(0) && tally.failed.is_empty() {
            tally.fail(end.describe(), &end.errors);
        } else if run == 0 {
            tally.fail("no test has run".into(), &end.errors);
        }
        tally
    }

    fn fail(&mut self, title: String, lines: &[String]) {
        self.failed.push((title, lines.to_vec()));
    }

    fn run(&self) -> usize {
        self.passed + self.skipped + self.failed.len()
    }

    fn parse(text: &str) -> Self {
        let mut tally = Self::default();
        // Whether comments are about a failure.
        let mut is_explained = false;
        for line in text.lines() {
            if let Some(line) = line.strip_prefix("# ") {
                if let Some((_, lines)) = tally.failed.last_mut().filter(|_| is_explained) {
                    if lines.len() < EXPLANATION {
                        lines.push(line.to_owned());
                    }
                }
                continue;
            }
            is_explained = false;
            if let Some(title) = result(line, "not ok") {
                tally.failed.push((title.to_owned(), Vec::new()));
                is_explained = true;
            } else if let Some(title) = result(line, "ok") {
                let count = if title.contains("# SKIP") {
                    &mut tally.skipped
                } else {
                    &mut tally.passed
                };
                *count += 1;
            } else if let Some(plan) = line.strip_prefix("1..") {
                tally.plan = plan.split_whitespace().next().and_then(|n| n.parse().ok());
            }
        }
        tally
    }
}

/// The title in a line such as "ok 1 - title".
fn result<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(word)?.strip_prefix(' ')?;
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    Some(rest.trim_start_matches([' ', '-']))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::{End, Tally};

    fn of(output: &str, code: i32) -> Tally {
        Tally::of(&End {
            status: ExitStatus::from_raw(code << 8),
            output: output.into(),
            errors: vec!["Error: why".into()],
        })
    }

    fn failures(tally: &Tally) -> Vec<&str> {
        tally
            .failed
            .iter()
            .map(|(title, _)| title.as_str())
            .collect()
    }

    #[test]
    fn results_are_counted() {
        let text = "# start\n1..4\nok 1 - a\n# of a\nnot ok 2 - b\n# proves: x\n# of b\n\
                    ok 3 - c # SKIP no\nok 4 d\n# of d\n";
        let tally = of(text, 1);
        assert_eq!((tally.passed, tally.skipped), (2, 1));
        assert_eq!(
            tally.failed,
            [(
                "b".to_owned(),
                vec!["proves: x".to_owned(), "of b".to_owned()]
            )]
        );
    }

    #[test]
    fn a_program_that_ends_early_fails() {
        let tally = of("1..3\nok 1 - a\nok 2 - b\n", 0);
        assert_eq!(failures(&tally), ["3 tests planned, 2 run; exit status 0"]);
        assert_eq!(failures(&of("", 1)), ["exit status 1"]);
        assert_eq!(of("", 1).failed[0].1, ["Error: why"]);
        assert_eq!(failures(&of("1..1\nok 1 - a\n", 2)), ["exit status 2"]);
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert_eq!(failures(&of("", 0)), ["no test has run"]);
        assert_eq!(of("# no\n", 4).skipped, 1);
        // "1..0 # SKIP why" is a program that cannot run, too.
        assert_eq!(of("1..0 # SKIP no\n", 4).skipped, 1);
    }
}
