//! The disk seen through the kernel, as programs see it.
#![allow(clippy::unwrap_used)]

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, statvfs};
use tempfile::TempDir;

use super::served::ServedDisk;
use super::{Tear, Torn};

/// A disk, or `None` (and a line that says so) where there is no FUSE.
fn disk() -> Option<(TempDir, ServedDisk)> {
    let dir = tempfile::tempdir().unwrap();
    match ServedDisk::mount(dir.path()) {
        Ok(disk) => Some((dir, disk)),
        Err(error) => {
            eprintln!("skipped: no FUSE here: {error:#}");
            None
        }
    }
}

fn sync_folder(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// A file whose content and name are on the disk.
fn synced(path: &Path, content: &[u8]) -> File {
    let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(path).unwrap();
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
    sync_folder(path.parent().unwrap());
    file
}

#[test]
fn only_what_was_synced_survives_content_and_names_alike() {
    let Some((dir, disk)) = disk() else { return };
    let at = |name: &str| dir.path().join(name);
    let mut file = synced(&at("kept"), b"one");
    file.write_all(b"two").unwrap();
    std::fs::write(at("no name"), b"content").unwrap();
    File::open(at("no name")).unwrap().sync_all().unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    std::fs::write(at("folder/in it"), b"content").unwrap();
    assert_eq!(std::fs::read(at("kept")).unwrap(), b"onetwo");
    assert_eq!(disk.files().len(), 3);
    drop(file);

    let cut = disk.power_cut(Tear::Clean);
    assert_eq!((cut.writes, cut.bytes, cut.names, cut.torn), (2, 10, 3, vec![]));
    assert_eq!(std::fs::read(at("kept")).unwrap(), b"one");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

    // A name that was synced with nothing in it is there, and empty.
    std::fs::write(at("empty"), b"content").unwrap();
    sync_folder(dir.path());
    disk.power_cut(Tear::Clean);
    assert_eq!(std::fs::read(at("empty")).unwrap(), b"");
}

#[test]
fn a_rename_or_a_removal_counts_once_its_folder_is_synced() {
    let Some((dir, disk)) = disk() else { return };
    let at = |name: &str| dir.path().join(name);
    drop((synced(&at("meta"), b"old"), synced(&at("meta.new"), b"new"), synced(&at("gone"), b"gone")));
    let change = || {
        std::fs::rename(at("meta.new"), at("meta")).unwrap();
        std::fs::remove_file(at("gone")).unwrap();
        assert_eq!(std::fs::read(at("meta")).unwrap(), b"new");
    };
    change();
    disk.power_cut(Tear::Clean);
    assert_eq!(std::fs::read(at("meta")).unwrap(), b"old");
    assert_eq!(std::fs::read(at("meta.new")).unwrap(), b"new");
    assert_eq!(std::fs::read(at("gone")).unwrap(), b"gone");
    change();
    sync_folder(dir.path());
    disk.power_cut(Tear::Clean);
    assert_eq!(std::fs::read(at("meta")).unwrap(), b"new");
    assert_eq!(disk.files().len(), 1);
}

#[test]
fn what_is_open_across_a_cut_is_stale() {
    let Some((dir, disk)) = disk() else { return };
    let path = dir.path().join("file");
    let mut file = synced(&path, b"content");
    disk.power_cut(Tear::Clean);
    assert_eq!(file.write_all(b"more").unwrap_err().raw_os_error(), Some(libc::ESTALE));
    assert!(file.sync_all().is_err());
    assert_eq!(std::fs::read(path).unwrap(), b"content");
}

#[test]
fn the_last_write_is_torn_at_any_byte() {
    let Some((dir, disk)) = disk() else { return };
    let path = dir.path().join("log");
    drop(synced(&path, b"head "));
    for bytes in 0..=7_u64 {
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(5).unwrap();
        file.sync_all().unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"first ").unwrap();
        file.write_all(b"second").unwrap();
        let cut = disk.power_cut(Tear::At(bytes));
        let kept = &b"head first second"[..11 + usize::try_from(bytes).unwrap().min(6)];
        assert_eq!(std::fs::read(&path).unwrap(), kept);
        let torn = (bytes > 0).then_some(("log".into(), Torn { kept: bytes.min(6), of: 6 }));
        assert_eq!(cut.torn, Vec::from_iter(torn));
    }
}

#[test]
fn a_random_cut_is_the_same_with_the_same_seed_and_leaves_a_beginning() {
    let Some((dir, disk)) = disk() else { return };
    let path = dir.path().join("log");
    let mut lengths = Vec::new();
    for seed in [1, 2, 3, 4, 1, 2, 3, 4] {
        drop(synced(&path, b""));
        let mut file = OpenOptions::new().write(true).open(&path).unwrap();
        (0..100_u8).for_each(|number| file.write_all(&[number; 10]).unwrap());
        drop(file);
        disk.power_cut(Tear::Random(seed));
        let left = std::fs::read(&path).unwrap();
        let whole: Vec<u8> = (0..100).flat_map(|number| [number; 10]).collect();
        assert!(whole.starts_with(&left), "{left:?}");
        lengths.push(left.len());
        std::fs::remove_file(&path).unwrap();
        sync_folder(dir.path());
    }
    assert_eq!(lengths[..4], lengths[4..]);
    assert!(lengths.iter().any(|len| len % 10 != 0), "{lengths:?}");
}

