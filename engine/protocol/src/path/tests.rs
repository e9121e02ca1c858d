use proptest::prelude::*;

use super::*;

fn bucket() -> PathKey {
    RootKey::from([7; 32]).bucket_key("photos", 0)
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

fn check_round_trip(names: Names, plain: &str) {
    let bucket = bucket();
    let (encrypted, last) = encrypt_key(&bucket, names, &key(plain)).unwrap();
    assert_eq!(
        decrypt_key(&bucket, names, &encrypted).as_deref(),
        Ok(plain)
    );
    assert_eq!(check_encrypted_key(names, &encrypted), Ok(()));
    let walked = plain
        .split('/')
        .fold(bucket, |key, component| key.child(component.as_bytes()));
    assert_eq!(last, walked);
    if names == Names::Sealed {
        let components = plain.split('/').count();
        assert_eq!(encrypted.len(), plain.len() + 17 * components + 1);
    } else {
        assert_eq!(encrypted, plain.as_bytes());
    }
}

const WEIRD: &[&str] = &[
    "a",
    "/",
    "//",
    "///",
    "a/",
    "/a",
    "a//b",
    "a/b/",
    ".",
    "..",
    "../..",
    "./a",
    "a/../b",
    " ",
    " a ",
    "\n",
    "a\\b",
    "%2F",
    "ä/ö",
    "a\u{308}",
    "日本語/ファイル.txt",
    "🏖️/🏖️",
    "\u{feff}",
    "\u{202e}",
    "A",
    "con",
    "-",
    "a b/c d",
    "\u{1}",
    "\u{7f}",
];

#[test]
fn weird_keys_come_back() {
    for names in [Names::Sealed, Names::Plain] {
        for plain in WEIRD {
            check_round_trip(names, plain);
        }
    }
}

#[test]
fn weird_keys_are_all_different() {
    for names in [Names::Sealed, Names::Plain] {
        let mut encrypted: Vec<_> = WEIRD
            .iter()
            .map(|plain| encrypt_key(&bucket(), names, &key(plain)).unwrap().0)
            .collect();
        encrypted.sort();
        encrypted.dedup();
        assert_eq!(encrypted.len(), WEIRD.len());
    }
}

#[test]
fn rules_of_a_key_are_enforced() {
    assert_eq!(ObjectKey::parse(""), Err(KeyError::Empty));
    assert_eq!(ObjectKey::parse("a\0"), Err(KeyError::Nul { position: 1 }));
    assert_eq!(
        "a/b"
            .parse::<ObjectKey>()
            .unwrap()
            .components()
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[test]
fn both_length_limits_are_exact_and_named() {
    let long = "k".repeat(1_280);
    check_round_trip(Names::Sealed, &long);
    check_round_trip(Names::Plain, &long);
    assert_eq!(
        ObjectKey::parse(&(long.clone() + "k")),
        Err(KeyError::TooLong { len: 1_281 })
    );
    // Two-byte characters are counted in bytes.
    assert_eq!(
        ObjectKey::parse(&"ä".repeat(641)),
        Err(KeyError::TooLong { len: 1_282 })
    );

    // 200 components: 599 + 17 x 200 + 1 = 4,000 bytes encrypted.
    let full = "k".repeat(400) + &"/".repeat(199);
    check_round_trip(Names::Sealed, &full);
    assert_eq!(
        encrypt_key(&bucket(), Names::Sealed, &key(&full))
            .unwrap()
            .0
            .len(),
        4_000
    );
    let over = key(&(full.clone() + "k"));
    let error = KeyError::EncryptedTooLong {
        len: 600,
        encrypted_len: 4_001,
    };
    assert_eq!(encrypt_key(&bucket(), Names::Sealed, &over), Err(error));
    check_round_trip(Names::Plain, over.as_str());
    assert_eq!(
        check_encrypted_key(Names::Sealed, &[0; 4_001]),
        Err(KeyError::EncryptedTooLong {
            len: 0,
            encrypted_len: 4_001
        })
    );

    // 1,280 bytes in 159 components fit, in 160 they do not.
    let components = |count: usize| "/".repeat(count - 1) + &"k".repeat(1_280 - (count - 1));
    assert_eq!(
        encrypt_key(&bucket(), Names::Sealed, &key(&components(159)))
            .unwrap()
            .0
            .len(),
        3_984
    );
    let error = KeyError::EncryptedTooLong {
        len: 1_280,
        encrypted_len: 4_001,
    };
    assert_eq!(
        encrypt_key(&bucket(), Names::Sealed, &key(&components(160))),
        Err(error)
    );

    for error in [error, KeyError::TooLong { len: 1_281 }] {
        let message = error.to_string();
        assert!(
            message.contains("1280") && message.contains("4000"),
            "{message}"
        );
    }
}

#[test]
fn prefixes_are_whole_components() {
    let bucket = bucket();
    for names in [Names::Sealed, Names::Plain] {
        for (prefix, below) in [
            ("", "a/b/c"),
            ("a/", "b/c"),
            ("a/b/", "c"),
            ("/", "a"),
            ("a//", "/b"),
        ] {
            let (encrypted_prefix, from) = encrypt_prefix(&bucket, names, prefix).unwrap();
            let whole = key(&format!("{prefix}{below}"));
            let (encrypted, last) = encrypt_key(&bucket, names, &whole).unwrap();
            let rest = encrypted.strip_prefix(encrypted_prefix.as_slice()).unwrap();
            assert_eq!(decrypt_key(&from, names, rest).as_deref(), Ok(below));
            assert_eq!(
                encrypt_key(&from, names, &key(below)),
                Ok((rest.to_vec(), last))
            );
            assert_eq!(check_encrypted_prefix(names, &encrypted_prefix), Ok(()));
            assert!(fits_prefix(names, prefix, &encrypted_prefix));
        }
        for prefix in ["a", "a/b", "/a"] {
            assert_eq!(
                encrypt_prefix(&bucket, names, prefix),
                Err(KeyError::PrefixNotWhole)
            );
        }
    }
    assert_eq!(
        check_encrypted_prefix(Names::Plain, b"a"),
        Err(KeyError::PrefixNotWhole)
    );
}

#[test]
fn equal_names_under_different_parents_are_unrelated() {
    let bucket = bucket();
    let sealed = |plain: &str| encrypt_key(&bucket, Names::Sealed, &key(plain)).unwrap().0;
    // Both first components take 2 + 16 + 1 bytes.
    let (in_a, in_b, again) = (sealed("a/same"), sealed("b/same"), sealed("a/same"));
    assert_eq!(in_a, again);
    assert_ne!(in_a[..19], in_b[..19]);
    assert_ne!(in_a[21..], in_b[21..]);
    // Nor is a name equal to itself one level down, or in another bucket or epoch.
    assert_ne!(sealed("a/a")[2..19], sealed("a/a")[21..]);
    let root = RootKey::from([7; 32]);
    for other in [root.bucket_key("other", 0), root.bucket_key("photos", 1)] {
        assert_ne!(
            encrypt_key(&other, Names::Sealed, &key("a")).unwrap().0,
            sealed("a")
        );
    }
}

#[test]
fn the_key_of_one_prefix_does_not_open_its_sibling_or_its_parent() {
    let bucket = bucket();
    let (prefix, share) = encrypt_prefix(&bucket, Names::Sealed, "a/b/").unwrap();
    let (own, _) = encrypt_key(&bucket, Names::Sealed, &key("a/b/x")).unwrap();
    let (sibling, _) = encrypt_key(&bucket, Names::Sealed, &key("a/c/x")).unwrap();
    assert_eq!(
        decrypt_key(&share, Names::Sealed, &own[prefix.len()..]).as_deref(),
        Ok("x")
    );
    assert_eq!(
        decrypt_key(&share, Names::Sealed, &sibling[prefix.len()..]),
        Err(KeyError::Sealed)
    );
    // Every run of whole components of the sibling and of the parent.
    let (a, b) = (2 + 16 + 1, 2 * (2 + 16 + 1));
    for bytes in [
        &sibling[a..],
        &sibling[a..b],
        &sibling[..a],
        &sibling[..],
        &own[..a],
        &own[a..b],
    ] {
        assert_eq!(
            decrypt_key(&share, Names::Sealed, bytes),
            Err(KeyError::Sealed)
        );
    }
}

#[test]
fn listing_folds_whole_components() {
    let bucket = bucket();
    let (encrypted, _) = encrypt_key(&bucket, Names::Sealed, &key("ab/c")).unwrap();
    assert_eq!(first_component_len(Names::Sealed, &encrypted), Ok(20));
    assert_eq!(first_component_len(Names::Sealed, &encrypted[20..]), Ok(19));
    assert_eq!(
        decrypt_prefix(&bucket, Names::Sealed, &encrypted[..20]).as_deref(),
        Ok("ab/")
    );
    assert_eq!(first_component_len(Names::Plain, b"ab/c"), Ok(3));
    assert_eq!(first_component_len(Names::Plain, b"/c"), Ok(1));
    assert_eq!(first_component_len(Names::Plain, b"c"), Ok(1));
    assert_eq!(first_component_len(Names::Plain, b""), Ok(0));
    assert_eq!(
        decrypt_prefix(&bucket, Names::Plain, b"ab/").as_deref(),
        Ok("ab/")
    );
    assert_eq!(
        decrypt_prefix(&bucket, Names::Plain, b"ab"),
        Err(KeyError::PrefixNotWhole)
    );
    for bytes in [&b""[..], &[16], &[15, 0], &[16, 0, 1], &encrypted[..19]] {
        assert_eq!(
            first_component_len(Names::Sealed, bytes),
            Err(KeyError::Malformed),
            "{bytes:02x?}"
        );
    }
}

#[test]
fn what_no_client_wrote_is_refused() {
    let bucket = bucket();
    assert_eq!(
        decrypt_key(&bucket, Names::Sealed, &[]),
        Err(KeyError::Malformed)
    );
    assert_eq!(
        decrypt_key(&bucket, Names::Plain, &[0xff]),
        Err(KeyError::Malformed)
    );
    assert_eq!(
        decrypt_key(&bucket, Names::Plain, &[0]),
        Err(KeyError::Nul { position: 0 })
    );
    // Names that a holder of the key could seal, but that are no component.
    for component in [&b"a/b"[..], b"/", b"\0", &[0xff]] {
        let mut encrypted = Vec::new();
        crate::tlv::push_bytes16(&mut encrypted, &bucket.seal_name(component));
        assert_eq!(
            decrypt_key(&bucket, Names::Sealed, &encrypted),
            Err(KeyError::Malformed)
        );
    }
    let (encrypted, _) = encrypt_key(&bucket, Names::Sealed, &key("some/name")).unwrap();
    for position in 0..encrypted.len() {
        for bit in 0..8 {
            let mut altered = encrypted.clone();
            altered[position] ^= 1 << bit;
            assert!(decrypt_key(&bucket, Names::Sealed, &altered).is_err());
        }
    }
    for (bytes, error) in [
        (&b""[..], KeyError::Empty),
        (&[16, 0, 1], KeyError::Malformed),
    ] {
        assert_eq!(check_encrypted_key(Names::Sealed, bytes), Err(error));
    }
    assert_eq!(check_encrypted_prefix(Names::Sealed, b""), Ok(()));
}

#[test]
fn bucket_names_follow_the_rule() {
    for name in ["abc", "a-b", "a.b", "123", "0-0", &"a".repeat(63)] {
        assert_eq!(check_bucket_name(name), Ok(()), "{name}");
    }
    for name in [
        "",
        "ab",
        "Abc",
        "-ab",
        "ab-",
        ".ab",
        "ab.",
        "a_b",
        "a b",
        "äää",
        "a/b",
        &"a".repeat(64),
    ] {
        assert_eq!(check_bucket_name(name), Err(KeyError::BucketName), "{name}");
    }
}

#[test]
fn path_keys_are_not_printed() {
    assert_eq!(format!("{:?}", bucket()), "PathKey(<secret>)");
}

proptest! {
    #[test]
    fn every_key_comes_back(plain in "([a-c/.ä🏖 ]|[^\u{0}]){1,60}") {
        check_round_trip(Names::Sealed, &plain);
        check_round_trip(Names::Plain, &plain);
    }

    /// Below a prefix or not: sealed bytes and names agree about it.
    #[test]
    fn prefixes_of_bytes_are_prefixes_of_components(one in "[ab/]{1,8}", prefix in "([ab/]{0,4}/)?") {
        let bucket = bucket();
        let (encrypted, _) = encrypt_key(&bucket, Names::Sealed, &key(&one)).unwrap();
        let (encrypted_prefix, _) = encrypt_prefix(&bucket, Names::Sealed, &prefix).unwrap();
        // The object named as the prefix's components without the slash lies at the prefix itself.
        let is_below = one.starts_with(&prefix) || format!("{one}/") == prefix;
        prop_assert_eq!(encrypted.starts_with(&encrypted_prefix), is_below);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes: Vec<u8>, text in ".{0,40}") {
        for names in [Names::Sealed, Names::Plain] {
            let _ = decrypt_key(&bucket(), names, &bytes);
            let _ = decrypt_prefix(&bucket(), names, &bytes);
            let _ = first_component_len(names, &bytes);
            let _ = check_encrypted_key(names, &bytes);
            let _ = check_encrypted_prefix(names, &bytes);
            let _ = fits_prefix(names, &text, &bytes);
            let _ = encrypt_prefix(&bucket(), names, &text);
        }
        let _ = check_bucket_name(&text);
    }
}
