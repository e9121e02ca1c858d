//! The sick disk's side of FUSE: files of a folder, by number and by handle.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::super::{BELIEVED, BLOCK_BYTES, attributes, kind_of, lock, read_at};
use super::{Asked, Health};

/// What `statfs` says: there is room, until writes say otherwise.
const BLOCKS: u64 = 1 << 28;

/// Answers the kernel.
pub(super) struct Server {
    health: Arc<Health>,
    nodes: Mutex<Nodes>,
    files: Mutex<HashMap<u64, Open>>,
    next_handle: AtomicU64,
}

#[derive(Clone, Debug)]
struct Open {
    file: Arc<File>,
    name: Arc<str>,
}

/// Numbers of files and where they are. A number is never given twice.
#[derive(Debug)]
struct Nodes {
    paths: HashMap<u64, PathBuf>,
    numbers: HashMap<PathBuf, u64>,
}

impl Nodes {
    fn new(root: &Path) -> Self {
        Self {
            paths: HashMap::from([(INodeNo::ROOT.0, root.to_owned())]),
            numbers: HashMap::from([(root.to_owned(), INodeNo::ROOT.0)]),
        }
    }

    fn number_of(&mut self, path: &Path) -> u64 {
        if let Some(&number) = self.numbers.get(path) {
            return number;
        }
        let number = self.paths.len() as u64 + 1;
        self.paths.insert(number, path.to_owned());
        self.numbers.insert(path.to_owned(), number);
        number
    }

    /// The name's next file is another one.
    fn forget(&mut self, path: &Path) {
        self.numbers.remove(path);
    }
}

impl Server {
    pub(super) fn new(health: Arc<Health>, root: &Path) -> Self {
        Self {
            health,
            nodes: Mutex::new(Nodes::new(root)),
            files: Mutex::default(),
            next_handle: AtomicU64::new(1),
        }
    }

