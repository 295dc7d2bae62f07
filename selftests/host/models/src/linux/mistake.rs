// SPDX-License-Identifier: GPL-2.0
//! What can be made wrong, to see that it is noticed.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// Who changes memslots or a bus does not wait for those who use the old ones.
    NoGracePeriod,
    /// New memslots have their generation from the start, as until 2014.
    GenerationAtOnce,
    /// New memslots have the generation of the old ones.
    SameGeneration,
    /// What a vCPU has cached is not cleared while the extension is off.
    ClearOnlyWhileOn,
    /// A load that the fast path began is forgotten if the extension is switched off meanwhile.
    CompleteOnlyWhileOn,
    /// An old bus is freed while somebody may use it.
    BusFreedAtOnce,
    /// What the exit handler reads may be older than what the guest has seen before it.
    NoBarrier,
    /// What is known of a doorbell, or that there is none, outlives the bus.
    AnyBus,
    /// A VM that runs when the module is loaded holds no reference to it.
    NoReference,
    /// A module that is being unloaded stays registered when a VM comes.
    NoDetach,
    /// A vCPU's state is freed only while the extension is on.
    FreeOnlyWhileOn,
}
