//! Wall clocks that can be moved while a process runs, by a library that is loaded before glibc (`clock.c`).

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

/// Seconds by which a wall clock may be off, either way.
pub type Seconds = i64;

/// The library; it works in dynamically linked programs only. Its file goes when this is dropped, which processes that
/// have loaded it do not notice.
#[derive(Debug)]
pub struct ClockLibrary {
    folder: TempDir,
}

impl ClockLibrary {
    /// Builds it.
    ///
    /// # Panics
    /// When there is no gcc, or no headers of glibc; the message says what to install.
    pub fn build() -> Self {
        let folder = tempfile::Builder::new().prefix("mailrelay-clock-").tempdir().expect("a temporary folder");
        let library = Self { folder };
        fs::write(library.folder.path().join("clock.c"), include_str!("../clock.c")).expect("the source is written");
        let built = Command::new("gcc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", "clock.so", "clock.c"])
            .current_dir(library.folder.path())
            .output()
            .expect("gcc starts (Debian packages gcc and libc6-dev)");
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "gcc failed (Debian packages gcc and libc6-dev): {said}");
        library
    }

    /// What `LD_PRELOAD` is to be.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("clock.so")
    }
}

/// The wall clock of one process that runs with the library, and of the processes that it forks without exec.
#[derive(Debug)]
pub struct WallClock {
    offset: File,
}

impl WallClock {
    /// Finds it. Fails when there is no such process, when it runs without the library or has not loaded it yet, and when
    /// we may not look into it.
    pub fn of(pid: i32) -> io::Result<Self> {
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let path = entry?.path();
            // A descriptor may be closed while we look.
            let Ok(target) = fs::read_link(&path) else { continue };
            if target.to_string_lossy().starts_with("/memfd:mailrelay-clock") {
                return File::options().write(true).open(&path).map(|offset| Self { offset });
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} runs without the clock library")))
    }

    /// From now on the process's wall clock is so many seconds ahead of the machine's; behind it when negative.
    pub fn move_to(&self, ahead: Seconds) -> io::Result<()> {
        self.write(ahead * 1_000_000_000)
    }

    /// The same, finer and forwards only.
    ///
    /// # Panics
    /// After some centuries.
    pub fn move_by(&self, ahead: Duration) -> io::Result<()> {
        self.write(i64::try_from(ahead.as_nanos()).expect("less than some centuries"))
    }

    /// One write of eight bytes: the process never sees half of it.
    fn write(&self, nanoseconds: i64) -> io::Result<()> {
        self.offset.write_all_at(&nanoseconds.to_ne_bytes(), 0)
    }
}
