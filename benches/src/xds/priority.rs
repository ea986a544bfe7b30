//! Who of the bench's own threads runs first. They share the machine with the proxy that is measured: what they compute is
//! not to be taken for its delay, nor what they wait for the core. Where the scheduler refuses, all is as it was.

use std::mem::size_of;

/// What is added to the nice value of a thread that computes.
const NICER: libc::c_int = 10;

/// The least time slice that the kernel has, in nanoseconds.
const SLICE: u64 = 100_000;

/// The thread that calls gives way to all others.
pub(super) fn give_way() {
    // SAFETY: takes no pointer. The value is this thread's on Linux.
    unsafe {
        libc::nice(NICER);
    }
}

/// The thread that calls gets the core soon when it wakes, from Linux 6.12 on.
pub(super) fn wake_soon() {
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: all of it are integers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes `size` bytes at most, and reads as many as it wrote; 0 is the thread that calls.
    unsafe {
        if libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) == 0 {
            attributes.sched_runtime = SLICE;
            libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
        }
    }
}
