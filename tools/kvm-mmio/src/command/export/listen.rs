// SPDX-License-Identifier: GPL-2.0
//! `kvm-mmio export --listen`: the counts of now, whenever somebody asks for them.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use super::prometheus::{metrics, warn_of_names};
use crate::cli::Export;
use crate::device::{Device, System};
use crate::failure::warn;
use crate::http::{Answer, Request, Server};
use crate::metrics::Format;
use crate::reading::Reading;
use crate::region::Names;
use crate::signal::Stop;
use crate::source::{Choice, Source, Wanted};

/// Answers scrapes until a signal comes. That there is nothing to read is an answer, too: KVM or
/// the module may be loaded later.
pub fn listen(system: &System, args: &Export, address: SocketAddr, mut names: Names) -> Result<()> {
    let stop = Stop::on_signals()?;
    let mut scraped = Scraped::new(system, args);
    // What counts does so from now on, not from the first scrape.
    match scraped.read() {
        Ok(reading) => {
            names.learn_aloud(system, &reading);
            warn_of_names(&reading, &names);
        }
        // What was asked for by name is not waited for.
        Err(error) if args.heat || args.counting.source != Choice::Auto => return Err(error),
        Err(error) => warn(format_args!("nothing to read yet: {error:#}")),
    }
    let server = Server::bind(address)?;
    warn(format_args!("http://{}/metrics", server.address()?));
    let state = Mutex::new((scraped, names));
    server.run(&stop, |request| match request.path.as_str() {
        "/metrics" => {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let (scraped, names) = &mut *state;
            let reading = scraped.read().ok();
            if let Some(reading) = &reading {
                names.learn_aloud(system, reading);
            }
            let format = args.format.unwrap_or_else(|| welcome(request));
            let text = metrics(reading.as_ref(), names, args, format);
            Answer::ok(format.content_type(), text)
        }
        "/" => Answer::ok("text/html; charset=utf-8", PAGE.to_owned()),
        _ => Answer::not_found(),
    });
    Ok(())
}

/// For a person who has only the address.
const PAGE: &str = "<!DOCTYPE html><title>kvm-mmio</title><a href=\"/metrics\">metrics</a>\n";

/// Who can read OpenMetrics says so.
fn welcome(request: &Request) -> Format {
    match request.accept.contains("application/openmetrics-text") {
        true => Format::OpenMetrics,
        false => Format::Prometheus,
    }
}

/// What scrapes are answered from.
struct Scraped<'a> {
    system: &'a System,
    args: &'a Export,
    /// Has the module count by page.
    heat: Option<Device>,
    tracepoints: Kept<Source>,
}

impl<'a> Scraped<'a> {
    fn new(system: &'a System, args: &'a Export) -> Self {
        let (heat, tracepoints) = (None, Kept(None));
        Self {
            system,
            args,
            heat,
            tracepoints,
        }
    }

    /// All counts now. The module may come and go.
    fn read(&mut self) -> Result<Reading> {
        let choice = self.args.counting.source;
        let (system, loaded) = (self.system, self.system.has_module("kvm_mmio_ext"));
        let wanted = Wanted {
            times: self.args.latency.latency,
            ..Wanted::default()
        };
        if choice == Choice::Module || choice == Choice::Auto && loaded && !wanted.times {
            self.tracepoints = Kept(None);
            return self.read_module();
        }
        self.tracepoints
            .read(|| Source::open(system, choice, wanted), Source::read)
    }

    /// Closed at once: an open reader would keep the module from being unloaded.
    fn read_module(&mut self) -> Result<Reading> {
        if self.args.heat && self.heat.is_none() {
            self.heat = Some(self.system.open_counting(false)?);
        }
        self.system.open()?.read()
    }
}

/// What counts only while it is open, so from one scrape to the next; and what it has said last.
struct Kept<S>(Option<(S, Reading)>);

impl<S> Kept<S> {
    /// One that cannot be read is opened again the next time.
    fn read(
        &mut self,
        open: impl FnOnce() -> Result<S>,
        read: impl FnOnce(&S) -> Result<Reading>,
    ) -> Result<Reading> {
        let (source, last) = match self.0.take() {
            Some(kept) => kept,
            None => (open()?, Reading::default()),
        };
        let mut reading = read(&source)?;
        reading.keep_up_with(&last);
        self.0 = Some((source, reading.clone()));
        Ok(reading)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;
    use crate::device::sample;

    #[test]
    fn counts_grow_from_scrape_to_scrape() {
        let mut opened = 0;
        let mut kept = Kept(None);
        let mut scrape = |grown: Result<Reading>| {
            let open = || {
                opened += 1;
                Ok(opened)
            };
            kept.read(open, |_| grown).map(|reading| (reading, opened))
        };
        let first = sample::traced();
        let mut second = first.clone();
        second.add(&first);
        assert_eq!(scrape(Ok(first.clone())).unwrap(), (first.clone(), 1));
        assert_eq!(scrape(Ok(second.clone())).unwrap(), (second.clone(), 1));
        // A write that is userspace's was the kernel's until userspace was asked.
        let mut moved = second.clone();
        let vcpu = moved.vms.get_mut(&1).unwrap().vcpus.get_mut(&0).unwrap();
        let counts = &mut vcpu.pages.get_mut(&0xfe00_3000).unwrap().counts;
        (counts.kernel, counts.userspace) = (counts.kernel - 1, counts.userspace + 1);
        let (kept_up, _) = scrape(Ok(moved)).unwrap();
        let counts = kept_up.vms[&1].vcpus[&0].pages[&0xfe00_3000].counts;
        assert_eq!((counts.kernel, counts.userspace), (18000, 1));
        // From another one, what it has counted itself.
        assert!(scrape((|| bail!("gone"))()).is_err());
        assert_eq!(scrape(Ok(first.clone())).unwrap(), (first, 2));
    }
}
