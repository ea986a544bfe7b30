//! A disk that is full: writes are refused with the reason, everything else goes on, and so do writes when there is room.

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use outrigger_tests::plane::Plane;

use crate::shop::{MESH, SHOP};

/// A Service that takes as much as one may.
fn large(name: &str) -> String {
    let text = "x".repeat(250 << 10);
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{text: {text}}}}}\nspec: {{ports: [{{port: 80}}]}}\n"
    )
}

/// How large a file of the process may be: its writes fail as they do where the disk is full.
fn limit(plane: &Plane, bytes: Option<u64>) {
    let process = Pid::from_raw(plane.process.id().try_into().unwrap());
    prlimit(process, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

#[test]
fn a_write_without_room_is_refused_and_the_next_one_with_room_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let mut plane = Plane::start(MESH, directory.path());
    plane.write("shop.yaml", SHOP);
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    let size = std::fs::metadata(directory.path().join("data/outrigger.redb")).unwrap().len();
    limit(&plane, Some(size));
    let mut taken = Vec::new();
    let refused = loop {
        let name = format!("large-{}", taken.len());
        plane.write("large.yaml", &large(&name));
        match plane.run(&["apply", "-f", "large.yaml"]) {
            Ok(_) => taken.push(name),
            Err(refused) => break refused,
        }
        assert!(taken.len() < 100, "it has {size} bytes");
    };
    assert!(refused.contains("nothing was stored: ") && refused.contains("outrigger.redb: "), "{refused}");
    assert!(refused.contains("make room on its disk, then send it again"), "{refused}");
    assert!(plane.page("/metrics").contains("{method=\"Apply\",code=\"ResourceExhausted\"} 1\n"));
    // Small ones may have room, large ones have none, time and again; what is there is read.
    for _ in 0..3 {
        assert_eq!(plane.run(&["apply", "-f", "large.yaml"]).as_ref(), Err(&refused));
    }
    let names = |plane: &Plane| plane.run(&["get", "services", "-o", "name"]).unwrap();
    let before = names(&plane);
    assert_eq!(before.lines().count(), 2 + taken.len(), "{before}");

    limit(&plane, None);
    plane.run(&["apply", "-f", "large.yaml"]).unwrap();
    let after = names(&plane);
    assert_eq!(after.lines().count(), 3 + taken.len(), "{after}");
    assert!(plane.process.ended().is_none());
    drop(plane);
    let again = Plane::start(MESH, directory.path());
    assert_eq!(names(&again), after);
}
