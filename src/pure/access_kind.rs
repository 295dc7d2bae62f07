// SPDX-License-Identifier: GPL-2.0

//! Which kind of access heat is counted by.

use super::stats_format::{Direction, Outcome};

/// Direction and outcome in one number: where an access is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub(super) u8);

impl Kind {
    /// The first of the emulator's: their numbers are those that KVM tells, see `Kind::emulated()`.
    const EMULATED: u8 = 0;

    /// How many the emulator has.
    pub const EMULATED_COUNT: usize = 4;

    /// The first of the fast path's.
    const FAST: u8 = Self::EMULATED + 4;

    /// What signalled a zero-length ioeventfd: neither read nor write, the instruction was skipped.
    pub const WILDCARD: Self = Self(Self::FAST + 4);

    /// How many there are.
    pub(super) const COUNT: usize = Self::WILDCARD.0 as usize + 1;

    /// Of the fast path.
    #[inline(always)]
    pub const fn fast(write: bool, userspace: bool) -> Self {
        Self::numbered(Self::FAST, write, userspace)
    }

    /// Of the emulator.
    #[inline(always)]
    pub const fn emulated(write: bool, userspace: bool) -> Self {
        Self::numbered(Self::EMULATED, write, userspace)
    }

    /// Adding needs fewer instructions than choosing.
    #[inline(always)]
    const fn numbered(first: u8, write: bool, userspace: bool) -> Self {
        Self(first + write as u8 + 2 * userspace as u8)
    }

    /// Its number among those of the emulator.
    #[inline(always)]
    pub const fn emulated_number(self) -> usize {
        (self.0 - Self::EMULATED) as usize
    }

    /// What became of it.
    pub const fn outcome(self) -> Outcome {
        use Outcome::*;
        const OUTCOMES: [Outcome; 5] = [
            EmulatedKernel,
            EmulatedUserspace,
            FastKernel,
            FastUserspace,
            Wildcard,
        ];
        OUTCOMES[self.0 as usize / 2 % OUTCOMES.len()]
    }

    /// Which way it went.
    pub const fn direction(self) -> Direction {
        match self {
            Self::WILDCARD => Direction::Unknown,
            Self(number) if number % 2 == 1 => Direction::Write,
            Self(_) => Direction::Read,
        }
    }

    /// Whether the value was known when such an access was recorded: only the fast path looks, and
    /// what userspace answers comes later.
    pub(super) const fn has_value(self) -> bool {
        match self.outcome() {
            Outcome::FastKernel => true,
            Outcome::FastUserspace => matches!(self.direction(), Direction::Write),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_keeps_its_parts() {
        use Direction::*;
        use Outcome::*;
        for (write, direction) in [(false, Read), (true, Write)] {
            for (userspace, fast, emulated) in [
                (false, FastKernel, EmulatedKernel),
                (true, FastUserspace, EmulatedUserspace),
            ] {
                let kind = Kind::fast(write, userspace);
                assert_eq!((kind.outcome(), kind.direction()), (fast, direction));
                let kind = Kind::emulated(write, userspace);
                assert_eq!((kind.outcome(), kind.direction()), (emulated, direction));
                assert!(kind.emulated_number() < Kind::EMULATED_COUNT);
            }
        }
        assert_eq!(Kind::WILDCARD.outcome(), Wildcard);
        assert_eq!(Kind::WILDCARD.direction(), Unknown);
    }
}
