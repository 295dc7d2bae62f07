// SPDX-License-Identifier: GPL-2.0
//! Queues, and the commands of the admin queue: sections 4.1 and 5.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

use super::command::{COMMAND, COMPLETION, Command, Outcome, Status, identify, input_output};
use super::data;
use super::doorbells::{DOORBELLS, Doorbells, QUEUES};
use crate::disk::Disk;

/// The most that a queue of I/O has.
pub const QUEUE_ENTRIES: u16 = 64;
/// Doorbells of that.
const TAIL: usize = 2;
const HEAD: usize = 3;

/// A ring in memory; `at` is the next entry that the controller uses.
#[derive(Clone, Copy, Debug)]
struct Ring {
    base: u64,
    size: u32,
    at: u32,
}

impl Ring {
    fn new(base: u64, size: u32) -> Self {
        Self { base, size, at: 0 }
    }

    /// Where that entry is, of `size` bytes. A driver may have put it beyond all memory.
    fn entry(&self, size: u64) -> u64 {
        self.base.wrapping_add(u64::from(self.at) * size)
    }

    fn advance(&mut self) {
        self.at = (self.at + 1) % self.size;
    }
}

#[derive(Clone, Copy, Debug)]
struct Completions {
    ring: Ring,
    /// Of what is written: it changes each time around.
    phase: u32,
    /// Which interrupt, if any.
    vector: Option<u16>,
}

/// What the controller's thread works with.
pub struct Engine {
    disk: Disk,
    memory: GuestMemoryMmap,
    doorbells: Doorbells,
    submissions: [Option<Ring>; QUEUES],
    completions: [Option<Completions>; QUEUES],
}

impl Engine {
    /// Without queues.
    pub fn new(disk: Disk, memory: GuestMemoryMmap, doorbells: Doorbells) -> Self {
        Self {
            disk,
            memory,
            doorbells,
            submissions: [None; QUEUES],
            completions: [None; QUEUES],
        }
    }

    /// Begins with an admin queue at these places, of these numbers of entries.
    pub fn enable(&mut self, submission: (u64, u32), completion: (u64, u32)) {
        self.disable();
        self.submissions[0] = Some(Ring::new(submission.0, submission.1));
        self.completions[0] = Some(Completions {
            ring: Ring::new(completion.0, completion.1),
            phase: 1,
            vector: Some(0),
        });
    }

    /// Forgets all queues.
    pub fn disable(&mut self) {
        (self.submissions, self.completions) = ([None; QUEUES], [None; QUEUES]);
        (0..DOORBELLS).for_each(|number| self.doorbells.set(number, 0));
    }

    /// Whether the queue for I/O is there.
    pub fn is_running(&self) -> bool {
        self.submissions[1].is_some()
    }

    /// Does all commands; gives the vectors to interrupt, as bits. What fails is the controller.
    pub fn serve(&mut self) -> Result<u32> {
        let mut vectors = 0;
        for queue in 0..QUEUES {
            while let Some(command) = self.next(queue)? {
                let outcome = match queue {
                    0 => self.administer(&command),
                    _ => Some(input_output(&command, &mut self.disk, &self.memory)),
                };
                if let Some(outcome) = outcome {
                    vectors |= self.complete(queue, &command, outcome)?;
                }
            }
        }
        Ok(vectors)
    }

    fn next(&mut self, queue: usize) -> Result<Option<Command>> {
        let Some(ring) = &mut self.submissions[queue] else {
            return Ok(None);
        };
        let tail = self.doorbells.get(2 * queue);
        ensure!(
            tail < ring.size,
            "a tail of {tail} in {} entries",
            ring.size
        );
        if tail == ring.at {
            return Ok(None);
        }
        let command = Command::read(&self.memory, ring.entry(COMMAND))?;
        ring.advance();
        Ok(Some(command))
    }

    fn complete(&mut self, queue: usize, command: &Command, outcome: Outcome) -> Result<u32> {
        let head = self.submissions[queue].map_or(0, |ring| ring.at);
        let completions = self.completions[queue].as_mut().context("no completions")?;
        let ring = &mut completions.ring;
        let taken = self.doorbells.get(2 * queue + 1);
        // Waiting would need an event for each head. A driver that has as many entries as commands
        // never comes here.
        if (ring.at + 1) % ring.size == taken {
            bail!("no place for a completion");
        }
        let (value, status) = outcome.map_or_else(|status| (0, status as u32), |value| (value, 0));
        let entry = self
            .memory
            .get_slice(GuestAddress(ring.entry(COMPLETION)), COMPLETION as usize)?;
        entry.write_obj(value, 0)?;
        let queue_head = (queue as u32) << 16 | head;
        entry.write_obj(queue_head, 8)?;
        // Last, as the phase makes it valid.
        let word = command.id() | (status << 1 | completions.phase) << 16;
        entry.store(word, 12, Ordering::Release)?;
        ring.advance();
        if ring.at == 0 {
            completions.phase ^= 1;
        }
        Ok(completions.vector.map_or(0, |vector| 1 << vector))
    }

