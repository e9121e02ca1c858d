use super::*;

fn config() -> Config {
    let id = NodeId::from([7; 32]);
    Config {
        node_id: id,
        satellite: format!("{}@sat.example.org:7777", NodeId::from([9; 32]))
            .parse()
            .unwrap(),
        capacity: "2TB".parse().unwrap(),
        listen: "0.0.0.0:7778".parse().unwrap(),
        advertise: Some("[2001:db8::1]:7778".parse().unwrap()),
        spinning: Some(true),
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("node.toml"), text)
}

#[test]
fn settings_come_back_as_written() {
    let config = config();
    assert_eq!(parse(&config.to_string()).unwrap(), config);
    let plain = Config {
        advertise: None,
        spinning: None,
        ..config
    };
    assert_eq!(parse(&plain.to_string()).unwrap(), plain);
}

#[test]
fn a_directory_is_never_set_up_twice() {
    let directory = tempfile::tempdir().unwrap();
    config().create(directory.path()).unwrap();
    assert!(matches!(
        config().create(directory.path()),
        Err(ConfigError::Io { what: "create", .. })
    ));
    assert_eq!(Config::load(directory.path()).unwrap(), config());
}

#[test]
fn newer_versions_are_refused_before_their_settings_are_judged() {
    let error = parse("version = 2\nfrobnicate = 1\n").unwrap_err();
    assert!(
        matches!(error, ConfigError::NewerVersion { version: 2, .. }),
        "{error}"
    );
}

#[test]
fn every_mistake_is_named_with_its_line() {
    let good = config().to_string();
    for (text, message) in [
        ("frob = 1\n", "node.toml, line 1: unknown setting `frob`"),
        (
            "version = 1\nversion = 1\n",
            "node.toml, line 2: `version` is set twice",
        ),
        ("version 1", "node.toml, line 1: not `key = value`"),
        (
            "\nlisten = \"0.0.0.0:1",
            "node.toml, line 2: a quote is not closed",
        ),
        (
            "version = \"1\" x",
            "node.toml, line 1: something follows the value",
        ),
        ("version = 1", "node.toml: `node_id` is missing"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), message);
    }
    assert!(
        parse(&good.replace("2TB", "2 giraffes"))
            .unwrap_err()
            .to_string()
            .contains("is not a size")
    );
    assert!(
        parse(&good.replace("version = 1\n", ""))
            .unwrap_err()
            .to_string()
            .contains("`version` is missing")
    );
}

#[test]
fn sizes_are_read_as_people_write_them() {
    for (text, bytes) in [
        ("0", 0),
        ("500000000", 500_000_000),
        ("2TB", 2_000_000_000_000),
        ("2 tb", 2_000_000_000_000),
        ("1.5TiB", 3 << 39),
        ("0.25kb", 250),
        ("64MiB", 64 << 20),
        ("10B", 10),
        ("16PiB", 16 << 50),
    ] {
        assert_eq!(parse_size(text), Some(bytes), "{text}");
    }
    for text in [
        "",
        "TB",
        "1.TB",
        ".5TB",
        "-1TB",
        "1e3",
        "99999999PB",
        "2T B",
        "1.0000000001TB",
        "2XB",
    ] {
        assert_eq!(parse_size(text), None, "{text}");
    }
}

#[test]
fn sizes_print_exactly() {
    for text in ["2TB", "3TiB", "64MiB", "123456789", "1500GB"] {
        let capacity: Capacity = text.parse().unwrap();
        assert_eq!(capacity.to_string().parse(), Ok(capacity));
    }
    assert_eq!("2000GB".parse::<Capacity>().unwrap().to_string(), "2TB");
    assert_eq!(
        "1MB".parse::<Capacity>(),
        Err(ValueError::CapacityTooSmall(Capacity(1_000_000)))
    );
}

#[test]
fn hosts_need_a_name_and_a_port() {
    for text in ["127.0.0.1:7778", "[::1]:7778", "nas.local:1", "a_b-c:65535"] {
        assert!(text.parse::<HostPort>().is_ok(), "{text}");
    }
    for text in [
        "",
        "nas",
        "nas:",
        "nas:0",
        "127.0.0.1:0",
        ":7778",
        "nas:65536",
        "a b:1",
        "http://nas:1",
        "::1:7778x",
    ] {
        assert!(text.parse::<HostPort>().is_err(), "{text}");
    }
}
