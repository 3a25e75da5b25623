//! What stands here in a program that is built without Parquet.

use entropix_model::{Error, Result};
use std::ffi::OsString;
use std::fs::File;
use std::io::BufRead;
use std::path::Path;

/// Says so.
pub(super) fn supported(path: &Path) -> Result<()> {
    let message = format!(
        "{}: this program was built without Parquet; build it with cargo's --features parquet, or use JSON lines",
        path.display()
    );
    Err(Error::unsupported("Parquet", message))
}

pub(in crate::jobs) fn rows(_: &File, path: &Path, _: Option<&[OsString]>) -> Result<Box<dyn BufRead>> {
    supported(path).map(|()| unreachable!("it never is"))
}

pub(super) mod write {
    use crate::jobs::parquet::Shape;
    use entropix_model::Result;
    use std::path::Path;

    pub(in crate::jobs::parquet) fn write(_: &Path, parquet: &Path, _: Shape) -> Result<()> {
        super::supported(parquet)
    }
}
