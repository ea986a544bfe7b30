//! The listening addresses of the process. Sockets belong to an address, not to a version of a listener: an update that
//! keeps the address keeps them, and so does another listener that takes it over in the same step.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use outrigger_engine::config::listener::Listener;
use outrigger_engine::stream_info::Address;

use crate::listener::socket::{ListenError, ListenSocket, SocketSettings, bind, listen};
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
    settings: SocketSettings,
    /// One for each worker, until the workers have them.
    sockets: Vec<ListenSocket>,
    /// Those of a listener that wants other settings: bound, and not listening before it is in force.
    next: Option<Next>,
}

#[derive(Debug)]
struct Next {
    settings: SocketSettings,
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

impl Bound {
    /// The new sockets take over; what waits in the old ones is served, then they close.
    fn exchange(&mut self, next: Next, id: &mut SocketId, workers: &Workers) {
        let Next { settings, sockets } = next;
        for socket in &sockets {
            if let Err(error) = socket.listen(settings) {
                tracing::warn!(target: "config", "listener {}: {}: its sockets stay: {error}", self.owner, self.address);
                return;
            }
        }
        if self.sockets.is_empty() {
            let old = self.id;
            workers.tell(|| Command::Close(old));
            self.id = *id;
            *id = id.wrapping_add(1);
        }
        self.settings = settings;
        self.sockets = sockets;
    }
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
            let settings = SocketSettings::new(listener, &key.0);
            if let Some(bound) = self.bound.get_mut(&key) {
                if bound.owner != listener.name && is_there(&bound.owner) {
                    let (address, owner) = (bound.address.clone(), bound.owner.clone());
                    return Err(BindError::Taken { address, owner });
                }
                bound.next = match bound.settings == settings {
                    true => None,
                    false => Some(Next { settings, sockets: bind(listener, &bound.address, workers)? }),
                };
                continue;
            }
            let sockets = listen(listener, &key.0, workers)?;
            let address = sockets.first().and_then(|socket| socket.local_address().ok());
            let address = address.unwrap_or_else(|| key.0.clone());
            let (id, owner) = (self.next, listener.name.clone());
            self.next = self.next.wrapping_add(1);
            self.bound.insert(key, Bound { id, owner, address, settings, sockets, next: None });
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
                    let settings = SocketSettings::new(listener, &key.0);
                    if let Some(next) = bound.next.take_if(|next| next.settings == settings) {
                        bound.exchange(next, &mut self.next, workers);
                    }
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

#[cfg(test)]
mod tests {
    use outrigger_engine::config::report::Report;
    use outrigger_proto::envoy::config::core::v3 as core;
    use outrigger_proto::envoy::config::listener::v3 as pb;
    use outrigger_proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
    use outrigger_proto::prost::{Message, Name};
    use outrigger_proto::prost_types::Any;
    use tokio::sync::mpsc;

    use super::*;

    fn listener(change: impl FnOnce(&mut pb::Listener)) -> Arc<Listener> {
        let address = core::SocketAddress {
            address: "127.0.0.1".into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
            ..Default::default()
        };
        let proxy = tcp::TcpProxy {
            stat_prefix: "t".into(),
            cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster("c".into())),
            ..Default::default()
        };
        let config = Any {
            type_url: format!("type.googleapis.com/{}", tcp::TcpProxy::full_name()),
            value: proxy.encode_to_vec(),
        };
        let filter = pb::Filter { name: "tcp".into(), config_type: Some(pb::filter::ConfigType::TypedConfig(config)) };
        let mut message = pb::Listener {
            name: "in".into(),
            address: Some(core::Address { address: Some(core::address::Address::SocketAddress(address)) }),
            filter_chains: vec![pb::FilterChain { filters: vec![filter], ..Default::default() }],
            ..Default::default()
        };
        change(&mut message);
        let report = Report::new();
        let converted = Listener::convert(message, &report.root());
        Arc::new(converted.unwrap_or_else(|| panic!("{:?}", report.into_parts().0)))
    }

    fn in_force(listener: &Arc<Listener>) -> BTreeMap<Arc<str>, Arc<Listener>> {
        BTreeMap::from([(listener.name.clone(), listener.clone())])
    }

    /// What the only worker is told: what happens to which socket.
    fn told(commands: &mut mpsc::UnboundedReceiver<Command>) -> (Vec<String>, Vec<ListenSocket>) {
        let (mut told, mut sockets) = (Vec::new(), Vec::new());
        while let Ok(command) = commands.try_recv() {
            match command {
                Command::Accept { id, socket, .. } => {
                    told.push(format!("accept {id}"));
                    sockets.push(socket);
                }
                Command::Close(id) => told.push(format!("close {id}")),
                other => told.push(format!("{other:?}")),
            }
        }
        (told, sockets)
    }

    #[test]
    fn other_settings_mean_other_sockets_on_the_same_port() {
        let (workers, mut receivers) = Workers::new(1);
        let commands = &mut receivers[0];
        let mut sockets = Sockets::default();
        let first = listener(|_| {});
        sockets.bind(&first, 1, |_| true).unwrap();
        sockets.settle(&in_force(&first), [].iter(), &workers);
        let (was_told, old) = told(commands);
        assert_eq!(was_told, ["accept 0"]);
        let address = old[0].local_address().unwrap();

        let free = listener(|message| {
            message.freebind = Some(true);
            message.tcp_backlog_size = Some(7);
        });
        sockets.bind(&free, 1, |_| true).unwrap();
        sockets.settle(&in_force(&first), [&free].into_iter(), &workers);
        assert_eq!(told(commands).0, [""; 0], "not before it is in force");
        sockets.settle(&in_force(&free), [].iter(), &workers);
        let (was_told, new) = told(commands);
        assert_eq!(was_told, ["close 0", "accept 1"]);
        assert_eq!(new[0].local_address().unwrap(), address);
        let ListenSocket::Tcp(socket) = &new[0] else { panic!() };
        assert!(socket2::SockRef::from(socket).freebind_v4().unwrap());

        sockets.bind(&free, 1, |_| true).unwrap();
        sockets.settle(&in_force(&free), [].iter(), &workers);
        assert_eq!(told(commands).0, [""; 0], "the same again changes nothing");
    }

    #[test]
    fn what_never_came_into_force_leaves_nothing() {
        let (workers, mut receivers) = Workers::new(1);
        let mut sockets = Sockets::default();
        let first = listener(|_| {});
        sockets.bind(&first, 1, |_| true).unwrap();
        sockets.settle(&in_force(&first), [].iter(), &workers);
        let (_, old) = told(&mut receivers[0]);
        let other = listener(|message| message.tcp_backlog_size = Some(7));
        sockets.bind(&other, 1, |_| true).unwrap();
        // Only the old one listens, so it gets every connection.
        let Address::Ip(address) = old[0].local_address().unwrap() else { panic!() };
        let ListenSocket::Tcp(socket) = &old[0] else { panic!() };
        for _ in 0..20 {
            let client = std::net::TcpStream::connect(address).unwrap();
            assert_eq!(socket.accept().unwrap().1, client.local_addr().unwrap());
        }
        sockets.bind(&first, 1, |_| true).unwrap();
        sockets.settle(&in_force(&first), [].iter(), &workers);
        assert_eq!(told(&mut receivers[0]).0, [""; 0]);
    }
}