    /// Gives nothing if the command stays pending.
    fn administer(&mut self, command: &Command) -> Option<Outcome> {
        const DELETE_SUBMISSIONS: u8 = 0;
        const CREATE_SUBMISSIONS: u8 = 1;
        const GET_LOG: u8 = 2;
        const DELETE_COMPLETIONS: u8 = 4;
        const CREATE_COMPLETIONS: u8 = 5;
        const IDENTIFY: u8 = 6;
        const ABORT: u8 = 8;
        const SET_FEATURES: u8 = 9;
        const GET_FEATURES: u8 = 10;
        const ASYNCHRONOUS_EVENT: u8 = 12;
        Some(match command.opcode() {
            CREATE_COMPLETIONS => self.create_completions(command),
            CREATE_SUBMISSIONS => self.create_submissions(command),
            DELETE_SUBMISSIONS | DELETE_COMPLETIONS if command.halves(10).0 != 1 => {
                Err(Status::InvalidQueue)
            }
            DELETE_SUBMISSIONS => deleted(self.submissions[1].take()),
            DELETE_COMPLETIONS if self.submissions[1].is_some() => Err(Status::InvalidDeletion),
            DELETE_COMPLETIONS => deleted(self.completions[1].take()),
            IDENTIFY => identify(command, &self.disk, &self.memory),
            GET_LOG => self.empty_log(command),
            // There is one queue for I/O, which is said by 0; no other feature has a value.
            SET_FEATURES | GET_FEATURES => Ok(0),
            // It was not aborted.
            ABORT => Ok(1),
            ASYNCHRONOUS_EVENT => return None,
            _ => Err(Status::InvalidOpcode),
        })
    }

    /// A ring that a command describes; its number must be 1.
    fn described(command: &Command) -> Result<Ring, Status> {
        const CONTIGUOUS: u32 = 1;
        const LAST: u16 = QUEUE_ENTRIES - 1;
        let (queue, last) = command.halves(10);
        match (queue, command.0[11] & CONTIGUOUS, last) {
            (1, CONTIGUOUS, 1..=LAST) => Ok(Ring::new(command.prp()[0], u32::from(last) + 1)),
            (1, CONTIGUOUS, _) => Err(Status::InvalidSize),
            (1, ..) => Err(Status::InvalidField),
            _ => Err(Status::InvalidQueue),
        }
    }

    fn create_completions(&mut self, command: &Command) -> Outcome {
        const INTERRUPTS: u16 = 2;
        let ring = Self::described(command)?;
        let (flags, vector) = command.halves(11);
        if usize::from(vector) >= QUEUES {
            return Err(Status::InvalidField);
        }
        if self.completions[1].is_some() {
            return Err(Status::InvalidQueue);
        }
        self.doorbells.set(HEAD, 0);
        self.completions[1] = Some(Completions {
            ring,
            phase: 1,
            vector: (flags & INTERRUPTS != 0).then_some(vector),
        });
        Ok(0)
    }

    fn create_submissions(&mut self, command: &Command) -> Outcome {
        let ring = Self::described(command)?;
        if self.submissions[1].is_some() {
            return Err(Status::InvalidQueue);
        }
        if self.completions[1].is_none() || command.halves(11).1 != 1 {
            return Err(Status::InvalidCompletions);
        }
        self.doorbells.set(TAIL, 0);
        self.submissions[1] = Some(ring);
        Ok(0)
    }

    fn empty_log(&self, command: &Command) -> Outcome {
        let length = (usize::from(command.halves(10).1) + 1) * 4;
        data::put(&self.memory, command.prp(), &vec![0; length])
            .map_err(|_| Status::InvalidField)?;
        Ok(0)
    }
}