    fn path(&self, node: INodeNo) -> io::Result<PathBuf> {
        let path = lock(&self.nodes).paths.get(&node.0).cloned();
        path.ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    fn attributes(&self, path: &Path) -> io::Result<FileAttr> {
        let known = fs::symlink_metadata(path)?;
        let number = lock(&self.nodes).number_of(path);
        Ok(attributes(number, &known))
    }

    fn attributes_of(&self, node: INodeNo, handle: Option<FileHandle>) -> io::Result<FileAttr> {
        // A file that is open may have no name any more.
        let open = handle.and_then(|handle| self.open_file(handle).ok());
        let known = match open {
            Some(open) => open.file.metadata()?,
            None => fs::symlink_metadata(self.path(node)?)?,
        };
        Ok(attributes(node.0, &known))
    }

    fn open_file(&self, handle: FileHandle) -> io::Result<Open> {
        let open = lock(&self.files).get(&handle.0).cloned();
        open.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn keep(&self, file: File, path: &Path) -> FileHandle {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let open = Open {
            file: Arc::new(file),
            name: name.into(),
        };
        lock(&self.files).insert(handle, open);
        FileHandle(handle)
    }

    fn truncate(&self, node: INodeNo, handle: Option<FileHandle>, len: u64) -> io::Result<()> {
        match handle.map(|handle| self.open_file(handle)) {
            Some(open) => open?.file.set_len(len),
            None => {
                let file = fs::OpenOptions::new().write(true).open(self.path(node)?)?;
                file.set_len(len)
            }
        }
    }

    /// Does `work` now, or in a thread once the disk does not hang any more.
    fn once_it_answers(&self, asked: Asked<'_>, work: impl FnOnce() + Send + 'static) {
        if !self.health.hangs(asked) {
            return work();
        }
        let health = Arc::clone(&self.health);
        std::thread::spawn(move || {
            health.wait_until_over();
            work();
        });
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.child(parent, name);
        match found.and_then(|path| self.attributes(&path)) {
            Ok(attributes) => reply.entry(&BELIEVED, &attributes, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes_of(node, handle) {
            Ok(attributes) => reply.attr(&BELIEVED, &attributes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        len: Option<u64>,
        _accessed: Option<TimeOrNow>,
        _modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _flags_changed: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let truncated = len.map_or(Ok(()), |len| self.truncate(node, handle, len));
        match truncated.and_then(|()| self.attributes_of(node, handle)) {
            Ok(attributes) => reply.attr(&BELIEVED, &attributes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.child(parent, name).and_then(|path| {
            fs::create_dir(&path)?;
            self.attributes(&path)
        });
        match made {
            Ok(attributes) => reply.entry(&BELIEVED, &attributes, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.child(parent, name).and_then(|path| {
            fs::remove_file(&path)?;
            lock(&self.nodes).forget(&path);
            Ok(())
        });
        answer(reply, removed);
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.path(node).and_then(|path| {
            let is_written = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
            let mut options = fs::OpenOptions::new();
            let file = options.read(true).write(is_written).open(&path)?;
            Ok(self.keep(file, &path))
        });
        match opened {
            // What is in memory stays there, or nobody would ever look at a map.
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.child(parent, name).and_then(|path| {
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true);
            if flags & libc::O_EXCL == 0 {
                options.create(true);
            } else {
                options.create_new(true);
            }
            let file = options.open(&path)?;
            Ok((self.attributes(&path)?, self.keep(file, &path)))
        });
        let keep = FopenFlags::FOPEN_KEEP_CACHE;
        match made {
            Ok((attributes, handle)) => {
                reply.created(&BELIEVED, &attributes, Generation(0), handle, keep);
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let open = match self.open_file(handle) {
            Ok(open) => open,
            Err(error) => return reply.error(error.into()),
        };
        let asked = Asked::Read(&open.name, offset, u64::from(len));
        if let Some(errno) = self.health.meet(asked) {
            return reply.error(Errno::from_i32(errno));
        }
        let file = Arc::clone(&open.file);
        self.once_it_answers(asked, move || match read_at(&file, offset, len as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error.into()),
        });
    }

    fn write(
        &self,
        _: &Request,
        _node: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let asked = if flags.0 & libc::O_DSYNC == 0 {
            Asked::Write
        } else {
            Asked::DurableWrite
        };
        if let Some(errno) = self.health.meet(asked) {
            return reply.error(Errno::from_i32(errno));
        }
        let open = match self.open_file(handle) {
            Ok(open) => open,
            Err(error) => return reply.error(error.into()),
        };
        let bytes = bytes.to_vec();
        self.once_it_answers(asked, move || {
            match open.file.write_all_at(&bytes, offset) {
                Ok(()) => reply.written(bytes.len() as u32),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn flush(
        &self,
        _: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _node: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _is_flushed: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.files).remove(&handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _: &Request,
        _node: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(errno) = self.health.meet(Asked::Sync) {
            return reply.error(Errno::from_i32(errno));
        }
        self.once_it_answers(Asked::Sync, move || reply.ok());
    }

    fn fsyncdir(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(request, node, handle, data_only, reply);
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.path(node).and_then(|path| self.list(&path));
        let entries = match listed {
            Ok(entries) => entries,
            Err(error) => return reply.error(error.into()),
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (number, kind, name)) in entries.iter().enumerate().skip(from) {
            if reply.add(INodeNo(*number), at as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _node: INodeNo, reply: ReplyStatfs) {
        let (files, name_len) = (1 << 20, 255);
        reply.statfs(
            BLOCKS,
            BLOCKS,
            BLOCKS,
            files,
            files,
            BLOCK_BYTES,
            name_len,
            BLOCK_BYTES,
        );
    }
}

impl Server {
    /// In an order that stays the same while nothing changes.
    fn list(&self, path: &Path) -> io::Result<Vec<(u64, FileType, std::ffi::OsString)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let number = lock(&self.nodes).number_of(&entry.path());
            let kind = kind_of(&entry.metadata()?);
            entries.push((number, kind, entry.file_name()));
        }
        entries.sort_unstable_by(|left, right| left.2.cmp(&right.2));
        Ok(entries)
    }
}

fn answer(reply: ReplyEmpty, result: io::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_used_again_is_another_file() {
        let root = Path::new("/r");
        let mut nodes = Nodes::new(root);
        assert_eq!(nodes.number_of(root), INodeNo::ROOT.0);
        let first = nodes.number_of(Path::new("/r/a"));
        assert_eq!(nodes.number_of(Path::new("/r/a")), first);
        nodes.forget(Path::new("/r/a"));
        assert_ne!(nodes.number_of(Path::new("/r/a")), first);
    }
}
