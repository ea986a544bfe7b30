//! Lists come page by page (AIP-158), of 2 MiB: clients of gRPC take 4 MB of a message if nobody tells them otherwise, and
//! what a list costs does not depend on the mesh.
//!
//! A page begins behind the last object of the one before, in the set that is in force then. No set is kept for whoever
//! may come back: the revision is that of the first page, and a watch from there tells what changed between the pages.

use outrigger_proto::outrigger::control::v1::{ListResponse, Object};
use prost::Message as _;
use tonic::Status;

use super::{Selection, objects};
use crate::model::{Key, Name};

/// The bytes of the objects of a page, unless one alone has more.
const MOST: usize = 2 << 20;

/// A page that is made.
pub(super) struct Page {
    objects: Vec<Object>,
    bytes: usize,
    /// How many objects it may have.
    most: usize,
    last: Option<Key>,
    /// Others come after it.
    is_full: bool,
}

impl Page {
    pub(super) fn new(most: usize) -> Self {
        Self { objects: Vec::new(), bytes: 0, most, last: None, is_full: false }
    }

    /// Adds the next object, if it has place.
    pub(super) fn add(&mut self, key: &Key, object: Object) -> bool {
        let bytes = self.bytes.saturating_add(object.encoded_len());
        self.is_full = !self.objects.is_empty() && (self.objects.len() >= self.most || bytes > MOST);
        if !self.is_full {
            self.bytes = bytes;
            self.objects.push(object);
            self.last = Some(key.clone());
        }
        !self.is_full
    }

    /// The page, of a list that began at the revision.
    pub(super) fn response(self, revision: u64) -> ListResponse {
        let last = self.last.filter(|_| self.is_full);
        let next_page_token = last.map(|last| format!("{revision}/{}", objects::store_key(&last))).unwrap_or_default();
        ListResponse { objects: self.objects, revision, next_page_token }
    }
}

/// The revision at which a list of the selection began, and the last object of the page before. `newest`: the revision in
/// force.
pub(super) fn read(token: &str, selection: &Selection, newest: u64) -> Result<(u64, Key), Status> {
    let read = || {
        let mut parts = token.split('/');
        let revision = parts.next()?.parse().ok()?;
        let (kind, namespace, name) = (objects::kind(parts.next()?)?, parts.next()?, parts.next()?);
        parts.next().is_none().then(|| (revision, Key { kind, name: Name::new(namespace, name) }))
    };
    read().filter(|(revision, last)| *revision <= newest && selection.holds(last)).ok_or_else(|| {
        Status::invalid_argument(format!(
            "page_token {token:?}: send the next_page_token of the page before, with the same kind and namespace, or none"
        ))
    })
}
