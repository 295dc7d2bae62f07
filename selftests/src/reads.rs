// SPDX-License-Identifier: GPL-2.0
//! Reads of a disk, several under way at a time: the kernel's asynchronous I/O, which no library
//! that is used here has.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr;

/// In bytes.
pub const BLOCK: usize = 4096;

/// What is read at once. Past the page cache its address must be aligned as well.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Block(pub [u8; BLOCK]);

/// `struct io_event` of `linux/aio_abi.h`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    more: i64,
}

/// `aio_context_t`: requests under way. Dropping it waits for them.
struct Context(libc::c_ulong);

impl Context {
    fn new(depth: usize) -> io::Result<Self> {
        let mut context = Self(0);
        // SAFETY: the kernel writes the number of a new context to where the pointer says.
        done(unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut context.0) })?;
        Ok(context)
    }

    /// # Safety
    ///
    /// The memory that the requests read to must live as long as this.
    unsafe fn submit(&self, requests: &mut [libc::iocb]) -> io::Result<()> {
        let mut pointers: Vec<_> = requests.iter_mut().map(ptr::from_mut).collect();
        let (count, pointers) = (pointers.len(), pointers.as_mut_ptr());
        // SAFETY: the kernel copies so many requests; by the contract of this function it may
        // write to where they say until it is done with them.
        let taken = done(unsafe { libc::syscall(libc::SYS_io_submit, self.0, count, pointers) })?;
        // It takes fewer only if there is something wrong with the next.
        if taken < count {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(())
    }

    /// Waits until one request or more are done.
    fn wait<'a>(&self, events: &'a mut [Event]) -> io::Result<&'a [Event]> {
        let (least, most) = (1, events.len());
        let (events_at, for_ever) = (events.as_mut_ptr(), ptr::null::<libc::timespec>());
        // SAFETY: the kernel writes no more events than there is place for.
        let count = done(unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.0,
                least,
                most,
                events_at,
                for_ever,
            )
        })?;
        Ok(&events[..count])
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is this one's. A failure has nobody to be told.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

fn done(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Reads of which so many are under way at a time. Dropping it takes long, as the kernel waits
/// until no processor uses the context.
pub struct Reads {
    // Dropped before the blocks.
    context: Context,
    blocks: Vec<Block>,
    events: Vec<Event>,
}

impl Reads {
    pub fn new(depth: usize) -> io::Result<Self> {
        Ok(Self {
            context: Context::new(depth)?,
            blocks: vec![Block([0; BLOCK]); depth],
            events: vec![Event::default(); depth],
        })
    }

    /// Reads the blocks at these offsets, in bytes.
    pub fn read(&mut self, file: &File, mut offsets: impl Iterator<Item = u64>) -> io::Result<()> {
        let mut free: Vec<usize> = (0..self.blocks.len()).collect();
        let mut under_way = 0;
        loop {
            let mut requests: Vec<_> = free
                .drain(..)
                .zip(&mut offsets)
                .map(|(slot, offset)| request(file, slot, &mut self.blocks[slot], offset))
                .collect();
            // SAFETY: the blocks live until the context has been dropped, which waits.
            unsafe { self.context.submit(&mut requests) }?;
            under_way += requests.len();
            if under_way == 0 {
                return Ok(());
            }
            for event in self.context.wait(&mut self.events)? {
                if event.result != BLOCK as i64 {
                    return Err(failure(event.result));
                }
                free.push(event.data as usize);
                under_way -= 1;
            }
        }
    }
}

fn request(file: &File, slot: usize, block: &mut Block, offset: u64) -> libc::iocb {
    const IOCB_CMD_PREAD: u16 = 0;
    // SAFETY: zeroes are a valid request.
    let mut request: libc::iocb = unsafe { mem::zeroed() };
    request.aio_data = slot as u64;
    request.aio_lio_opcode = IOCB_CMD_PREAD;
    request.aio_fildes = file.as_raw_fd() as u32;
    request.aio_buf = ptr::from_mut(block) as u64;
    request.aio_nbytes = BLOCK as u64;
    request.aio_offset = offset as i64;
    request
}

/// Of a read that gave fewer bytes, or an error.
fn failure(result: i64) -> io::Error {
    match i32::try_from(-result) {
        Ok(errno) if errno > 0 => io::Error::from_raw_os_error(errno),
        _ => io::ErrorKind::UnexpectedEof.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: usize) -> File {
        let path = std::env::temp_dir().join(format!("reads-{}-{bytes}", std::process::id()));
        let mut file = File::create_new(&path).unwrap();
        file.write_all(&vec![1; bytes]).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn reads_all_at_any_depth() {
        let file = file(4 * BLOCK);
        for depth in [1, 3, 16] {
            for count in [0u64, 1, 50] {
                let mut left = count;
                let offsets = std::iter::from_fn(|| {
                    left = left.checked_sub(1)?;
                    Some(left % 4 * BLOCK as u64)
                });
                Reads::new(depth).unwrap().read(&file, offsets).unwrap();
                assert_eq!(left, 0, "{count} at depth {depth}");
            }
        }
    }

    #[test]
    fn a_read_beyond_the_end_fails() {
        let file = file(BLOCK + 1);
        for offset in [BLOCK as u64, 8 * BLOCK as u64] {
            let mut reads = Reads::new(2).unwrap();
            let error = reads.read(&file, [offset].into_iter()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
