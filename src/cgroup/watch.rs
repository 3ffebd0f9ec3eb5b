//! Word that what a file of a cgroup says has changed.
//!
//! Invariant: nobody is woken while nothing changes, and no change is lost that comes after the watch
//! began. The first [`POLLED`] files of a shim cost a descriptor each, all others one together: an
//! inotify instance. A user has 128 of those (fs.inotify.max_user_instances) for all that he runs and
//! there may be hundreds of shims, so a shim of one container has none, and one that gets none polls.
//!
//! Facts of the kernel (fs/kernfs/file.c): a file that notifies is ready for POLLPRI until it is read, and
//! inotify has it modified. A file that vanishes with its cgroup is told to pollers only; inotify's
//! mark stays until it is taken back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Files with a descriptor of their own: as many as one container has.
const POLLED: usize = 2;

/// The watches of a shim.
#[derive(Debug, Default)]
pub struct Watcher {
    /// Counts those that are polled.
    polled: Arc<()>,
    reader: Mutex<Weak<Reader>>,
}

/// The watch of a file.
#[derive(Debug)]
pub struct Watch(Kind);

#[derive(Debug)]
enum Kind {
    Polled(
        AsyncFd<OwnedFd>,
        #[expect(dead_code, reason = "it is counted")] Arc<()>,
    ),
    Told(Told),
}

#[derive(Debug)]
struct Told {
    said: watch::Receiver<()>,
    mark: WatchDescriptor,
    reader: Arc<Reader>,
}

impl Watcher {
    /// Begins to watch a file. Call it in a runtime.
    ///
    /// # Errors
    /// What the system said, with the path.
    pub fn watch(&self, path: &Path) -> Result<Watch> {
        let failed = |e: io::Error| Error::io(format!("watch {}", path.display()), &e);
        let told = match Arc::strong_count(&self.polled) - 1 {
            ..POLLED => None,
            // Whatever the reason is, there is another way.
            POLLED.. => self.told(path).ok(),
        };
        let kind = match told {
            Some(told) => Kind::Told(told),
            None => Kind::Polled(poll(path).map_err(failed)?, Arc::clone(&self.polled)),
        };
        Ok(Watch(kind))
    }

    fn told(&self, path: &Path) -> io::Result<Told> {
        let mut shared = lock(&self.reader);
        let reader = match shared.upgrade() {
            Some(reader) => reader,
            None => {
                let reader = Arc::new(Reader::start()?);
                *shared = Arc::downgrade(&reader);
                reader
            }
        };
        let mut marks = lock(&reader.marks);
        let inotify = &reader.inotify.get_ref().0;
        // Of a file that is marked already it is the same mark.
        let mark = inotify.add_watch(path, AddWatchFlags::IN_MODIFY)?;
        let said = marks.entry(mark).or_default().subscribe();
        drop(marks);
        Ok(Told { said, mark, reader })
    }
}

impl Watch {
    /// Waits until there may be something that was not there at the last return.
    ///
    /// # Errors
    /// The file is gone.
    pub async fn changed(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kind::Polled(file, _) => {
                file.ready(Interest::PRIORITY).await?.clear_ready();
                // Only before the caller reads: of what he has not read there must still be word.
                seen(file.get_ref())
            }
            Kind::Told(told) => {
                let said = told.said.changed().await;
                said.map_err(|_| io::Error::from(Errno::ENODEV))
            }
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let mut marks = lock(&self.reader.marks);
        // This one still counts.
        let last = marks
            .get(&self.mark)
            .is_some_and(|said| said.receiver_count() == 1);
        if last {
            marks.remove(&self.mark);
            let _ = self.reader.inotify.get_ref().0.rm_watch(self.mark);
        }
    }
}

fn poll(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let file = OwnedFd::from(File::open(path)?);
    // SAFETY: an OwnedFd stays open, and nothing takes it out of the AsyncFd.
    let file = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }?;
    seen(file.get_ref())?;
    Ok(file)
}

/// Has the kernel tell of what comes from here on.
fn seen(file: &OwnedFd) -> io::Result<()> {
    nix::sys::uio::pread(file, &mut [0; 64], 0)?;
    Ok(())
}

type Marks = Mutex<BTreeMap<WatchDescriptor, watch::Sender<()>>>;

/// The inotify instance, read by one task for all.
#[derive(Debug)]
struct Reader {
    inotify: Arc<AsyncFd<Instance>>,
    marks: Arc<Marks>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Instance(Inotify);

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Reader {
    fn start() -> io::Result<Self> {
        let inotify = Instance(Inotify::init(
            InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK,
        )?);
        // SAFETY: an Inotify stays open, and nothing takes it out of the AsyncFd.
        let inotify = unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) }?;
        let (inotify, marks) = (Arc::new(inotify), Arc::<Marks>::default());
        let task = tokio::spawn(read(Arc::clone(&inotify), Arc::clone(&marks)));
        Ok(Self {
            inotify,
            marks,
            task,
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(inotify: Arc<AsyncFd<Instance>>, marks: Arc<Marks>) {
    while let Ok(mut ready) = inotify.ready(Interest::READABLE).await {
        match inotify.get_ref().0.read_events() {
            Ok(events) => {
                let mut marks = lock(&marks);
                for event in events {
                    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                        for said in marks.values() {
                            said.send_replace(());
                        }
                    } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                        marks.remove(&event.wd);
                    } else if let Some(said) = marks.get(&event.wd) {
                        said.send_replace(());
                    }
                }
            }
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(why) => {
                log::warn!("read inotify: {why}; limits that are reached may be told late");
                return;
            }
        }
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
