use proptest::prelude::*;

use super::*;
use crate::macaroon::{Action, Denied, Operation};
use crate::path::decrypt_key;

const SECRET: &[u8; 32] = &[0x42; 32];

fn invitation() -> Invitation {
    let project = ProjectId::from([1; 16]);
    Invitation {
        address: "satellite.example:7777".into(),
        satellite: NodeId::of_public_key(&[3; 32]),
        macaroon: Macaroon::mint(SECRET, project, [2; 16]),
        salt: [4; 32],
        project,
        project_name: "holiday pictures".into(),
    }
}

/// As [`Grant::from_invitation`] makes it, without the work.
fn grant() -> Grant {
    let Invitation {
        address,
        satellite,
        macaroon,
        salt,
        project,
        ..
    } = invitation();
    let root = Some(RootKey::from([5; 32]));
    Grant {
        address,
        satellite,
        macaroon,
        salt,
        project,
        params: KdfParams::DEFAULT,
        keys: Vec::new(),
        root,
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

#[test]
fn invitations_and_grants_come_back_from_their_text() {
    let text = invitation().to_text();
    assert!(
        text.starts_with("strand-invite1-")
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    );
    assert_eq!(Invitation::from_text(&text), Ok(invitation()));
    assert_eq!(
        Invitation::from_text(&format!("\n {text}\r\n")),
        Ok(invitation())
    );

    let restricted = grant()
        .restrict("photos", Names::Sealed, "a/b/", Operations::READ, Some(9))
        .unwrap();
    for grant in [grant(), restricted] {
        let text = grant.to_text();
        assert!(text.starts_with("strand-grant1-"));
        let read = Grant::from_text(&text).unwrap();
        assert_eq!(read, grant);
        assert_eq!(read.to_text(), text);
    }
}

#[test]
fn a_grant_comes_from_invitation_and_passphrase() {
    let grant = Grant::from_invitation(&invitation(), "correct horse", KdfParams::DEFAULT).unwrap();
    let root = RootKey::derive("correct horse", &[4; 32], KdfParams::DEFAULT).unwrap();
    assert_eq!(grant.root, Some(root));
    assert_eq!(grant.macaroon, invitation().macaroon);
    let weak = Grant::from_invitation(&invitation(), "short", KdfParams::DEFAULT);
    assert_eq!(weak, Err(PassphraseError::Short { chars: 5 }.into()));
}

#[test]
fn damage_is_named() {
    let grant = grant().to_text();
    let invitation = invitation().to_text();
    let message = |text: &str| Grant::from_text(text).unwrap_err().to_string();
    assert_eq!(
        message(&invitation),
        "access grant does not begin with strand-grant1-"
    );
    assert_eq!(
        message("hello"),
        "access grant does not begin with strand-grant1-"
    );
    assert_eq!(
        message("strand-grant2-aaaa"),
        "access grant is of a newer version than strand-grant1-: update this program"
    );
    let mut altered = grant.clone();
    let replacement = if &grant[50..51] == "a" { "b" } else { "a" };
    altered.replace_range(50..51, replacement);
    assert_eq!(
        message(&altered),
        "access grant is damaged: its check does not fit (was a character changed or lost?)"
    );
    altered.replace_range(50..51, "!");
    assert_eq!(
        message(&altered),
        "access grant is damaged: the character at 50 cannot be there"
    );
    assert_eq!(
        Invitation::from_text(&grant).unwrap_err().to_string(),
        "invitation does not begin with strand-invite1-"
    );
}

#[test]
fn every_changed_or_lost_character_is_refused() {
    let text = grant()
        .restrict("photos", Names::Sealed, "a/", Operations::READ, None)
        .unwrap()
        .to_text();
    for position in 0..text.len() {
        let mut altered = text.clone();
        let replacement = if &text[position..=position] == "a" {
            "b"
        } else {
            "a"
        };
        altered.replace_range(position..=position, replacement);
        assert!(
            matches!(Grant::from_text(&altered), Err(TokenError::Text { .. })),
            "{position}"
        );
        altered.remove(position);
        assert!(
            matches!(Grant::from_text(&altered), Err(TokenError::Text { .. })),
            "{position}"
        );
        assert!(Grant::from_text(&text[..position]).is_err());
    }
}

/// A grant text with these fields, its check right.
fn forged(change: impl FnOnce(&mut Vec<(u16, Vec<u8>)>)) -> Result<Grant, TokenError> {
    let grant = grant();
    let params = [3u32, 65_536, 4].map(u32::to_le_bytes).concat();
    let mut fields = vec![
        (1, grant.address.clone().into_bytes()),
        (2, grant.satellite.as_bytes().to_vec()),
        (3, grant.macaroon.as_bytes().to_vec()),
        (4, grant.salt.to_vec()),
        (5, grant.project.as_bytes().to_vec()),
        (6, params),
        (7, Vec::new()),
        (8, vec![5; 32]),
    ];
    change(&mut fields);
    let mut bytes = GRANT_MAGIC.to_vec();
    for (kind, value) in fields {
        crate::tlv::push_field(&mut bytes, kind, &value);
    }
    Grant::from_text(&text::encode(GRANT_PREFIX, &bytes))
}

#[test]
fn a_right_check_does_not_excuse_wrong_fields() {
    assert_eq!(forged(|_| ()), Ok(grant()));
    assert_eq!(
        forged(|fields| fields.push((0x8009, vec![1]))),
        Ok(grant()),
        "unknown optional fields are skipped"
    );
    let kind = "access grant";
    let structure = |error| Err(TokenError::Structure { kind, error });
    for field in 1..=7u16 {
        let missing = forged(|fields| fields.retain(|(kind, _)| *kind != field));
        assert_eq!(missing, structure(TlvError::Missing { kind: field }));
    }
    assert_eq!(forged(|fields| fields.truncate(7)), Err(TokenError::NoKey));
    assert_eq!(
        forged(|fields| fields.push((9, vec![]))),
        structure(TlvError::Unknown { kind: 9 })
    );
    assert_eq!(
        forged(|fields| fields[7].1.push(0)),
        structure(TlvError::Length { kind: 8, len: 33 })
    );
    assert_eq!(
        forged(|fields| fields[4].1[0] ^= 1),
        Err(TokenError::Project { kind })
    );
    assert!(matches!(
        forged(|fields| fields[2].1.push(0)),
        Err(TokenError::Macaroon { .. })
    ));
    for address in [
        "",
        "host",
        "host:",
        ":1",
        "host:0",
        "host:65536",
        "host:+1",
        "ho st:1",
        "host:1\n",
    ] {
        let altered = forged(|fields| fields[0].1 = address.into());
        assert_eq!(
            altered,
            structure(TlvError::Value { kind: 1 }),
            "{address:?}"
        );
    }
    assert!(forged(|fields| fields[0].1 = b"[2001:db8::1]:7777".to_vec()).is_ok());
    for params in [[2, 65_536, 4], [3, 65_535, 4], [3, 65_536, 0]] {
        let altered = forged(|fields| fields[5].1 = params.map(u32::to_le_bytes).concat());
        assert!(
            matches!(altered, Err(TokenError::Kdf(PassphraseError::Weak { .. }))),
            "{params:?}"
        );
    }
    let altered = forged(|fields| fields[5].1 = [3, u32::MAX, 4].map(u32::to_le_bytes).concat());
    assert!(matches!(
        altered,
        Err(TokenError::Kdf(PassphraseError::Costly { .. }))
    ));
}

#[test]
fn keys_that_are_no_keys_are_refused() {
    let good = grant()
        .restrict("photos", Names::Sealed, "a/", Operations::READ, None)
        .unwrap()
        .keys
        .remove(0);
    let encode = |key: &GrantKey| {
        let mut value = Vec::new();
        push_bytes8(&mut value, key.bucket.as_bytes());
        push_bytes16(&mut value, key.plain_prefix.as_bytes());
        push_bytes16(&mut value, &key.encrypted_prefix);
        value.extend_from_slice(key.key.as_bytes());
        value.extend_from_slice(&key.epoch.to_le_bytes());
        value
    };
    let read = forged(|fields| fields[6].1 = encode(&good)).unwrap();
    assert_eq!(read.keys.first(), Some(&good));
    let bad = [
        GrantKey {
            bucket: "No".into(),
            ..good.clone()
        },
        GrantKey {
            plain_prefix: "a".into(),
            ..good.clone()
        },
        GrantKey {
            plain_prefix: "ab/".into(),
            ..good.clone()
        },
        GrantKey {
            plain_prefix: String::new(),
            ..good.clone()
        },
        GrantKey {
            encrypted_prefix: Vec::new(),
            ..good.clone()
        },
        GrantKey {
            encrypted_prefix: b"b/".to_vec(),
            ..good.clone()
        },
    ];
    for key in bad {
        let read = forged(|fields| fields[6].1 = encode(&key));
        let error = TlvError::Value { kind: 7 };
        assert_eq!(
            read,
            Err(TokenError::Structure {
                kind: "access grant",
                error
            }),
            "{key:?}"
        );
    }
    let cut = forged(|fields| fields[6].1 = encode(&good)[1..].to_vec());
    assert!(matches!(cut, Err(TokenError::Structure { .. })));
}

#[test]
fn a_narrowed_grant_sees_the_same_objects_below_its_prefix_and_no_others() {
    for names in [Names::Sealed, Names::Plain] {
        for prefix in ["", "a/", "a/b/", "/"] {
            let wide = grant();
            let narrow = wide
                .restrict("photos", names, prefix, Operations::READ, None)
                .unwrap();
            assert!(narrow.root.is_none());
            for below in ["x", "x/y", "/", "b/c/d"] {
                let name = key(&format!("{prefix}{below}"));
                assert_eq!(
                    narrow.path_key("photos", names, &name),
                    wide.path_key("photos", names, &name)
                );
                let list = format!("{prefix}{below}/");
                assert_eq!(
                    narrow.list_prefix("photos", names, &list),
                    wide.list_prefix("photos", names, &list)
                );
            }
            assert_eq!(
                narrow.list_prefix("photos", names, prefix),
                wide.list_prefix("photos", names, prefix)
            );
            assert_eq!(
                narrow.path_key("other", names, &key("a/b/c")),
                Err(GrantError::NotCovered)
            );
        }
        let narrow = grant()
            .restrict("photos", names, "a/b/", Operations::READ, None)
            .unwrap();
        for outside in ["a/c", "a", "a/b", "b", "a/bb/c"] {
            assert_eq!(
                narrow.path_key("photos", names, &key(outside)),
                Err(GrantError::NotCovered)
            );
        }
        for outside in ["", "a/", "a/c/"] {
            assert_eq!(
                narrow.list_prefix("photos", names, outside),
                Err(GrantError::NotCovered)
            );
            let wider = narrow.restrict("photos", names, outside, Operations::ALL, None);
            assert_eq!(wider, Err(GrantError::NotCovered));
        }
    }
}

#[test]
fn an_object_named_as_the_prefix_itself_is_covered() {
    for names in [Names::Sealed, Names::Plain] {
        let narrow = grant()
            .restrict("photos", names, "a/", Operations::READ, None)
            .unwrap();
        let expected = grant().path_key("photos", names, &key("a/")).unwrap();
        assert_eq!(narrow.path_key("photos", names, &key("a/")), Ok(expected));
    }
}

#[test]
fn a_narrowed_grant_narrows_further_and_carries_all_caveats() {
    let first = grant()
        .restrict(
            "photos",
            Names::Sealed,
            "a/",
            Operations::READ | Operations::LIST,
            Some(1_000),
        )
        .unwrap();
    let second = first
        .restrict(
            "photos",
            Names::Sealed,
            "a/b/",
            Operations::ALL,
            Some(2_000),
        )
        .unwrap();
    let second = Grant::from_text(&second.to_text()).unwrap();
    let object = key("a/b/c");
    let (encrypted, _) = second.path_key("photos", Names::Sealed, &object).unwrap();
    let (outside, _) = first
        .path_key("photos", Names::Sealed, &key("a/c"))
        .unwrap();
    let authorize = |operation, key: &[u8], now_ms| {
        let action = Action {
            operation,
            bucket: Some("photos"),
            key: Some(key),
            expires_ms: None,
        };
        second.macaroon.authorize(SECRET, &action, now_ms)
    };
    assert_eq!(authorize(Operation::Read, &encrypted, 1_000), Ok(()));
    assert_eq!(
        authorize(Operation::Read, &encrypted, 1_001),
        Err(Denied::Expired)
    );
    assert_eq!(
        authorize(Operation::Write, &encrypted, 1_000),
        Err(Denied::Operation)
    );
    assert_eq!(
        authorize(Operation::Read, &outside, 1_000),
        Err(Denied::Prefix)
    );
    let (prefix, path_key) = second.list_prefix("photos", Names::Sealed, "a/b/").unwrap();
    assert_eq!(
        decrypt_key(&path_key, Names::Sealed, &encrypted[prefix.len()..]).as_deref(),
        Ok("c")
    );
}

#[test]
fn the_longest_prefix_is_used() {
    let wide = grant()
        .restrict("photos", Names::Sealed, "", Operations::ALL, None)
        .unwrap();
    let narrow = grant()
        .restrict("photos", Names::Sealed, "a/", Operations::ALL, None)
        .unwrap();
    let mut both = wide.clone();
    both.keys.extend(narrow.keys.clone());
    // A rotated key for the prefix: what lies below it uses that key, all else the bucket's.
    both.keys[1].key = PathKey::from([9; 32]);
    both.keys[1].epoch = 1;
    let names = Names::Sealed;
    assert_eq!(
        both.path_key("photos", names, &key("b")),
        wide.path_key("photos", names, &key("b"))
    );
    let (_, path_key) = both.path_key("photos", names, &key("a/b")).unwrap();
    assert_eq!(path_key, PathKey::from([9; 32]).child(b"b"));
    assert_eq!(
        both.restrict("photos", names, "a/b/", Operations::ALL, None)
            .unwrap()
            .keys[0]
            .epoch,
        1
    );
}

#[test]
fn the_other_name_mode_is_noticed() {
    for (made, used) in [(Names::Sealed, Names::Plain), (Names::Plain, Names::Sealed)] {
        let grant = grant()
            .restrict("photos", made, "a/", Operations::READ, None)
            .unwrap();
        assert_eq!(
            grant.path_key("photos", used, &key("a/b")),
            Err(GrantError::NameMode)
        );
    }
}

#[test]
fn length_limits_hold_for_the_whole_key() {
    let full = "k".repeat(400) + &"/".repeat(199);
    for prefix in ["", &full[..=400], &full[..=500]] {
        let grant = grant()
            .restrict("photos", Names::Sealed, prefix, Operations::ALL, None)
            .unwrap();
        let (encrypted, _) = grant
            .path_key("photos", Names::Sealed, &key(&full))
            .unwrap();
        assert_eq!(encrypted.len(), 4_000);
        let error = KeyError::EncryptedTooLong {
            len: 600,
            encrypted_len: 4_001,
        };
        let over = grant.path_key("photos", Names::Sealed, &key(&format!("{full}k")));
        assert_eq!(over, Err(error.into()));
    }
    let over = "k".repeat(1_280) + "/";
    let error = GrantError::Key(KeyError::TooLong { len: 1_281 });
    assert_eq!(
        grant().list_prefix("photos", Names::Plain, &over),
        Err(error)
    );
    assert_eq!(
        grant().path_key("No", Names::Plain, &key("a")),
        Err(KeyError::BucketName.into())
    );
}

#[test]
fn secrets_are_not_printed() {
    let text = format!(
        "{:?} {:?}",
        invitation(),
        grant().restrict("photos", Names::Sealed, "a/", Operations::READ, None)
    );
    assert!(
        !text.contains("[5, 5") && text.contains("PathKey(<secret>)"),
        "{text}"
    );
}

proptest! {
    #[test]
    fn foreign_bytes_with_a_right_check_never_panic(bytes: Vec<u8>) {
        for magic in [&b""[..], GRANT_MAGIC, INVITATION_MAGIC] {
            let bytes = [magic, &bytes].concat();
            let _ = Grant::from_text(&text::encode(GRANT_PREFIX, &bytes));
            let _ = Invitation::from_text(&text::encode(INVITATION_PREFIX, &bytes));
        }
        let _ = forged(|fields| fields[6].1 = bytes);
    }

    #[test]
    fn restriction_agrees_with_the_root(prefix in "([ab/]{0,3}/)?", below in "[ab/]{1,4}", plain: bool) {
        let names = if plain { Names::Plain } else { Names::Sealed };
        let narrow = grant().restrict("photos", names, &prefix, Operations::READ, None).unwrap();
        let name = key(&format!("{prefix}{below}"));
        prop_assert_eq!(narrow.path_key("photos", names, &name), grant().path_key("photos", names, &name));
    }
}
