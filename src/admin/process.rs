//! What the system knows of the process. Its files are opened at the start, so that they can be
//! read when no further one can be opened.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

pub struct Figures {
    started: SystemTime,
    memory: Option<File>,
    descriptors: Option<Mutex<rustix::fs::Dir>>,
}

impl Figures {
    /// The process began about now.
    pub fn new() -> Figures {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open("/proc/self/fd", flags, Mode::empty());
        Figures {
            started: SystemTime::now(),
            memory: File::open("/proc/self/statm").ok(),
            descriptors: folder.and_then(rustix::fs::Dir::new).ok().map(Mutex::new),
        }
    }

    /// Processor time of user and system.
    pub fn processor_time(&self) -> Duration {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
        Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanoseconds)
    }

    /// Bytes of memory.
    pub fn resident(&self) -> Option<u64> {
        let mut text = [0; 128];
        let size = self.memory.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..size]).ok()?;
        let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }

    pub fn open_descriptors(&self) -> Option<u64> {
        let folder = self.descriptors.as_ref()?;
        let mut folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
        folder.rewind();
        let named = |name: &std::ffi::CStr| !name.to_bytes().starts_with(b".");
        Some(folder.by_ref().flatten().filter(|entry| named(entry.file_name())).count() as u64)
    }

    pub fn most_descriptors(&self) -> Option<u64> {
        getrlimit(Resource::Nofile).current
    }

    pub fn started(&self) -> Duration {
        self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }
}