fn deleted<T>(queue: Option<T>) -> Outcome {
    queue.map(|_| 0).ok_or(Status::InvalidQueue)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::disk::SECTOR;
    use proptest::prelude::*;

    const SUBMISSIONS: u64 = 0x1000;
    const COMPLETIONS: u64 = 0x2000;
    const IO_SUBMISSIONS: u64 = 0x3000;
    const IO_COMPLETIONS: u64 = 0x4000;
    const DATA: u64 = 0x5000;
    const ENTRIES: u32 = 8;

    impl Engine {
        /// Has the admin queue have a tail, as the driver does.
        pub fn ring(&self, value: u32) {
            self.doorbells.set(0, value);
        }
    }

    /// With an admin queue.
    pub fn engine() -> Engine {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * SECTOR).unwrap();
        let disk = Disk::from_file(file).unwrap();
        let mut engine = Engine::new(disk, memory, Doorbells::new(true).unwrap());
        engine.enable((SUBMISSIONS, ENTRIES), (COMPLETIONS, ENTRIES));
        engine
    }

    /// Puts a command at the tail, rings, and takes the completion: its value and status.
    fn ask(engine: &mut Engine, queue: usize, words: &[(usize, u32)]) -> (u32, u32) {
        let (submissions, completions) = match queue {
            0 => (SUBMISSIONS, COMPLETIONS),
            _ => (IO_SUBMISSIONS, IO_COMPLETIONS),
        };
        let next = engine.doorbells.get(2 * queue);
        let mut command = [0u32; 16];
        words.iter().for_each(|&(at, value)| command[at] = value);
        for (at, word) in (0u64..).zip(command) {
            let address = submissions + u64::from(next) * COMMAND + 4 * at;
            engine
                .memory
                .write_obj(word, GuestAddress(address))
                .unwrap();
        }
        engine.doorbells.set(2 * queue, (next + 1) % ENTRIES);
        engine.serve().unwrap();
        let taken = engine.doorbells.get(2 * queue + 1);
        engine.doorbells.set(2 * queue + 1, (taken + 1) % ENTRIES);
        let entry = completions + u64::from(taken) * COMPLETION;
        let word = |at| {
            engine
                .memory
                .read_obj::<u32>(GuestAddress(entry + at))
                .unwrap()
        };
        (word(0), word(12) >> 17)
    }

    fn create_queues(engine: &mut Engine) {
        let size = 1 | (ENTRIES - 1) << 16;
        let completions = [
            (0, 5),
            (6, IO_COMPLETIONS as u32),
            (10, size),
            (11, 1 << 16 | 3),
        ];
        assert_eq!(ask(engine, 0, &completions), (0, 0));
        let submissions = [
            (0, 1),
            (6, IO_SUBMISSIONS as u32),
            (10, size),
            (11, 1 << 16 | 1),
        ];
        assert_eq!(ask(engine, 0, &submissions), (0, 0));
        assert!(engine.is_running());
    }

    #[test]
    fn queues_need_one_another() {
        let mut engine = engine();
        let submissions = [(0, 1), (10, 1 | 7 << 16), (11, 1 << 16 | 1)];
        assert_eq!(
            ask(&mut engine, 0, &submissions).1,
            Status::InvalidCompletions as u32
        );
        create_queues(&mut engine);
        for (opcode, status) in [
            (1, Status::InvalidQueue),
            (4, Status::InvalidDeletion),
            (5, Status::InvalidQueue),
        ] {
            let again = [(0, opcode), (10, 1 | 7 << 16), (11, 1 << 16 | 1)];
            assert_eq!(ask(&mut engine, 0, &again).1, status as u32);
        }
        // A queue that is new has nothing to do, whatever that before it had.
        let flush = [(0, 0)];
        assert_eq!(ask(&mut engine, 1, &flush), (0, 0));
        for opcode in [0, 1] {
            let words = [(0, opcode), (10, 1 | 7 << 16), (11, 1 << 16 | 1)];
            assert_eq!(ask(&mut engine, 0, &words), (0, 0));
        }
        assert_eq!(engine.completions[1].map(|queue| queue.ring.at), Some(1));
        for opcode in [0, 4] {
            assert_eq!(ask(&mut engine, 0, &[(0, opcode), (10, 1)]), (0, 0));
        }
        create_queues(&mut engine);
        let large = [(0, 1), (10, 1 | 64 << 16), (11, 1 << 16 | 1)];
        assert_eq!(ask(&mut engine, 0, &large).1, Status::InvalidSize as u32);
        engine.disable();
        assert!(!engine.is_running());
    }

    #[test]
    fn reads_what_was_written_many_times_around() {
        let mut engine = engine();
        create_queues(&mut engine);
        for sector in 0..60 {
            let (at, back) = (GuestAddress(DATA), GuestAddress(DATA + SECTOR));
            engine.memory.write_obj(sector, at).unwrap();
            let write = [(0, 1), (1, 1), (6, DATA as u32), (10, sector)];
            assert_eq!(ask(&mut engine, 1, &write), (0, 0));
            let read = [(0, 2), (1, 1), (6, back.0 as u32), (10, sector)];
            assert_eq!(ask(&mut engine, 1, &read), (0, 0));
            assert_eq!(engine.memory.read_obj::<u32>(back).unwrap(), sector);
        }
        let beyond = [(0, 2), (1, 1), (6, DATA as u32), (10, 64)];
        assert_eq!(ask(&mut engine, 1, &beyond).1, Status::OutOfRange as u32);
    }

    #[test]
    fn a_tail_beyond_the_queue_is_fatal() {
        let mut engine = engine();
        engine.ring(ENTRIES);
        assert!(engine.serve().is_err());
    }

    proptest! {
        #[test]
        fn survives_any_admin_commands(commands in proptest::collection::vec(
            (0..16u32, any::<[u32; 15]>()), 1..7)) {
            let mut engine = engine();
            for (slot, (opcode, words)) in (0u64..).zip(&commands) {
                let at = SUBMISSIONS + slot * COMMAND;
                engine.memory.write_obj(*opcode, GuestAddress(at)).unwrap();
                for (index, word) in (1u64..).zip(words) {
                    engine.memory.write_obj(*word, GuestAddress(at + 4 * index)).unwrap();
                }
            }
            engine.ring(commands.len() as u32);
            prop_assert!(engine.serve().is_ok());
        }
    }
}
