//! Saved access grants: files of mode 0600 in one directory, one of them current. And how an
//! invitation becomes one.
//!
//! ```text
//! $STRAND_CONFIG_DIR  or  $XDG_CONFIG_HOME/strand  or  ~/.config/strand
//!     access/NAME.grant      the grant's text and a newline
//!     current                the NAME that is used without --access
//! ```
//!
//! A grant holds keys: files are created private, and one that others can read is refused. Files
//! are replaced whole, by rename.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use strand_protocol::Code;
use strand_protocol::KdfParams;
use strand_protocol::grant::{Grant, Invitation};
use strand_protocol::pb;
use strand_protocol::pb::satellite_request::Verb;

use crate::error::{AccessError, CallError};
use crate::limits::{PASSPHRASE_CHARS_MIN, PASSPHRASE_DISTINCT_MIN};
use crate::session::{Repeat, Session, answer_of};

/// The directory of saved accesses.
#[derive(Clone, Debug)]
pub struct AccessStore {
    directory: PathBuf,
}

impl AccessStore {
    /// A store in this directory, which is made when something is saved.
    #[must_use]
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// The user's own.
    ///
    /// # Errors
    ///
    /// [`AccessError::NoDirectory`] if the environment names no place.
    pub fn of_user() -> Result<Self, AccessError> {
        let variable = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        variable("STRAND_CONFIG_DIR")
            .or_else(|| variable("XDG_CONFIG_HOME").map(|path| path.join("strand")))
            .or_else(|| variable("HOME").map(|path| path.join(".config/strand")))
            .map(Self::at)
            .ok_or(AccessError::NoDirectory)
    }

