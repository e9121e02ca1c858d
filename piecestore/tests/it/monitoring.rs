//! What a monitoring system and a service manager see of a process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::world::{
    Client, Process, Satellite, Segment, block_on, piecestore, set_up, set_up_many, status,
};

/// A port that was free a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// The whole answer to one request's head.
fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn prometheus_reads_what_status_says() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let (dir, node) = set_up(root.path(), "node", &satellite.to_argument(), &[]);
        let address = free_address();
        let process = Process::start(&[&dir], &["--metrics", &address.to_string()]);
        satellite.reached(node, process.started_ms).await;
        let client = Client::connect(&satellite, node).await;
        let segment = Segment::new(4, 10, 50_000);
        client.put(&segment).await.unwrap();
        client.get(&segment).await.unwrap();
        client.get(&Segment::new(4, 10, 60_000)).await.unwrap_err();

        let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {}", text.len())),
            "{head}"
        );
        let value = |sample: &str| -> f64 {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{sample} ")));
            line.unwrap_or_else(|| panic!("{sample}\n{text}"))
                .parse()
                .unwrap()
        };
        let of_node =
            |name: &str, more: &str| value(&format!("strand_{name}{{node=\"{node}\"{more}}}"));
        assert_eq!(
            value(&format!("strand_up{{directory=\"{}\"}}", dir.display())),
            1.0
        );
        assert_eq!(of_node("reachable", ""), 1.0);
        assert_eq!(of_node("requests_total", ",verb=\"put\""), 1.0);
        assert_eq!(of_node("requests_total", ",verb=\"get\""), 2.0);
        assert_eq!(of_node("request_errors_total", ",code=\"NOT_FOUND\""), 1.0);
        let of_verb = |part, verb| {
            of_node(
                &format!("request_duration_seconds_{part}"),
                &format!(",verb=\"{verb}\""),
            )
        };
        assert_eq!(of_verb("count", "put"), 1.0);
        assert_eq!(of_verb("count", "get"), 1.0, "what failed has no time");
        assert!(of_verb("sum", "put") > 0.0);
        assert_eq!(
            of_node("piece_bytes_stored_total", ""),
            segment.body.len() as f64
        );
        let parts = [
            "live", "trash", "dead", "overhead", "padding", "header", "skipped",
        ];
        let sum: f64 = parts
            .map(|part| of_node("space_bytes", &format!(",part=\"{part}\"")))
            .iter()
            .sum();
        assert_eq!(sum, of_node("file_bytes", ""), "the space equation");
        let received = value("strand_core_bytes_received_total{core=\"0\"}");
        assert!(received > segment.body.len() as f64, "{received}");
        assert_eq!(
            value("strand_core_budget_limit_bytes{core=\"0\",budget=\"write\"}"),
            status(&dir)["write_budget"]["bytes_max"].as_f64().unwrap()
        );

        let answer = ask(address, "GET / HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        let answer = ask(address, "POST /metrics HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        // Who says nothing, or never comes to an end, keeps the next one for two seconds and no longer.
        let _silent = TcpStream::connect(address).unwrap();
        let mut endless = TcpStream::connect(address).unwrap();
        endless.write_all(&[b'a'; 9_000]).unwrap();
        let answer = ask(address, "GET /metrics?x=1 HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

        // The port is taken, which is said and not passed over.
        let (other, _) = set_up(root.path(), "other", &satellite.to_argument(), &[]);
        let output = piecestore()
            .args(["run", "--metrics", &address.to_string(), "--dir"])
            .arg(&other)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr);
        let sentence = format!("cannot answer for metrics on {address}: ");
        assert!(text.contains(&sentence), "{text}");
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
        assert!(log.contains(&format!(
            "figures for Prometheus at http://{address}/metrics"
        )));
    });
}

#[test]
fn a_service_manager_hears_when_all_nodes_have_begun_and_when_they_stop() {
    block_on(async {
        let root = tempfile::tempdir().unwrap();
        let satellite = Satellite::start().await;
        let nodes = set_up_many(root.path(), 2, &satellite);
        let path = root.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        // What came until that, that included.
        let until = |wanted: &str| {
            let began = Instant::now();
            let mut came = String::new();
            while !came.lines().any(|line| line == wanted) {
                assert!(
                    began.elapsed() < Duration::from_secs(20),
                    "{wanted}: {came}"
                );
                let mut bytes = [0; 512];
                let count = manager.recv(&mut bytes).unwrap();
                came += std::str::from_utf8(&bytes[..count]).unwrap();
            }
            came
        };
        let mut command = piecestore();
        command.env("NOTIFY_SOCKET", &path);
        let dirs: Vec<_> = nodes.iter().map(|(dir, _)| &**dir).collect();
        let mut process = Process::begin_as(command, &dirs, &[]);
        let came = until("READY=1");
        assert_eq!(came.matches("READY=1").count(), 1, "{came}");
        process.wait_until_serving(2);
        until("STATUS=2 of 2 nodes serve, 0 could not be started");
        let (ended, log) = process.stop();
        assert!(ended.success(), "{log}");
        assert!(
            !log.contains("scrub"),
            "an empty node has nothing to say: {log}"
        );
        let came = until("STOPPING=1");
        assert!(!came.contains("READY=1"), "{came}");
    });
}