#[test]
fn an_ignored_sync_says_yes_and_does_nothing() {
    let Some((dir, disk)) = disk() else { return };
    disk.ignore_sync(true);
    let before = disk.syncs();
    drop(synced(&dir.path().join("file"), b"content"));
    assert_eq!(disk.syncs(), before + 2);
    disk.power_cut(Tear::Clean);
    assert_eq!(disk.files(), []);
}

/// What a store must not be fooled by: the kernel goes on showing what never reached the disk.
#[test]
fn a_failed_sync_leaves_pages_that_look_clean_over_a_disk_that_is_old() {
    let Some((dir, disk)) = disk() else { return };
    let path = dir.path().join("log");
    let mut file = synced(&path, b"old old old");
    file.rewind().unwrap();
    file.write_all(b"new").unwrap();
    disk.fail_sync(true);
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    disk.fail_sync(false);
    file.sync_all().expect("the pages count as clean");
    drop(file);
    assert_eq!(std::fs::read(&path).unwrap(), b"new old old", "a process that starts again still sees them");
    fadvise(File::open(&path).unwrap(), 0, None, Advice::DontNeed).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"old old old");
    disk.power_cut(Tear::Clean);
    assert_eq!(std::fs::read(&path).unwrap(), b"old old old");
}

#[test]
fn a_full_disk_takes_what_fits_and_no_more() {
    let Some((dir, disk)) = disk() else { return };
    let path = dir.path().join("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(&[1; 5_000]).unwrap();
    disk.set_room(Some(2 * 4_096));
    assert_eq!(statvfs(dir.path()).unwrap().f_bavail, 2);
    // To the end of its page, and two pages.
    assert_eq!(file.write_all(&[1; 100_000]).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 4 * 4_096);
    assert_eq!(statvfs(dir.path()).unwrap().f_bavail, 0);
    file.rewind().unwrap();
    file.write_all(&[2; 4_096]).expect("what has its room can be written again");
    let allocated = fallocate(&file, FallocateFlags::empty(), 4 * 4_096, 4_096);
    assert_eq!(allocated.unwrap_err().raw_os_error(), libc::ENOSPC);
    file.set_len(4_096).unwrap();
    assert_eq!(statvfs(dir.path()).unwrap().f_bavail, 3);
    drop(file);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(statvfs(dir.path()).unwrap().f_bavail, 4);
    disk.set_room(None);
    std::fs::write(&path, [1; 100_000]).unwrap();
}

#[test]
fn a_flipped_bit_is_seen_by_who_has_the_file_open() {
    let Some((dir, disk)) = disk() else { return };
    let file = synced(&dir.path().join("file"), &[0; 10_000]);
    let mut bytes = [0; 3];
    file.read_exact_at(&mut bytes, 8_000).unwrap();
    disk.flip_bit(Path::new("file"), 8_001, 3).unwrap();
    file.read_exact_at(&mut bytes, 8_000).unwrap();
    assert_eq!(bytes, [0, 8, 0]);
    assert!(disk.flip_bit(Path::new("file"), 10_000, 0).is_err());
    disk.power_cut(Tear::Clean);
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap()[8_001], 8);
}

#[test]
fn a_slow_sync_holds_up_nobody_else_and_covers_what_came_before_it() {
    let Some((dir, disk)) = disk() else { return };
    let mut file = synced(&dir.path().join("file"), b"");
    let before = disk.syncs();
    // Longer than any test may take: it ends because it is told to.
    disk.slow_sync(Duration::from_secs(3_600));
    file.write_all(b"before").unwrap();
    let syncing = std::thread::spawn(move || {
        file.sync_all().unwrap();
        file
    });
    while disk.syncs() == before {
        std::thread::yield_now();
    }
    // Through another handle: a file that is synced is locked by the kernel, as on every disk.
    std::fs::write(dir.path().join("other"), b"other").unwrap();
    assert_eq!(std::fs::read(dir.path().join("other")).unwrap(), b"other");
    assert!(!syncing.is_finished());
    disk.slow_sync(Duration::ZERO);
    let mut file = syncing.join().unwrap();
    file.write_all(b"after").unwrap();
    drop(file);
    disk.power_cut(Tear::Clean);
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"before");
}

#[test]
fn sockets_locks_and_large_folders_work() {
    let Some((dir, _disk)) = disk() else { return };
    let socket = dir.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut client = UnixStream::connect(&socket).unwrap();
    client.write_all(b"hi").unwrap();
    let mut said = [0; 2];
    listener.accept().unwrap().0.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"hi");

    let (one, two) = (File::create(dir.path().join("lock")).unwrap(), File::create(dir.path().join("lock")).unwrap());
    one.try_lock().unwrap();
    assert!(matches!(two.try_lock(), Err(TryLockError::WouldBlock)));

    let folder = dir.path().join("large");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..2_000 {
        File::create(folder.join(format!("{number:0100}"))).unwrap();
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2_000);
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(!folder.exists());
}
