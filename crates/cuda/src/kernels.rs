//! Which kernels a model needs, and how its device comes by them: from the images of this build, else compiled there.

use crate::abi;
use crate::cubins::{Key, cached};
use crate::driver::{Driver, Found, Nvrtc};
use crate::images::{self, IMAGES};
use crate::ops;
use crate::options::{CudaOptions, Sizes};
use crate::weights::{self, Opening, Progress};
use entropix_model::{Error, Result, Weights};
use std::collections::BTreeMap;
use std::path::Path;

/// By file, each kernel with the dynamic shared memory that it may be launched with.
type Wanted = BTreeMap<String, Vec<(String, u32)>>;

/// Loads every kernel that a model needs; the version of NVRTC, if that had to make them. What it makes is kept in `cache`.
///
/// # Errors
/// `KernelImage` when none runs there, `KernelCompile` when NVRTC refuses one; both `Unsupported`.
pub(crate) fn load(
    driver: &mut Driver,
    sizes: &Sizes,
    weights: &Weights,
    cache: Option<&Path>,
    progress: &Progress<'_>,
) -> Result<Option<(u32, u32)>> {
    load_wanted(driver, &wanted(sizes, weights), cache, progress)
}

/// As [`load`], every kernel there is, for vocabularies of up to `vocab` tokens and models of up to `n_heads` heads.
pub(crate) fn load_all(driver: &mut Driver, vocab: u32, n_heads: u32) -> Result<Option<(u32, u32)>> {
    let mut files = Wanted::new();
    for kernel in abi::kernels() {
        let shared = shared(&kernel.name, vocab, n_heads);
        files.entry(kernel.file).or_default().push((kernel.name, shared));
    }
    load_wanted(driver, &files, None, &|_| {})
}

fn load_wanted(
    driver: &mut Driver,
    wanted: &Wanted,
    cache: Option<&Path>,
    progress: &Progress<'_>,
) -> Result<Option<(u32, u32)>> {
    let refused = if images::are_usable(driver.found().driver) {
        match load_images(driver, wanted) {
            Err(error) if error.code == "KernelImage" => error.message,
            loaded => return loaded.map(|()| None),
        }
    } else {
        format!("{}: no kernels of this build are for it", driver.found())
    };
    let version = driver.found().driver;
    let nvrtc = Nvrtc::find(version).map_err(|none| {
        let message = format!(
            "{refused}, and there is no NVRTC to compile them for it: {none}; {}, update the driver, build on this machine with its \
             own nvcc, or use --device cpu",
            Nvrtc::remedy(version)
        );
        Error::unsupported("KernelImage", message)
    })?;
    compile(driver, wanted, &nvrtc, cache, progress)?;
    Ok(Some(nvrtc.version()))
}

/// What makes the kernels of a device: none where this build holds them and its driver takes one of them, which is tried, else
/// the NVRTC that compiles them there.
///
/// # Errors
/// `NoKernels` of class `Unsupported`: that there is neither; and whatever the device fails in.
pub fn compiler(found: &Found) -> Result<Option<Nvrtc>> {
    let mut refused = String::new();
    if images::are_usable(found.driver)
        && let Some((file, image)) = IMAGES.iter().min_by_key(|(_, image)| image.len())
    {
        let mut driver = Driver::open(found.ordinal, CudaOptions::default().patience)?;
        match driver.load(file, image, &[]) {
            Ok(()) => return Ok(None),
            Err(error) if error.code == "KernelImage" => refused = format!("{}, and ", error.message),
            Err(error) => return Err(error),
        }
    }
    Nvrtc::find(found.driver).map(Some).map_err(|none| {
        let message =
            format!("{refused}there is no NVRTC to compile them: {none}; {}", Nvrtc::remedy(found.driver));
        Error::unsupported("NoKernels", message)
    })
}

