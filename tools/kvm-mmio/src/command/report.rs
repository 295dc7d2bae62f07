// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio report`: the pages of a recording.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cli::Report;
use crate::failure::Failure;
use crate::output;
use crate::reading::{HEAT, Reading};
use crate::recording::Player;
use crate::recording::frame::Damage;
use crate::region::Region;
use crate::summary::Summary;

pub fn run(out: &mut dyn Write, args: &Report, json: bool) -> Result<()> {
    let mut total = Total::default();
    let played = play(&args.file, |step| total.add(&step))?;
    let regions = args.names.regions(&played.regions)?;
    let list = &args.list;
    let summary = Summary::new(
        &total.grown,
        total.elapsed,
        &regions,
        &list.view(),
        list.top,
    );
    if json {
        output::header(out, "report")?;
        output::summary_json(out, &summary)?;
    } else {
        output::summary_text(out, &summary)?;
    }
    out.flush()?;
    played.end()
}

/// All that a recording says, in sum.
#[derive(Default)]
struct Total {
    grown: Reading,
    elapsed: Duration,
    /// Counting by page was off at some time.
    cold: bool,
}

impl Total {
    fn add(&mut self, step: &Step) {
        self.grown.add(&step.grown);
        self.elapsed += step.elapsed;
        self.cold |= step.grown.clock.flags & HEAT == 0;
    }
}

/// What has happened between two samples.
pub struct Step {
    pub grown: Reading,
    pub elapsed: Duration,
}

/// A recording that was played to its end, or to its damage.
pub struct Played {
    pub regions: Vec<Region>,
    name: String,
    damage: Option<Damage>,
}

impl Played {
    /// Fails if there was damage. To be called when what precedes it has been shown.
    pub fn end(self) -> Result<()> {
        match self.damage {
            Some(damage) => Err(Failure::Damaged(self.name, damage).into()),
            None => Ok(()),
        }
    }
}

/// Goes over a recording.
pub fn play(path: &Path, mut each: impl FnMut(Step)) -> Result<Played> {
    let name = path.display().to_string();
    let file = File::open(path)
        .with_context(|| format!("cannot open {name}; `kvm-mmio record` makes a recording"))?;
    let damaged = |damage| Failure::Damaged(name.clone(), damage);
    let mut player = Player::new(BufReader::new(file)).map_err(damaged)?;
    let mut before: Option<Reading> = None;
    let damage = loop {
        let now = match player.step() {
            Ok(Some(now)) => now,
            Ok(None) => break None,
            Err(damage) => break Some(damage),
        };
        if let Some(before) = &before {
            each(Step {
                grown: now.since(before),
                elapsed: now.elapsed_since(before),
            });
        }
        before = Some(now.clone());
    };
    Ok(Played {
        regions: player.start.regions,
        name,
        damage,
    })
}
