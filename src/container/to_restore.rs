//! What a Start needs to know of the checkpoint that its Create has named.
//!
//! Invariant: it names absolute paths only, and whether images are there is asked when they are needed: managers
//! keep them in temporary places.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::blocking::{Job, within};
use crate::error::{Error, Result};
use crate::proto::runc_options::Options;
use crate::runtime::Fds;

/// What Start needs of the Create that named a checkpoint.
#[derive(Debug)]
pub(super) struct ToRestore {
    pub(super) image: PathBuf,
    pub(super) work: PathBuf,
    pub(super) no_pivot: bool,
    /// The container's ends of the streams; none any more once it has them.
    fds: Mutex<Fds>,
}

impl ToRestore {
    /// None for a Create without a checkpoint.
    ///
    /// # Errors
    /// A path that is not absolute.
    pub(super) fn of(checkpoint: &str, bundle: &Path, options: &Options) -> Result<Option<Self>> {
        let work = options.criu_work_path.as_str();
        for (what, path) in [("checkpoint", checkpoint), ("criu_work_path", work)] {
            if !path.is_empty() && !Path::new(path).is_absolute() {
                return Err(Error::invalid_argument(format!(
                    "{what} \"{}\" is not an absolute path",
                    path.escape_debug()
                )));
            }
        }
        let restore = Self {
            image: PathBuf::from(checkpoint),
            work: match work {
                "" => bundle.join("work"),
                work => work.into(),
            },
            no_pivot: options.no_pivot_root,
            fds: Mutex::default(),
        };
        Ok(Some(restore).filter(|_| !checkpoint.is_empty()))
    }

    /// Takes the container's ends of its streams until there is a process to have them.
    pub(super) fn keep(&self, fds: Fds) {
        *self.fds() = fds;
    }

    /// Those.
    pub(super) fn fds(&self) -> MutexGuard<'_, Fds> {
        self.fds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is something to restore from. Asked at Create and again at Start: managers keep
    /// images in temporary places.
    pub(super) async fn has_images(&self, limit: Duration) -> Result<()> {
        let image = self.image.clone();
        let job = Job {
            name: "checkpoint",
            what: format!("look at checkpoint {}", image.display()),
            limit,
        };
        within(job, move || has_images(&image)).await?
    }
}

fn has_images(image: &Path) -> Result<()> {
    let failed = |e: &io::Error| Error::io(format!("checkpoint {}", image.display()), e);
    if fs::read_dir(image)
        .map_err(|e| failed(&e))?
        .next()
        .is_none()
    {
        return Err(Error::not_found(format!(
            "checkpoint {}: images in the directory, which is empty",
            image.display()
        )));
    }
    // By this link CRIU finds what incremental images build upon.
    let parent = image.join("parent");
    if parent.is_symlink() {
        fs::metadata(&parent).map_err(|e| failed(&e).context("parent of an incremental"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn of(checkpoint: &str, work: &str) -> Result<Option<ToRestore>> {
        let options = Options {
            criu_work_path: work.into(),
            ..Options::default()
        };
        ToRestore::of(checkpoint, Path::new("/b"), &options)
    }

    #[test]
    fn what_start_needs() {
        assert!(of("", "").unwrap().is_none());
        for (work, expected) in [("", "/b/work"), ("/w", "/w")] {
            let restore = of("/i", work).unwrap().unwrap();
            assert_eq!(
                (&*restore.image, &*restore.work),
                (Path::new("/i"), Path::new(expected))
            );
        }
        for (checkpoint, work) in [("i", ""), ("../i", ""), ("/i", "w"), ("", "w")] {
            let error = of(checkpoint, work).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{error}");
        }
    }

    #[test]
    fn a_place_without_images_is_named() {
        let dir = std::env::temp_dir().join(format!("cotter-images-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let message = |path: &Path| {
            let error = has_images(path).unwrap_err();
            assert!(
                error.message.contains(path.to_str().unwrap())
                    && error.message.lines().count() == 1,
                "{error}"
            );
            error
        };
        assert_eq!(message(&dir.join("missing")).code, Code::NotFound);
        assert_eq!(message(&dir).code, Code::NotFound);
        let file = dir.join("inventory.img");
        fs::write(&file, "").unwrap();
        message(&file);
        has_images(&dir).unwrap();
        std::os::unix::fs::symlink("../nowhere", dir.join("parent")).unwrap();
        let error = message(&dir);
        assert!(
            error.message.starts_with("parent of an incremental"),
            "{error}"
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