    /// Names of the saved accesses, ascending, and which one is current.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<(Vec<String>, Option<String>), AccessError> {
        let directory = self.directory.join("access");
        let mut names = Vec::new();
        match fs::read_dir(&directory) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.map_err(|source| file_error("read", &directory, source))?;
                    if let Some(name) = entry
                        .file_name()
                        .to_str()
                        .and_then(|name| name.strip_suffix(".grant"))
                    {
                        names.push(name.to_owned());
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(file_error("read", &directory, source)),
        }
        names.sort_unstable();
        let current = self.current()?.filter(|name| names.contains(name));
        Ok((names, current))
    }

    /// Saves a grant under a name and makes it current if none was, or if `make_current`.
    ///
    /// # Errors
    ///
    /// [`AccessError::Taken`] if another grant has the name, unless `replace`.
    pub fn save(
        &self,
        name: &str,
        grant: &Grant,
        replace: bool,
        make_current: bool,
    ) -> Result<(), AccessError> {
        check_name(name)?;
        let path = self.path(name);
        let text = grant.to_text();
        match fs::read_to_string(&path) {
            Ok(old) if old.trim() != text.as_str() && !replace => {
                return Err(AccessError::Taken(name.to_owned()));
            }
            _ => {}
        }
        write_private(&path, &text)?;
        if make_current || self.current()?.is_none() {
            self.choose(name)?;
        }
        Ok(())
    }

    /// Makes a saved access the current one.
    ///
    /// # Errors
    ///
    /// [`AccessError::NoSuchName`] if there is none of that name.
    pub fn choose(&self, name: &str) -> Result<(), AccessError> {
        check_name(name)?;
        if !self.path(name).exists() {
            return Err(self.no_such_name(name));
        }
        write_private(&self.directory.join("current"), name)
    }

    /// Loads a saved access: the named one, or the current one.
    ///
    /// # Errors
    ///
    /// If there is none, or its file is damaged or not private.
    pub fn load(&self, name: Option<&str>) -> Result<Grant, AccessError> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => self.current()?.ok_or_else(|| AccessError::None {
                directory: self.shown(),
            })?,
        };
        check_name(&name)?;
        let path = self.path(&name);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.no_such_name(&name));
            }
            Err(source) => return Err(file_error("read", &path, source)),
        };
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(AccessError::Exposed {
                path: path.display().to_string(),
                mode,
            });
        }
        let text = fs::read_to_string(&path).map_err(|source| file_error("read", &path, source))?;
        parse_grant(&text)
    }

    fn current(&self) -> Result<Option<String>, AccessError> {
        let path = self.directory.join("current");
        match fs::read_to_string(&path) {
            Ok(name) => Ok(Some(name.trim().to_owned()).filter(|name| !name.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(file_error("read", &path, source)),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join("access").join(format!("{name}.grant"))
    }

    fn shown(&self) -> String {
        self.directory.display().to_string()
    }

    fn no_such_name(&self, name: &str) -> AccessError {
        AccessError::NoSuchName {
            name: name.to_owned(),
            directory: self.shown(),
        }
    }
}

/// Reads a grant as printed.
///
/// # Errors
///
/// [`AccessError::Grant`] if it is damaged or something else.
pub fn parse_grant(text: &str) -> Result<Grant, AccessError> {
    Grant::from_text(text.trim()).map_err(|error| AccessError::Grant(error.to_string()))
}

/// Reads an invitation as `satellite project create` prints it.
///
/// # Errors
///
/// [`AccessError::Invitation`] if it is damaged or something else.
pub fn parse_invitation(text: &str) -> Result<Invitation, AccessError> {
    Invitation::from_text(text.trim()).map_err(|error| AccessError::Invitation(error.to_string()))
}

/// Refuses passphrases that protect nothing.
///
/// # Errors
///
/// [`AccessError::Weak`].
pub fn check_passphrase(passphrase: &str) -> Result<(), AccessError> {
    if passphrase.trim().is_empty() {
        return Err(AccessError::Weak("empty"));
    }
    let mut distinct: Vec<char> = passphrase.chars().collect();
    if distinct.len() < PASSPHRASE_CHARS_MIN {
        return Err(AccessError::Weak("too short"));
    }
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < PASSPHRASE_DISTINCT_MIN {
        return Err(AccessError::Weak("too uniform"));
    }
    Ok(())
}

/// Makes a grant of an invitation and a passphrase, and has the satellite confirm both.
///
/// The first grant of a project leaves the passphrase's check value at the satellite; later ones
/// must fit it, so that a mistyped passphrase does not silently store under another key. With
/// `is_new_passphrase` it is set anew.
///
/// # Errors
///
/// [`AccessError::WrongPassphrase`], and whatever can go wrong on the way.
pub async fn create_grant(
    invitation: &Invitation,
    passphrase: String,
    is_new_passphrase: bool,
) -> Result<Grant, AccessError> {
    check_passphrase(&passphrase)?;
    let grant = {
        let invitation = invitation.clone();
        // 64 MiB and three passes: some hundred milliseconds that no other task should wait for.
        tokio::task::spawn_blocking(move || {
            let passphrase = zeroize::Zeroizing::new(passphrase);
            Grant::from_invitation(&invitation, &passphrase, KdfParams::default())
        })
        .await
        .map_err(|_| AccessError::Derivation("the key derivation stopped".to_owned()))?
        .map_err(|error| AccessError::Derivation(error.to_string()))?
    };
    let session = Session::open(grant.clone())?;
    let checked = confirm(&session, is_new_passphrase).await;
    session.close().await;
    checked.map(|()| grant)
}

async fn confirm(session: &Session, is_new_passphrase: bool) -> Result<(), AccessError> {
    let project = fetch_project(session).await?;
    let grant = session.grant();
    let is_ours = project.project_id == grant.project.as_bytes() && project.salt == grant.salt;
    if !is_ours {
        return Err(AccessError::Foreign);
    }
    let Some(root) = &grant.root else {
        return Ok(());
    };
    let fits = |value: &[u8]| root.verify_check_value(grant.project, value);
    if fits(&project.check_value) {
        return Ok(());
    }
    let wrong = || AccessError::WrongPassphrase {
        project: project.name.clone(),
    };
    if !project.check_value.is_empty() && !is_new_passphrase {
        return Err(wrong());
    }
    let check_value = root.check_value(grant.project);
    let verb = Verb::SetCheckValue(pb::SetCheckValue {
        check_value,
        replace: is_new_passphrase,
    });
    match answer_of!(
        session.call(verb, Repeat::Harmless).await,
        Done,
        "SetCheckValue"
    ) {
        Ok(_) => Ok(()),
        // Somebody was first; with the same passphrase it is all the same.
        Err(error) if error.code() == Some(Code::Conflict) => {
            if fits(&fetch_project(session).await?.check_value) {
                Ok(())
            } else {
                Err(wrong())
            }
        }
        Err(error) => Err(error.into()),
    }
}

async fn fetch_project(session: &Session) -> Result<pb::Project, AccessError> {
    let verb = Verb::GetProject(pb::GetProject {});
    answer_of!(
        session.call(verb, Repeat::Harmless).await,
        Project,
        "GetProject"
    )
    .map_err(|error: CallError| match error.code() {
        Some(Code::Denied | Code::NotFound) => AccessError::Foreign,
        _ => error.into(),
    })
}

fn check_name(name: &str) -> Result<(), AccessError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&name.len()) && !name.starts_with('.') && name.chars().all(is_plain) {
        Ok(())
    } else {
        Err(AccessError::BadName(name.chars().take(80).collect()))
    }
}

fn write_private(path: &Path, text: &str) -> Result<(), AccessError> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| file_error("create", directory, source))?;
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| file_error("create", path, io::Error::other(error)))?;
    let temporary = directory.join(format!(".new-{:016x}", u64::from_le_bytes(random)));
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        // It may not exist; the error that counts is the first one.
        let _ = fs::remove_file(&temporary);
        file_error("write", path, source)
    })
}

fn file_error(doing: &'static str, path: &Path, source: io::Error) -> AccessError {
    AccessError::File {
        doing,
        path: path.display().to_string(),
        source,
    }
}
