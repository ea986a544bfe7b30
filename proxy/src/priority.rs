//! Who runs first where threads share a core: what serves requests, before what builds a configuration.
//!
//! A configuration of ten thousand clusters is half a second of work. A worker that wakes for a request would wait until
//! the builder's time slice is over, again and again. Both functions ask the scheduler for what every thread may ask for;
//! where it refuses, or does not know what is asked, all is as it was.
//!
//! It has a price. A process with one worker has one heap (`telemetry/memory.rs`), and the builder holds that heap's lock
//! while it allocates: taken off the core by others of the container then, it holds it for longer the nicer it is, and the
//! worker waits. It is the lesser evil. With 10,000 clusters, 2 cores and Linux 6.18, on a quiet machine, the 99th
//! percentile of 5,000 requests/s goes from 2.3 to 3.0-3.9 ms while a configuration is pushed, and that of 15,000/s from
//! 2.6 to 3.9-4.6 ms; with equal priority to 5.6-6.7 ms. By the scheduler's trace the worker waits for more than 1 ms
//! twice in 12 s.

use std::mem::size_of;

/// What is added to the nice value of the thread that builds. One worker that has all it asks for leaves it a tenth of a
/// core, so that a configuration comes into force on a machine without idle time too.
pub(crate) const NICER: libc::c_int = 10;

/// The least time slice that the kernel has, in nanoseconds.
const SLICE: u64 = 100_000;

/// The thread that calls gives way to the others, for good: so do all threads that it starts.
pub(crate) fn give_way(nicer: libc::c_int) {
    // SAFETY: takes no pointer. The value is this thread's on Linux.
    unsafe {
        libc::nice(nicer);
    }
}

/// The thread that calls gets the core soon when it wakes, for a short while each time: its share stays what it was.
/// From Linux 6.12 on; before, or where a sandbox refuses it, the slice of an ordinary thread is not its own.
pub(crate) fn wake_soon() {
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: all of it are integers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes `size` bytes at most; 0 is the thread that calls.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if read != 0 || attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return;
    }
    attributes.sched_runtime = SLICE;
    // SAFETY: the kernel reads as many bytes as `attributes.size` says, which it has written itself.
    unsafe {
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nice value of the thread that calls, and its time slice as far as the kernel tells.
    fn attributes() -> (i32, u64) {
        // SAFETY: as above.
        unsafe {
            let mut attributes: libc::sched_attr = std::mem::zeroed();
            let size = size_of::<libc::sched_attr>() as libc::c_uint;
            assert_eq!(libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0), 0);
            (attributes.sched_nice, attributes.sched_runtime)
        }
    }

    #[test]
    fn who_gives_way_is_nicer_and_nobody_else_is() {
        let before = attributes();
        let nicer = std::thread::spawn(|| {
            give_way(NICER);
            attributes()
        });
        // The least priority that there is.
        assert_eq!(nicer.join().unwrap().0, (before.0 + NICER).min(19));
        assert_eq!(attributes(), before);
    }

    #[test]
    fn a_short_slice_changes_neither_share_nor_others() {
        let before = attributes();
        let woken = std::thread::spawn(|| {
            wake_soon();
            attributes()
        });
        let (nice, slice) = woken.join().unwrap();
        assert_eq!(nice, before.0);
        // A kernel without slices of their own says what it said.
        assert!(slice == SLICE || slice == before.1, "{slice}");
        assert_eq!(attributes(), before);
    }
}
