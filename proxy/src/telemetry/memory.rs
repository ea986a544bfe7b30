//! What the kernel says of our memory, and giving back what a build of the configuration has freed.

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Resident pages that are not of a file: what we allocated and touched.
    pub allocated: u64,
    /// Data segments, touched or not.
    pub heap: u64,
    /// Resident pages in all (RSS).
    pub resident: u64,
}

/// Reads `/proc/self/status`; zeros where there is none.
pub fn read() -> MemoryUse {
    std::fs::read_to_string("/proc/self/status").map_or_else(|_| MemoryUse::default(), |text| parse(&text))
}

/// Gives freed pages back to the system. The allocator would keep the peak of a build for ever.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and locks each arena while it looks at it.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has all threads allocate from one heap. Each would have one of its own, and what one thread frees of a configuration
/// is of no use to another that builds the next one: with each push that changes much, gaps grow. For a process with one
/// worker, which waits for nobody's allocation but a builder's; several would wait for each other. To be called before
/// there are threads.
pub fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

fn parse(status: &str) -> MemoryUse {
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kibibytes.unwrap_or(0).saturating_mul(1024)
    };
    MemoryUse { allocated: bytes("RssAnon"), heap: bytes("VmData"), resident: bytes("VmRSS") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_page_is_read() {
        let text = "Name:\tcat\nVmRSS:\t    1024 kB\nRssAnon:\t     100 kB\nVmData:\t     360 kB\n";
        assert_eq!(parse(text), MemoryUse { allocated: 102_400, heap: 368_640, resident: 1_048_576 });
        assert!(read().resident > 0);
    }
}
