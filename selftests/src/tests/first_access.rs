// SPDX-License-Identifier: GPL-2.0
//! The first access to a page without a memslot makes an MMIO SPTE; later ones find it.

use anyhow::Result;

use crate::guest::{Machine, Mode};
use crate::stats::{Mark, with_sptes};

const PROVES: &str = "mark_mmio_spte, set_mmio_spte, is_mmio_spte, quickly_check_mmio_pf, \
    walk_shadow_page_get_mmio_spte, handle_mmio_page_fault_common: \
    one MMIO SPTE for each page, each later access answered without another";

crate::test_table! {
    first_access_long_1_page: PROVES => pages_in_turn(Mode::Long, 1),
    first_access_long_8_pages: PROVES => pages_in_turn(Mode::Long, 8),
    first_access_pae_1_page: PROVES => pages_in_turn(Mode::Pae, 1),
    first_access_pae_8_pages: PROVES => pages_in_turn(Mode::Pae, 8),
    first_access_legacy_1_page: PROVES => pages_in_turn(Mode::Legacy, 1),
    first_access_legacy_8_pages: PROVES => pages_in_turn(Mode::Legacy, 8),
    first_access_flat_1_page: PROVES => pages_in_turn(Mode::Flat, 1),
    first_access_flat_8_pages: PROVES => pages_in_turn(Mode::Flat, 8),
}

const ROUNDS: u64 = 5;

fn pages_in_turn(mode: Mode, pages: u64) -> Result<()> {
    let (machine, mut vcpu) = Machine::with_vcpu(mode)?;
    let start = Mark::here(&[vcpu.fd()])?;

    for page in 0..pages {
        vcpu.touch(machine.gva(page), machine.gpa(page), 4)?;
    }
    start
        .delta(&[vcpu.fd()])?
        .expect_kvm("mmio_exits", pages)?
        .expect_kvm("pf_mmio_spte_created", with_sptes(pages)?)?
        .expect_ext("spte_made", with_sptes(pages)?)?
        .expect_ext("cache_filled", pages)?
        .expect_ext("faults", 0)?
        .expect_ext("passed", 0)?;

    let later = Mark::here(&[vcpu.fd()])?;
    for _ in 0..ROUNDS {
        for page in 0..pages {
            vcpu.touch(machine.gva(page), machine.gpa(page), 4)?;
        }
    }
    let delta = later.delta(&[vcpu.fd()])?;
    let faults = with_sptes(ROUNDS * pages)?;
    delta
        .expect_kvm("mmio_exits", ROUNDS * pages)?
        .expect_kvm("pf_mmio_spte_created", 0)?
        .expect_ext("faults", faults)?
        .expect_completed(faults)?
        .expect_ext("spte_made", 0)?
        .expect_ext("spte_stale", 0)?
        .expect_ext("retry", 0)?
        .expect_ext("passed", 0)?
        .expect_hits(faults)?
        .expect_balance()?;
    if pages == 1 {
        // Whatever its size, the cache holds the page that was accessed last.
        delta.expect_ext("cache_hit", faults)?;
    }
    Ok(())
}
