//! The listening addresses of the process. Sockets belong to an address, not to a version of a listener: an update that
//! keeps the address keeps them, and so does another listener that takes it over in the same step.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use outrigger_engine::config::listener::Listener;
use outrigger_engine::stream_info::Address;

use crate::listener::socket::{ListenError, ListenSocket, listen};
use crate::worker::{Command, SocketId, Workers};

/// What a listener binds. Where the kernel chooses the port, the address alone does not say which.
type Key = (Address, Option<Arc<str>>);

/// An address that is bound.
#[derive(Debug)]
struct Bound {
    id: SocketId,
    owner: Arc<str>,
    /// Where it listens, the port being the one that the kernel chose.
    address: Address,
    /// One for each worker, until the workers have them.
    sockets: Vec<ListenSocket>,
}

/// Why a listener gets no sockets.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The operating system says no.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Another listener has it.
    #[error("address: {address}: listener {owner} has this address")]
    Taken {
        /// The address.
        address: Address,
        /// Who has it.
        owner: Arc<str>,
    },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    bound: HashMap<Key, Bound>,
    next: SocketId,
}

/// The listeners that have sockets, with their addresses.
pub type Addresses = Vec<(Arc<str>, Vec<Address>)>;

fn keys(listener: &Listener) -> impl Iterator<Item = Key> {
    let addresses = listener.addresses.iter().filter(|_| listener.bind_to_port);
    addresses.map(|address| {
        let any_port = matches!(address, Address::Ip(ip) if ip.port() == 0);
        (address.clone(), any_port.then(|| listener.name.clone()))
    })
}

impl Sockets {
    /// Binds what `listener` needs and is not bound yet. `is_there` says of another listener whether it is still
    /// configured. What was bound and is not used in the end goes with the next [`Sockets::settle`].
    pub(super) fn bind(
        &mut self,
        listener: &Listener,
        workers: usize,
        is_there: impl Fn(&str) -> bool,
    ) -> Result<(), BindError> {
        for key in keys(listener) {
            if let Some(bound) = self.bound.get(&key) {
                if bound.owner != listener.name && is_there(&bound.owner) {
                    let (address, owner) = (bound.address.clone(), bound.owner.clone());
                    return Err(BindError::Taken { address, owner });
                }
                continue;
            }
            let sockets = listen(listener, &key.0, workers)?;
            let address = sockets.first().and_then(|socket| socket.local_address().ok());
            let address = address.unwrap_or_else(|| key.0.clone());
            let (id, owner) = (self.next, listener.name.clone());
            self.next += 1;
            self.bound.insert(key, Bound { id, owner, address, sockets });
        }
        Ok(())
    }

    /// Gives the workers what listeners in force need, and closes what neither they nor the `warming` ones need.
    pub(super) fn settle<'l>(
        &mut self,
        in_force: &BTreeMap<Arc<str>, Arc<Listener>>,
        warming: impl Iterator<Item = &'l Arc<Listener>>,
        workers: &Workers,
    ) {
        let mut wanted: HashSet<Key> = warming.flat_map(|listener| keys(listener)).collect();
        for listener in in_force.values() {
            for key in keys(listener) {
                if let Some(bound) = self.bound.get_mut(&key) {
                    let (id, name) = (bound.id, &listener.name);
                    if !bound.sockets.is_empty() {
                        let sockets = std::mem::take(&mut bound.sockets).into_iter();
                        let accept = |socket| Command::Accept { id, listener: name.clone(), socket };
                        workers.tell_each(sockets.map(accept));
                    } else if bound.owner != *name {
                        workers.tell(|| Command::Own { id, listener: name.clone() });
                    }
                    bound.owner = name.clone();
                }
                wanted.insert(key);
            }
        }
        self.bound.retain(|key, bound| {
            let stays = wanted.contains(key);
            if !stays && bound.sockets.is_empty() {
                workers.tell(|| Command::Close(bound.id));
            }
            stays
        });
    }

    /// The addresses of the listeners in force.
    pub(super) fn addresses(&self, in_force: &BTreeMap<Arc<str>, Arc<Listener>>) -> Addresses {
        let of = |listener: &Arc<Listener>| {
            let addresses = keys(listener).filter_map(|key| Some(self.bound.get(&key)?.address.clone())).collect();
            (listener.name.clone(), addresses)
        };
        in_force.values().filter(|listener| listener.bind_to_port).map(of).collect()
    }
}
