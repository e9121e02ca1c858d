//! UDP sockets with room for bursts.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use rustix::net::sockopt;

/// Room asked of the kernel for each direction of a socket.
///
/// 4 MiB hold some 2,900 datagrams of 1,452 bytes: a core that is away for 10 ms at 290,000
/// datagrams a second loses none.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Binds `address`, with large kernel buffers where the system allows them.
///
/// # Errors
///
/// If the address is taken, or not ours.
pub fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    // The forcing variants pass net.core.{r,w}mem_max but need CAP_NET_ADMIN; the others are cut
    // to that maximum. Small buffers cost speed, not correctness, so a refusal is no error.
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES));
    let _ = sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES));
    Ok(socket)
}
