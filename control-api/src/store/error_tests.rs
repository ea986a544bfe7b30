//! Files that other programs, disks and people changed.

use std::path::Path;

use super::*;

/// Its file with some sets, closed.
fn file(directory: &Path) -> Vec<u8> {
    let (mut store, _) = Store::open(directory, LOG_ENTRIES).unwrap();
    for revision in 1..=50 {
        let bytes = Bytes::from(vec![u8::try_from(revision).unwrap(); 1_000]);
        let record = Record { revision, created: revision, generation: 1, created_at: 7, bytes };
        store.commit(&[Change::Put(format!("Service/default/s{revision}").into(), Arc::new(record))]).unwrap();
    }
    drop(store);
    std::fs::read(directory.join("outrigger.redb")).unwrap()
}

/// Opens a directory whose file has these bytes; what is said if that is refused.
fn refused(directory: &Path, bytes: &[u8]) -> Result<Records, String> {
    let path = directory.join("outrigger.redb");
    std::fs::write(&path, bytes).unwrap();
    let error = match Store::open(directory, LOG_ENTRIES) {
        Ok((_, records)) => return Ok(records),
        Err(error) => error.to_string(),
    };
    // All but what says which of the pages are in use.
    const HEADER: usize = 4096;
    let left = std::fs::read(&path).unwrap();
    assert!(bytes.len() == left.len() && bytes.iter().skip(HEADER).eq(left.iter().skip(HEADER)), "it was overwritten");
    assert!(error.starts_with(&format!("{}: the file is ", path.display())), "{error}");
    assert!(error.contains("put back a copy of it, or ") && error.contains("to begin with nothing"), "{error}");
    Err(error)
}

#[test]
fn a_damaged_file_is_refused_by_its_name_or_has_all_that_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let whole = file(directory.path());
    let written = refused(directory.path(), &whole).unwrap();
    assert_eq!(written.len(), 50);
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut found = 0;
    for round in 0..60 {
        let mut bytes = whole.clone();
        match round % 3 {
            0 => bytes.truncate(random(whole.len() - 1) + 1),
            1 => (0..100).for_each(|_| bytes[random(whole.len())] = u8::try_from(random(256)).unwrap()),
            _ => bytes[random(whole.len())] ^= 0xff,
        }
        match refused(directory.path(), &bytes) {
            Ok(records) => assert_eq!(records, written, "round {round}"),
            Err(_) => found += 1,
        }
    }
    assert!(found > 30, "{found}");
}

#[test]
fn the_write_before_the_last_is_not_taken_for_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let whole = file(directory.path());
    // The bit by which the database knows that the last write was whole.
    const FLAGS: usize = 9;
    let mut damaged = 0;
    for page in (1..whole.len() / 4096).map(|page| page * 4096) {
        let mut bytes = whole.clone();
        bytes[FLAGS] &= !0b100;
        bytes[page..page + 8].fill(0xff);
        damaged += usize::from(refused(directory.path(), &bytes).is_err_and(|error| error.contains("last write")));
    }
    assert!(damaged > 0);
}

#[test]
fn a_file_of_something_else_is_refused_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let text = refused(directory.path(), &[b'x'; 10_000]).unwrap_err();
    assert!(text.contains("Not a redb database"), "{text}");
}
