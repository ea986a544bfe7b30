//! Who runs first where threads share a core: what serves requests, before what builds a configuration.
//!
//! A configuration of ten thousand clusters is half a second of work. With equal rights to a core, a worker that wakes
//! for a request would wait until the builder's time slice is over, again and again. Both functions ask the scheduler
//! for something that every thread may ask for; where it refuses, or does not know what is asked, all is as it was.

use std::mem::size_of;

/// What is added to the nice value of the thread that builds. One worker that has all it asks for leaves it a quarter of
/// a core, so that a configuration comes into force on a machine without idle time too.
const NICER: libc::c_int = 5;

/// The least time slice that the kernel has, in nanoseconds.
const SLICE: u64 = 100_000;

/// The thread that calls gives way to the others.
pub(crate) fn lower() {
    // SAFETY: takes no pointer. The value is this thread's on Linux.
    unsafe {
        libc::nice(NICER);
    }
}

/// The thread that calls gets the core soon when it wakes, for a short while each time: its share stays what it was.
/// From Linux 6.12 on; before, the slice of an ordinary thread is not its own.
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

    /// The nice value of the thread that calls.
    fn nice() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(16).unwrap().parse().unwrap()
    }

    /// The time slice of the thread that calls, as far as the kernel tells.
    fn slice() -> u64 {
        // SAFETY: as above.
        unsafe {
            let mut attributes: libc::sched_attr = std::mem::zeroed();
            let size = size_of::<libc::sched_attr>() as libc::c_uint;
            assert_eq!(libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0), 0);
            attributes.sched_runtime
        }
    }

    #[test]
    fn only_the_thread_itself_gives_way() {
        let before = nice();
        let lowered = std::thread::spawn(|| {
            lower();
            nice()
        });
        assert_eq!(lowered.join().unwrap(), (before + NICER).min(19));
        assert_eq!(nice(), before);
    }

    #[test]
    fn a_short_slice_changes_neither_share_nor_others() {
        let before = (nice(), slice());
        let woken = std::thread::spawn(|| {
            wake_soon();
            (nice(), slice())
        });
        let (nice_then, slice_then) = woken.join().unwrap();
        assert_eq!(nice_then, before.0);
        // A kernel without slices of their own says what it said.
        assert!(slice_then == SLICE || slice_then == before.1, "{slice_then}");
        assert_eq!((nice(), slice()), before);
    }
}
