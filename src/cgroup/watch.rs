//! Word that what a file of a cgroup says has changed.
//!
//! Invariant: nobody is woken while nothing changes, and no change is lost that comes after the watch
//! began, also when inotify fails. The first [`POLLED`] files of a shim cost a descriptor each, all others
//! one together: an inotify instance. A user has 128 of those (fs.inotify.max_user_instances) for all
//! that he runs, of descriptors as many as he needs; and of shims there may be hundreds. So the shim of
//! a container or of a pod as pods mostly are has no instance, and one that gets none polls.
//!
//! Facts of the kernel (fs/kernfs/file.c): a file that notifies is ready for POLLPRI until it is read, and
//! inotify has it modified. That a file vanishes with its cgroup is told to nobody (seen on Linux 6.18), and
//! inotify's mark stays until it is taken back: whoever watches has to know when to stop.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::is_gone;
use crate::errno::Words;
use crate::error::{Error, Result};

/// Files with a descriptor of their own: as many as three containers have on cgroup v2, a pod's sandbox,
/// its program and one more.
const POLLED: usize = 6;

/// The watches of a shim.
#[derive(Debug, Default)]
pub struct Watcher {
    /// Counts those that are polled.
    polled: Arc<()>,
    reader: Mutex<Weak<Reader>>,
}

/// The watch of a file.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    kind: Kind,
}

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
    polled: Weak<()>,
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
        let path = path.to_owned();
        Ok(Watch { path, kind })
    }

    fn told(&self, path: &Path) -> io::Result<Told> {
        let mut shared = lock(&self.reader);
        if let Some(reader) = shared.upgrade()
            && let Some((mark, said)) = reader.mark(path)?
        {
            return Ok(self.told_by(reader, mark, said));
        }
        let reader = Arc::new(Reader::start()?);
        // It has not been run yet, so it has not ended.
        let (mark, said) = reader.mark(path)?.ok_or(Errno::EBADF)?;
        *shared = Arc::downgrade(&reader);
        Ok(self.told_by(reader, mark, said))
    }

    fn told_by(
        &self,
        reader: Arc<Reader>,
        mark: WatchDescriptor,
        said: watch::Receiver<()>,
    ) -> Told {
        Told {
            said,
            mark,
            reader,
            polled: Arc::downgrade(&self.polled),
        }
    }
}

impl Watch {
    /// Waits until there may be something that was not there at the last return; answers whether the file
    /// is still there.
    ///
    /// # Errors
    /// Why it is watched no longer, with the path.
    pub async fn changed(&mut self) -> Result<bool> {
        match self.word().await {
            Ok(()) => Ok(true),
            Err(why) if is_gone(&why) => Ok(false),
            Err(why) => {
                let path = self.path.display();
                Err(Error::io(format!("watch {path} any longer"), &why))
            }
        }
    }

    async fn word(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Polled(file, _) => {
                file.ready(Interest::PRIORITY).await?.clear_ready();
                // Only before the caller reads: of what he has not read there must still be word.
                seen(file.get_ref())
            }
            Kind::Told(told) => {
                if told.said.changed().await.is_ok() {
                    return Ok(());
                }
                // Nobody tells any more: the instance could not be read, or the file's mark is gone.
                let file = poll(&self.path)?;
                let polled = told.polled.upgrade().unwrap_or_default();
                self.kind = Kind::Polled(file, polled);
                // What came before, nobody has told.
                Ok(())
            }
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let mut marks = lock(&self.reader.marks);
        let Some(marks) = &mut *marks else { return };
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

/// None when nobody reads any more: who waited for word finds that out.
type Marks = Mutex<Option<BTreeMap<WatchDescriptor, watch::Sender<()>>>>;

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
        let inotify = Arc::new(inotify);
        let marks = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let task = tokio::spawn(read(Arc::clone(&inotify), Reading(Arc::clone(&marks))));
        Ok(Self {
            inotify,
            marks,
            task,
        })
    }

    /// Begins to watch a file; none when nobody reads any more.
    fn mark(&self, path: &Path) -> io::Result<Option<(WatchDescriptor, watch::Receiver<()>)>> {
        let mut marks = lock(&self.marks);
        let Some(marks) = &mut *marks else {
            return Ok(None);
        };
        let inotify = &self.inotify.get_ref().0;
        // Of a file that is marked already it is the same mark.
        let mark = inotify.add_watch(path, AddWatchFlags::IN_MODIFY)?;
        Ok(Some((mark, marks.entry(mark).or_default().subscribe())))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(inotify: Arc<AsyncFd<Instance>>, reading: Reading) {
    while let Ok(mut ready) = inotify.ready(Interest::READABLE).await {
        match inotify.get_ref().0.read_events() {
            Ok(events) => {
                for event in events {
                    reading.tell(&event);
                }
            }
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(Errno::EINTR) => {}
            Err(why) => {
                log::warn!(
                    "read inotify: {why}; what it watched is polled",
                    why = why.words()
                );
                return;
            }
        }
    }
}

/// Somebody reads while it lives, however he comes to end.
struct Reading(Arc<Marks>);

impl Reading {
    fn tell(&self, event: &InotifyEvent) {
        let mut marks = lock(&self.0);
        let Some(marks) = &mut *marks else { return };
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

impl Drop for Reading {
    fn drop(&mut self) {
        *lock(&self.0) = None;
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