/// Dynamic shared memory that a kernel may be launched with.
fn shared(kernel: &str, vocab: u32, n_heads: u32) -> u32 {
    match kernel.split('_').collect::<Vec<_>>()[..] {
        ["draw"] => ops::draw_shared(vocab),
        ["attention", "disagreement", _] => n_heads * 64 * 4,
        ["matmul", .., "wide"] => ops::Width::Wide.shared(),
        ["head", .., "n8"] => ops::HeadWidth::N8.shared(),
        ["head", .., "n32"] => ops::HeadWidth::N32.shared(),
        ["head", .., "n64"] => ops::HeadWidth::N64.shared(),
        _ => 0,
    }
}

fn wanted(sizes: &Sizes, weights: &Weights) -> Wanted {
    let (formats, head) = (weights::layer_formats(weights), weights::head_format(weights));
    let vocabulary = u32::try_from(sizes.vocab).expect("a checked vocabulary");
    let (kv, head_dim) = (sizes.heads.kv.name(), sizes.heads.head_dim.to_string());
    let mut files = Wanted::new();
    for kernel in abi::kernels() {
        let parts: Vec<&str> = kernel.name.split('_').collect();
        let is_wanted = match parts[..] {
            ["attend", "merge", size] => size == head_dim,
            ["attend", _, kind, size] => kind == kv && size == head_dim,
            ["unpack" | "swiglu", ..] => sizes.fast.is_some(),
            ["wrappers"] => false,
            ["rope", "store", kind] | ["attention", "disagreement", kind] => kind == kv,
            _ => match kernel.file.trim_end_matches(".cu").split_once('_') {
                Some(("matmul", format)) => formats.iter().any(|f| f.name() == format),
                Some(("head", format)) => head.name() == format,
                _ => true,
            },
        };
        if is_wanted {
            let shared = shared(&kernel.name, vocabulary, sizes.heads.n_heads);
            files.entry(kernel.file).or_default().push((kernel.name, shared));
        }
    }
    files
}

fn load_images(driver: &mut Driver, wanted: &Wanted) -> Result<()> {
    for (file, kernels) in wanted {
        let image = IMAGES.iter().find(|(name, _)| name == file);
        let (_, image) = image.unwrap_or_else(|| panic!("{file} has no image"));
        driver.load(file, image, kernels)?;
    }
    Ok(())
}

/// Compiles what is wanted, or takes it from the cache, and loads it.
fn compile(
    driver: &mut Driver,
    wanted: &Wanted,
    nvrtc: &Nvrtc,
    cache: Option<&Path>,
    progress: &Progress<'_>,
) -> Result<()> {
    let architecture = architecture(driver.found().capability);
    let version = nvrtc.version();
    let folder = cache.map(|cache| cache.join("kernels"));
    let mut is_told = false;
    for (file, kernels) in wanted {
        let key = Key { file, architecture: &architecture, version, options: &Nvrtc::OPTIONS };
        let code = cached(folder.as_deref(), &key, || {
            if !std::mem::replace(&mut is_told, true) {
                progress(Opening::Kernels { nvrtc: version, architecture: &architecture });
            }
            nvrtc.compile(file, &architecture)
        })?;
        // A driver may look at words.
        let mut words = vec![0u128; code.len().div_ceil(16)];
        let bytes = &mut bytemuck::cast_slice_mut(&mut words)[..code.len()];
        bytes.copy_from_slice(&code);
        driver.load(file, bytes, kernels).map_err(|error| match error.code {
            "KernelImage" => Error {
                message: format!(
                    "{}; {nvrtc} made them: update the driver, take another version of NVRTC, or use --device cpu",
                    error.message
                ),
                ..error
            },
            _ => error,
        })?;
    }
    Ok(())
}

/// What compilers call a device of that capability; 9.0 has instructions that no other has.
fn architecture((major, minor): (u32, u32)) -> String {
    let own = if (major, minor) == (9, 0) { "a" } else { "" };
    format!("sm_{major}{minor}{own}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_are_named_as_compilers_do() {
        assert_eq!(
            [(8, 0), (8, 9), (9, 0), (12, 1)].map(architecture),
            ["sm_80", "sm_89", "sm_90a", "sm_121"]
        );
    }
}
