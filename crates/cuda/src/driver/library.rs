//! Where libraries of NVIDIA's are looked for that no driver brings: named by the user, else the newest that the driver takes.
#![allow(unsafe_code)]

use entropix_model::{Error, Result};
use libloading::Library;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The oldest and the newest major version of CUDA whose libraries are looked for.
pub(super) const MAJORS: (u32, u32) = (12, 13);

/// A library that may be there.
pub(super) struct Sought {
    /// What messages call it.
    pub(super) name: &'static str,
    /// The code of errors that there is none.
    pub(super) code: &'static str,
    /// The variable that names it; `off` is none at all.
    pub(super) variable: &'static str,
    /// The file's name before `.so`.
    pub(super) file: &'static str,
    /// The package of pip's that has it; that of CUDA 12 ends with `-cu12`.
    pub(super) package: &'static str,
    /// Where that of CUDA 12 puts it, among NVIDIA's.
    pub(super) folder: &'static str,
}

impl Sought {
    /// What the user named.
    fn named(&self) -> Option<OsString> {
        env::var_os(self.variable).filter(|value| !value.is_empty())
    }

    /// Whether the user named one.
    pub(super) fn is_named(&self) -> bool {
        self.named().is_some_and(|name| name != "off")
    }

    /// The error that a path leads to none.
    pub(super) fn refuse(&self, path: &Path, what: &str) -> Error {
        Error::unsupported(self.code, format!("{}: {what}", path.display()))
    }

    /// The error that one that was found, e.g. `NVRTC 13.0 (PATH)`, is of a newer CUDA than the driver.
    pub(super) fn too_new(&self, found: &dyn std::fmt::Display, driver: (u32, u32)) -> Error {
        let message = format!("{found} is newer than the driver, which is of CUDA {}.{}", driver.0, driver.1);
        Error::unsupported(self.code, message)
    }

    /// Opens the library at `path`, or of that name where the system looks for libraries. It stays open to the end of the
    /// process.
    pub(super) fn open(&self, path: &Path) -> Result<&'static Library> {
        // SAFETY: whoever names the library vouches for what its initialisers do.
        let library = unsafe { Library::new(path) }.map_err(|error| {
            // What the system said begins with the path.
            let said = std::error::Error::source(&error).map_or(error.to_string(), |why| why.to_string());
            self.refuse(path, said.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&said))
        })?;
        // What it registered with the process may be called at the end, so it is never closed.
        Ok(Box::leak(Box::new(library)))
    }

    /// What `open` makes of the one that the user named, else of the first candidate of which it makes something.
    ///
    /// # Errors
    /// Why there is none, in half a sentence.
    pub(super) fn find<T>(&self, driver: (u32, u32), open: impl Fn(&Path) -> Result<T>) -> Result<T, String> {
        if let Some(named) = self.named() {
            if named == "off" {
                return Err(format!("${} is off", self.variable));
            }
            return open(Path::new(&named)).map_err(|error| format!("${} names {error}", self.variable));
        }
        if driver.0 < MAJORS.0 {
            return Err(format!("what it makes needs a driver of CUDA {}.0", MAJORS.0));
        }
        let mut unfit = String::new();
        for path in self.candidates(driver.0, &|name| env::var_os(name)) {
            match open(&path) {
                Ok(found) => return Ok(found),
                // One that merely has the name is worth a word; that most places have none is not.
                Err(error) if path.is_file() => unfit += &format!("; {error}"),
                Err(_) => {}
            }
        }
        let majors: Vec<String> = majors(driver.0).map(|major| major.to_string()).collect();
        Err(format!(
            "none of CUDA {} is known to the system or lies in $CUDA_HOME, $CUDA_PATH, /usr/local/cuda or $VIRTUAL_ENV{unfit}",
            majors.join(" or ")
        ))
    }

    /// What helps when there is none.
    pub(super) fn remedy(&self, driver: (u32, u32)) -> String {
        if self.named().is_some_and(|name| name == "off") {
            return format!("unset ${}", self.variable);
        }
        match majors(driver.0).last() {
            Some(major) => {
                // CUDA 12 is the last that has its number in the package's name.
                let suffix = if major == 12 { "-cu12" } else { "" };
                format!(
                    "install a CUDA toolkit, or {}{suffix} of CUDA {major} with pip and name its {} in ${}",
                    self.package, self.file, self.variable
                )
            }
            None => "update the driver".into(),
        }
    }

    /// Where one may be that is no newer than the driver, the newest first: of each version where the system looks, in a
    /// toolkit, and where pip puts it.
    fn candidates(&self, driver_major: u32, look_up: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
        let folder = |name: &str| look_up(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let toolkits = [folder("CUDA_HOME"), folder("CUDA_PATH"), Some("/usr/local/cuda".into())];
        let mut folders: Vec<PathBuf> =
            toolkits.into_iter().flatten().map(|home| home.join("lib64")).collect();
        if let Some(home) = folder("VIRTUAL_ENV") {
            let pythons = std::fs::read_dir(home.join("lib")).into_iter().flatten().flatten();
            for packages in pythons.map(|python| python.path().join("site-packages/nvidia")) {
                folders.extend(["cu13", self.folder].map(|part| packages.join(part).join("lib")));
            }
        }
        let names =
            majors(driver_major).rev().map(|major| PathBuf::from(format!("{}.so.{major}", self.file)));
        let places = names.map(|name| {
            let placed = folders.iter().map(|folder| folder.join(&name)).filter(|path| path.is_file());
            [name.clone()].into_iter().chain(placed).collect::<Vec<_>>()
        });
        places.flatten().collect()
    }
}

