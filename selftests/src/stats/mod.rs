// SPDX-License-Identifier: GPL-2.0
//! Counters of KVM and of the extension, read before and after something happened.

mod counters;
pub mod debugfs;
pub mod device;
pub mod kvm;

use anyhow::{Context, Result, bail};
use kvm_ioctls::VcpuFd;

use crate::host::{self, Modes};

pub use counters::Counters;

/// The state of all counters at one moment.
struct Snapshot {
    kvm: Counters,
    /// None: the extension is not loaded.
    ext: Option<Counters>,
}

impl Snapshot {
    fn take(vcpus: &[&VcpuFd]) -> Result<Self> {
        let mut kvm = Counters::new();
        for vcpu in vcpus {
            for (name, value) in kvm::vcpu_stats(vcpu)? {
                *kvm.entry(name).or_default() += value;
            }
        }
        Ok(Self {
            kvm,
            ext: debugfs::read()?,
        })
    }
}

/// The start of a measurement. KVM's counters are those of the vCPUs given; the extension's are
/// of the whole machine.
pub struct Mark {
    before: Snapshot,
}

impl Mark {
    pub fn here(vcpus: &[&VcpuFd]) -> Result<Self> {
        Ok(Self {
            before: Snapshot::take(vcpus)?,
        })
    }

    pub fn delta(&self, vcpus: &[&VcpuFd]) -> Result<Delta> {
        Delta::between(&self.before, &Snapshot::take(vcpus)?)
    }

    /// Fails unless the extension has handled each MMIO fault since then, all of them accounted for.
    pub fn expect_all_handled(&self, vcpus: &[&VcpuFd]) -> Result<()> {
        let delta = self.delta(vcpus)?;
        delta.expect_ext("passed", 0)?.expect_balance()?;
        Ok(())
    }
}

/// How much each counter grew.
#[derive(Clone, Debug)]
pub struct Delta {
    kvm: Counters,
    ext: Option<Counters>,
}

fn difference(before: &Counters, after: &Counters) -> Result<Counters> {
    after
        .iter()
        .map(|(name, after)| {
            let before = before.get(name).copied().unwrap_or(0);
            // Not every binary statistic is a counter; those that fall are of no interest here.
            Ok((name.clone(), after.saturating_sub(before)))
        })
        .collect()
}

impl Delta {
    fn between(before: &Snapshot, after: &Snapshot) -> Result<Self> {
        let ext = match (&before.ext, &after.ext) {
            (Some(before), Some(after)) => Some(difference(before, after)?),
            (None, None) => None,
            _ => bail!("the extension was loaded or unloaded during a test"),
        };
        Ok(Self {
            kvm: difference(&before.kvm, &after.kvm)?,
            ext,
        })
    }

    /// One of KVM's statistics.
    pub fn kvm(&self, name: &str) -> Result<u64> {
        self.kvm
            .get(name)
            .copied()
            .with_context(|| format!("KVM has no statistic {name}"))
    }

    /// One of the extension's; None when it is not loaded.
    pub fn ext(&self, name: &str) -> Result<Option<u64>> {
        self.ext
            .as_ref()
            .map(|ext| {
                ext.get(name)
                    .copied()
                    .with_context(|| format!("no counter {name} in stats"))
            })
            .transpose()
    }

    /// Fails unless KVM's statistic grew by exactly `want`.
    pub fn expect_kvm(&self, name: &str, want: u64) -> Result<&Self> {
        let got = self.kvm(name)?;
        if got != want {
            bail!("KVM's {name} grew by {got}, wanted {want}; {self:?}");
        }
        Ok(self)
    }

    /// Fails unless the extension's counter grew by exactly `want`; by nothing when it is switched
    /// off. Nothing is checked where the extension is not loaded.
    pub fn expect_ext(&self, name: &str, want: u64) -> Result<&Self> {
        let Some(got) = self.ext(name)? else {
            return Ok(self);
        };
        let enabled = host::extension_enabled() == Some(true);
        let want = if enabled { want } else { 0 };
        if got != want {
            bail!(
                "the extension's {name} grew by {got}, wanted {want}; enabled {enabled}; {self:?}"
            );
        }
        Ok(self)
    }

    /// Fails unless the extension answered `want` MMIO faults from its cache or from an MMIO SPTE
    /// of the current generation, whichever.
    pub fn expect_hits(&self, want: u64) -> Result<&Self> {
        self.expect_sum("cache_hit", "spte_hit", want)
    }

    /// Fails unless `want` accesses were completed, by the fast path or by the emulator.
    pub fn expect_completed(&self, want: u64) -> Result<&Self> {
        self.expect_sum("fast", "emulated", want)
    }

    fn expect_sum(&self, one: &str, other: &str, want: u64) -> Result<&Self> {
        let (Some(a), Some(b)) = (self.ext(one)?, self.ext(other)?) else {
            return Ok(self);
        };
        let enabled = host::extension_enabled() == Some(true);
        let want = if enabled { want } else { 0 };
        if a + b != want {
            bail!("{one} {a} + {other} {b}, wanted {want}; enabled {enabled}; {self:?}");
        }
        Ok(self)
    }

    /// Fails unless all the faults that the extension took are accounted for.
    pub fn expect_balance(&self) -> Result<&Self> {
        let Some(faults) = self.ext("faults")? else {
            return Ok(self);
        };
        let mut sum = 0;
        for outcome in [
            "cache_hit",
            "spte_hit",
            "read_only",
            "spte_stale",
            "retry",
            "wildcard",
        ] {
            sum += self.ext(outcome)?.unwrap_or(0);
        }
        if faults != sum {
            bail!("faults {faults} but {sum} by outcome; {self:?}");
        }
        Ok(self)
    }
}

/// `count` where KVM makes MMIO SPTEs, and nothing where kvm.mmio_caching is off: then every
/// access is an ordinary page fault.
pub fn with_sptes(count: u64) -> Result<u64> {
    Ok(if Modes::detect()?.mmio_caching {
        count
    } else {
        0
    })
}
