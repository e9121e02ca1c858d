//! What to look at when the satellite cannot reach a node.
//!
//! It dials the node back at each check-in. Whether that came through is all that is known for sure; the rest follows from three addresses:
//! where the node listens, where it asked to be reached, and where its packets seem to come from.

use std::net::{IpAddr, SocketAddr};

/// What a node's owner should look at, most likely first; each a sentence or two.
///
/// `tried` is the `host:port` that the satellite dialled, `observed` where it saw the node's packets come from; both may be empty.
#[must_use]
pub(crate) fn advice(listen: SocketAddr, tried: &str, observed: &str) -> Vec<String> {
    let port = listen.port();
    let mut advice = Vec::new();
    let (tried_host, tried_port) = tried.rsplit_once(':').unwrap_or((tried, ""));
    let observed = observed.parse::<SocketAddr>().ok();
    if observed.is_some_and(|observed| observed.ip().to_canonical().is_loopback()) {
        advice.push(format!(
            "the satellite is on this machine, so that {tried} should be where the node listens, {listen}"
        ));
        return advice;
    }
    if listen.ip().is_loopback() {
        advice.push(format!(
            "the node listens on {listen}, which only this machine can reach: `listen = \"[::]:{port}\"` in node.toml"
        ));
        return advice;
    }
    if let Some(observed) = observed {
        let ip = observed.ip().to_canonical();
        let tried_ip = tried_host.trim_matches(['[', ']']).parse::<IpAddr>();
        if tried_ip.is_ok_and(|tried| tried.to_canonical() != ip) {
            advice.push(format!(
                "it was tried at {tried}, but its packets come from {ip}: `advertise = \"{}\"` in node.toml, or none at all, \
                 unless both addresses are this node's",
                SocketAddr::new(ip, port)
            ));
        }
        if is_of_provider(ip) {
            advice.push(format!(
                "its packets come from {ip}, an address that the provider shares between customers: no router setting helps, ask the \
                 provider for a public IPv4 address, or use IPv6"
            ));
            return advice;
        }
        if observed.port() != port {
            advice.push(format!(
                "a router stands between: packets that leave from port {port} arrive from port {}",
                observed.port()
            ));
        }
    }
    let outside = if tried_port.is_empty() {
        port.to_string()
    } else {
        tried_port.to_owned()
    };
    advice.push(format!(
        "on the router: forward UDP (not TCP) port {outside} to port {port} of this machine, whose address in the home network must not change"
    ));
    advice.push(format!(
        "on this machine: let UDP port {port} in (`ufw allow {port}/udp`, `firewall-cmd --add-port={port}/udp --permanent`, or the NAS's \
         own firewall); in a container publish it (`--publish {outside}:{port}/udp`)"
    ));
    advice
}

/// Shared between a provider's customers (RFC 6598).
fn is_of_provider(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64,
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advise(listen: &str, tried: &str, observed: &str) -> String {
        advice(listen.parse().unwrap(), tried, observed).join("\n")
    }

    #[test]
    fn each_fact_has_its_advice() {
        let router = advise("[::]:7778", "203.0.113.5:7778", "203.0.113.5:61000");
        assert!(router.contains("arrive from port 61000"), "{router}");
        assert!(
            router.contains("forward UDP (not TCP) port 7778"),
            "{router}"
        );
        assert!(router.contains("ufw allow 7778/udp"), "{router}");
        assert!(!router.contains("advertise"), "{router}");

        let direct = advise("0.0.0.0:7778", "203.0.113.5:7778", "203.0.113.5:7778");
        assert!(!direct.contains("stands between"), "{direct}");

        let moved = advise(
            "[::]:7778",
            "198.51.100.1:9000",
            "[::ffff:203.0.113.5]:7778",
        );
        assert!(
            moved.starts_with(
                "it was tried at 198.51.100.1:9000, but its packets come from 203.0.113.5"
            ),
            "{moved}"
        );
        assert!(moved.contains("port 9000 to port 7778"), "{moved}");

        let named = advise("[::]:7778", "node.example.org:7778", "203.0.113.5:7778");
        assert!(
            !named.contains("it was tried"),
            "a name is not looked up\n{named}"
        );

        let shared = advise("[::]:7778", "100.72.3.4:7778", "100.72.3.4:7778");
        assert!(shared.contains("ask the provider"), "{shared}");
        assert!(!shared.contains("on the router"), "{shared}");

        let one = advise("127.0.0.1:7778", "127.0.0.1:9", "127.0.0.1:7778");
        assert!(
            one.contains("should be where the node listens, 127.0.0.1:7778"),
            "{one}"
        );

        let local = advise("127.0.0.1:7778", "127.0.0.1:7778", "");
        assert!(local.contains("only this machine"), "{local}");
    }
}
