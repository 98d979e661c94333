//! Files that appear whole or not at all: written aside, then renamed.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::DataError;

/// File under a temporary name beside its final one; dropped uncommitted, it is removed.
pub(crate) struct AsideFile {
    writer: Option<BufWriter<File>>,
    aside: PathBuf,
    path: PathBuf,
}

impl AsideFile {
    /// Creates the temporary file, and the folder it lies in.
    pub(crate) fn create(path: &Path) -> Result<Self, DataError> {
        // Two writers of one path, in one process or several, must not share the temporary file.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let serial = COUNTER.fetch_add(1, Ordering::Relaxed);
        let aside = path.with_file_name(format!(".{name}.{}-{serial}.partial", std::process::id()));
        let open = || {
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                fs::create_dir_all(folder)?;
            }
            File::create_new(&aside)
        };
        let file =
            open().map_err(|source| DataError::Write { path: path.to_path_buf(), source })?;
        let writer = Some(BufWriter::with_capacity(1 << 20, file));
        Ok(Self { writer, aside, path: path.to_path_buf() })
    }

    /// Flushes to the disk and renames to the final path.
    pub(crate) fn commit(mut self) -> Result<(), DataError> {
        let writer =
            self.writer.take().expect("the writer is taken here only, and this consumes the file");
        let finish = || {
            let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            fs::rename(&self.aside, &self.path)
        };
        finish().map_err(|source| DataError::Write { path: self.path.clone(), source })
    }
}

impl Write for AsideFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.as_mut().expect("the writer lives until commit").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().expect("the writer lives until commit").flush()
    }
}

impl Drop for AsideFile {
    fn drop(&mut self) {
        // After a commit the name is gone, and a removal that fails leaves nothing to do.
        drop(fs::remove_file(&self.aside));
    }
}
