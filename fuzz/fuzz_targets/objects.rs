//! A text of objects, as `apply -f` reads it and the control plane takes it: no panic, what is shown of an object is read
//! back as that object, and what one object alone may say compiles.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use outrigger_control::cli;
use outrigger_control::compile::Mesh;
use outrigger_control::model::{Key, Stored, validate};

fuzz_target!(|text: &str| {
    let Ok(objects) = cli::objects("fuzz.yaml", text) else { return };
    for object in &objects {
        let shown = cli::yaml(object);
        let read = cli::objects("shown.yaml", &shown).unwrap_or_else(|reason| panic!("{reason:?}\n{shown}"));
        assert_eq!(read, [object.clone()], "{shown}");
    }
    // One of a name, as in the store.
    let valid = objects.into_iter().filter(|object| validate(object).is_empty());
    let valid: BTreeMap<Key, _> = valid.filter_map(|object| Some((Key::of(&object)?, object))).collect();
    let stored: Vec<Stored> =
        valid.into_values().zip(1..).map(|(object, created)| Stored { object: Arc::new(object), created }).collect();
    let mesh = Mesh::build(&stored, None);
    assert!(mesh.faults().is_empty(), "{:?}", mesh.faults());
    assert!(mesh.rejected().is_empty(), "{:?}", mesh.rejected());
    let again = Mesh::build(&stored, Some(&mesh));
    assert!(again.faults().is_empty() && again.rejected().is_empty());
    assert_eq!(again.statuses(), mesh.statuses());
});
