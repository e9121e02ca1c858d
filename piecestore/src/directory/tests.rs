use std::os::unix::fs::PermissionsExt;

use super::*;

fn choices() -> Choices {
    Choices {
        satellite: format!("{}@127.0.0.1:7777", NodeId::from([9; 32]))
            .parse()
            .unwrap(),
        capacity: "1GB".parse().unwrap(),
        listen: "127.0.0.1:7778".parse().unwrap(),
        advertise: None,
    }
}

fn set_up() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/node");
    Directory::set_up(&path, choices()).unwrap();
    (root, path)
}

#[test]
fn a_directory_that_was_set_up_opens_with_its_identity() {
    let (_root, path) = set_up();
    let directory = Directory::open(&path).unwrap();
    assert_eq!(directory.identity().node_id(), directory.config().node_id);
    assert!(directory.blobs().is_dir());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn setup_refuses_a_directory_that_has_a_node() {
    let (_root, path) = set_up();
    let key = std::fs::read(path.join(IDENTITY_FILE)).unwrap();
    let error = Directory::set_up(&path, choices()).unwrap_err();
    assert!(
        matches!(error, DirectoryError::AlreadySetUp { .. }),
        "{error}"
    );
    assert_eq!(std::fs::read(path.join(IDENTITY_FILE)).unwrap(), key);
}

#[test]
fn an_interrupted_setup_goes_on_with_its_identity() {
    let (_root, path) = set_up();
    let before = Config::load(&path).unwrap();
    std::fs::remove_file(path.join(crate::config::FILE_NAME)).unwrap();
    assert_eq!(Directory::set_up(&path, choices()).unwrap(), before);
}

#[test]
fn blobs_are_served_only_from_a_folder_that_says_whose_it_is() {
    let (_root, path) = set_up();
    let (_other_root, other) = set_up();
    let marker = blobs_of(&path).join(MARKER_FILE);
    std::fs::remove_file(&marker).unwrap();
    for _ in 0..2 {
        assert!(matches!(
            Directory::open(&path),
            Err(DirectoryError::NotMounted(_))
        ));
        assert!(matches!(
            Directory::inspect(&path),
            Err(DirectoryError::NotMounted(_))
        ));
        assert!(!marker.exists(), "an empty folder was claimed");
    }
    // A directory from before there were markers.
    std::fs::write(blobs_of(&path).join("0000000000000001.blob"), "").unwrap();
    drop(Directory::inspect(&path).unwrap());
    assert!(!marker.exists(), "looking changed something");
    drop(Directory::open(&path).unwrap());
    assert!(marker.exists());
    std::fs::copy(blobs_of(&other).join(MARKER_FILE), &marker).unwrap();
    let error = Directory::open(&path).unwrap_err();
    assert!(
        matches!(error, DirectoryError::OtherBlobs { .. }),
        "{error}"
    );
}

#[test]
fn a_directory_that_was_moved_away_and_a_copy_under_way_are_not_served() {
    let (_root, path) = set_up();
    write_whole(&path.join(MOVED_FILE), b"/volume2/node\n").unwrap();
    let error = Directory::open(&path).unwrap_err();
    assert!(
        error.to_string().contains("moved to /volume2/node"),
        "{error}"
    );
    let (_root, path) = set_up();
    std::fs::remove_file(path.join(crate::config::FILE_NAME)).unwrap();
    std::fs::write(path.join(MOVING_FILE), "").unwrap();
    let error = Directory::set_up(&path, choices()).unwrap_err();
    assert!(matches!(error, DirectoryError::Moving(_)), "{error}");
    assert!(!path.join(crate::config::FILE_NAME).exists());
}

#[test]
fn one_process_at_a_time() {
    let (_root, path) = set_up();
    let first = Directory::open(&path).unwrap();
    assert!(matches!(
        Directory::open(&path),
        Err(DirectoryError::Locked(_))
    ));
    drop(first);
    assert!(Directory::open(&path).is_ok());
}

#[test]
fn a_foreign_or_missing_identity_is_refused_in_one_sentence() {
    let (_root, path) = set_up();
    let (_other_root, other) = set_up();
    std::fs::copy(other.join(IDENTITY_FILE), path.join(IDENTITY_FILE)).unwrap();
    let error = Directory::open(&path).unwrap_err();
    assert!(matches!(error, DirectoryError::OtherNode { .. }), "{error}");
    assert!(!error.to_string().contains('\n'));
    std::fs::remove_file(path.join(IDENTITY_FILE)).unwrap();
    assert!(matches!(
        Directory::open(&path),
        Err(DirectoryError::NoIdentity(_))
    ));
    assert!(matches!(
        Directory::open(path.parent().unwrap()),
        Err(DirectoryError::Config(ConfigError::Missing(_)))
    ));
}
