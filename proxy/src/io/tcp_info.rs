//! What the kernel knows of a TCP connection that tells whether the peer has got what was written.

use std::mem::size_of;
use std::os::fd::AsRawFd;

use tokio::net::TcpStream;

/// The begin of the kernel's `struct tcp_info`, up to the one field that is wanted.
#[repr(C)]
struct Info {
    /// Eight small fields, 24 of 32 bits and two rates.
    before: [u8; 120],
    /// RFC 4898 tcpEStatsAppHCThruOctetsAcked; the SYN counts as one.
    bytes_acked: u64,
}

/// Bytes of ours that the peer has acknowledged, also after a FIN or RST of the peer's. `None` where the kernel does
/// not say, or where the connection is not one that we opened.
pub(super) fn bytes_acknowledged(stream: &TcpStream) -> Option<u64> {
    let mut info = Info { before: [0; 120], bytes_acked: 0 };
    let mut length = size_of::<Info>() as libc::socklen_t;
    // SAFETY: the kernel writes `length` bytes at most, and any bytes are a valid `Info`.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    let known = result == 0 && length as usize == size_of::<Info>();
    // The SYN of ours is acknowledged on every connection that is there.
    if known { info.bytes_acked.checked_sub(1) } else { None }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::bytes_acknowledged;

    #[tokio::test]
    async fn a_peer_that_has_ended_has_acknowledged_what_came_before() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        ours.write_all(b"one").await.unwrap();
        peer.read_exact(&mut [0; 3]).await.unwrap();
        peer.shutdown().await.unwrap();
        assert_eq!(ours.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(bytes_acknowledged(&ours), Some(3), "its FIN says so at the latest");
        drop(peer);
        // Nobody is there to have it: the answer is a reset.
        ours.write_all(b"two").await.unwrap();
        while ours.write(b"!").await.is_ok() {}
        assert_eq!(bytes_acknowledged(&ours), Some(3));
    }
}
