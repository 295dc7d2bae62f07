// SPDX-License-Identifier: GPL-2.0

//! What a vCPU has to record heat.

use crate::{
    addr::Gfn,
    kvm::{Borrows, Loan},
    pure::heat::{Heat, Record, Recorder, Site, FREE},
    report::registry::{VcpuHeat, VcpuRecords}, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use pin_init::init_array_from_fn;

/// A recorder and the records that it refers to.
pub(crate) struct VcpuRecorder {
    /// Its records are made with the first access for which heat is on.
    recorder: Loan<Records>,
    /// The TSC when the emulator's last access was done.
    pub(crate) done: u64,
}

/// A recorder refers to records.
struct Records;

impl Borrows for Records {
    type Owner = VcpuHeat;
    type On<'a> = Recorder<'a, VcpuRecords>;

    #[inline(always)]
    fn shorten<'short, 'long: 'short>(
        on: &'short Recorder<'long, VcpuRecords>,
    ) -> &'short Recorder<'short, VcpuRecords> {
        on
    }
}

/// Without any records.
pub(crate) fn init() -> impl Init<VcpuRecorder> {
    init!(VcpuRecorder {
        recorder <- Loan::init(init!(Recorder {
            heat: None,
            places <- init_array_from_fn(|_| &FREE),
        })),
        done: 0,
    })
}

/// Without memory it is done without, which is nothing for the kernel to warn of.
pub(crate) fn make_records() -> Result<Arc<VcpuHeat>> {
    let quietly = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
    let records = VBox::init(init_array_from_fn(|_| Record::unused()), quietly)?;
    Ok(Arc::new(Heat::new(records), GFP_KERNEL_ACCOUNT)?)
}

impl VcpuRecorder {
    /// The record of a page, if it is found at once.
    #[inline(always)]
    pub(crate) fn look(&self, gfn: Gfn) -> Option<&Record> {
        self.recorder.get().look(gfn)
    }

    /// The record of a site, if there is one.
    pub(crate) fn find(&self, site: Site) -> Option<&Record> {
        self.recorder.get().find(site)
    }

    /// Does something with the record of a site, if there is any left for it.
    pub(crate) fn find_or_take<R>(
        &mut self,
        site: Site,
        f: impl FnOnce(&Record) -> R,
    ) -> Option<R> {
        self.recorder
            .with_mut(|recorder| recorder.find_or_take(site).map(f))
    }

    /// Whether there are records.
    pub(crate) fn has_records(&self) -> bool {
        self.recorder.has_owner()
    }

    /// Takes records, if there are none.
    pub(crate) fn fill(&mut self, heat: Arc<VcpuHeat>) {
        self.recorder
            .set_owner(heat, |recorder, heat| recorder.heat = Some(heat));
    }
}