/// Major versions that such a driver takes, rising.
fn majors(driver_major: u32) -> impl DoubleEndedIterator<Item = u32> {
    MAJORS.0..=MAJORS.1.min(driver_major)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUGHT: Sought = Sought {
        name: "it",
        code: "NoIt",
        variable: "ENTROPIX_IT",
        file: "libit",
        package: "nvidia-it",
        folder: "it",
    };

    #[test]
    fn newer_libraries_come_first_and_none_is_newer_than_the_driver() {
        let place = tempfile::tempdir().unwrap();
        let packages = place.path().join("lib/python3.12/site-packages/nvidia");
        let (wheel, older) = (packages.join("cu13/lib"), packages.join("it/lib"));
        let toolkit = place.path().join("cuda/lib64");
        for (folder, file) in [(&wheel, "libit.so.13"), (&older, "libit.so.12"), (&toolkit, "libit.so.12")] {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join(file), "").unwrap();
        }
        let of = |driver: u32| -> Vec<PathBuf> {
            let all = SOUGHT.candidates(driver, &|name| match name {
                "VIRTUAL_ENV" => Some(place.path().into()),
                "CUDA_HOME" => Some(place.path().join("cuda").into()),
                _ => None,
            });
            all.into_iter().filter(|path| !path.starts_with("/usr/local")).collect()
        };
        let new = wheel.join("libit.so.13");
        let old = [toolkit, older].map(|folder| folder.join("libit.so.12"));
        let of_12 = [&["libit.so.12".into()][..], &old].concat();
        assert_eq!(of(13), [&["libit.so.13".into(), new][..], &of_12].concat());
        assert_eq!(of(14), of(13));
        assert_eq!(of(12), of_12);
        assert!(of(11).is_empty());
    }

    #[test]
    fn remedies_name_the_package_of_the_driver() {
        let all = [14, 13, 12].map(|major| SOUGHT.remedy((major, 0)));
        assert!(all[..2].iter().all(|said| said.contains("nvidia-it of CUDA 13 with pip")), "{all:?}");
        assert!(all[2].contains("nvidia-it-cu12 of CUDA 12 with pip"), "{all:?}");
        assert_eq!(SOUGHT.remedy((11, 8)), "update the driver");
    }
}
