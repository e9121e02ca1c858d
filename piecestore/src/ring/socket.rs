//! Opening a UDP socket for QUIC: segmentation, ECN, packet info, no fragmentation, big buffers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What we ask the kernel to buffer in each direction. It may give less (`net.core.rmem_max`).
const SOCKET_BUFFER_BYTES: i32 = 4 << 20;

/// An open socket and where it is bound.
#[derive(Debug)]
pub(super) struct UdpSocket {
    pub(super) fd: OwnedFd,
    pub(super) local: SocketAddr,
}

impl UdpSocket {
    /// Binds to `address`; port 0 takes any.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        let fd = OwnedFd::from(socket);
        set_options(fd.as_fd(), local.is_ipv4())?;
        Ok(Self { fd, local })
    }
}

fn set_options(fd: BorrowedFd<'_>, is_ipv4: bool) -> io::Result<()> {
    // IPv4 options hold on IPv6 sockets too, for mapped addresses. Those that only tell us more
    // (ECN, GRO, larger buffers) may fail; those that answers or MTU discovery rest on may not.
    let _ = set(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
    let _ = set(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
    set(
        fd,
        libc::IPPROTO_IP,
        libc::IP_MTU_DISCOVER,
        libc::IP_PMTUDISC_PROBE,
    )?;
    if is_ipv4 {
        set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    } else {
        set(
            fd,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        )?;
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        let _ = set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1);
    }
    for (forced, plain) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        // Beyond the system's limit only root may go.
        if set(fd, libc::SOL_SOCKET, forced, SOCKET_BUFFER_BYTES).is_err() {
            let _ = set(fd, libc::SOL_SOCKET, plain, SOCKET_BUFFER_BYTES);
        }
    }
    Ok(())
}

fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and `value` is an int as these options take.
    let status = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
