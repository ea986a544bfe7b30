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
        assert_eq!(read, std::slice::from_ref(object), "{shown}");
    }
    // One of a name, as in the store.
    let valid = objects.into_iter().filter(|object| validate(object).is_empty());
    let valid: BTreeMap<Key, _> = valid.filter_map(|object| Some((Key::of(&object)?, object))).collect();
    let stored: Vec<(Key, Stored)> = valid
        .into_iter()
        .zip(1..)
        .map(|((key, object), created)| (key, Stored { object: Arc::new(object), created }))
        .collect();
    let mesh = Mesh::build(stored.iter().map(|(_, stored)| stored));
    for (key, _) in &stored {
        assert!(mesh.faults().get(key).is_none(), "{key}: {:?}", mesh.faults().get(key));
        assert!(mesh.rejected(&key.name).is_empty(), "{key}: {:?}", mesh.rejected(&key.name));
    }
});
