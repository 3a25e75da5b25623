//! Every kernel, its parameters and what it may take of an SM, declared once; tests hold this table against the
//! compiled kernels.

use crate::ops::{Heads, KvType};
use crate::pack::Format;

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 8 bytes.
    Pointer,
    /// 4 bytes.
    U32,
    /// 4 bytes.
    F32,
}

/// A kernel's entry in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The entry point.
    pub name: String,
    /// The file under kernels/ that holds it.
    pub file: String,
    /// Its parameters in order.
    pub parameters: Vec<Kind>,
    /// Threads a block.
    pub threads: u32,
    /// Most registers a thread, on any architecture built for.
    pub most_registers: u32,
    /// Most bytes of static shared memory.
    pub most_shared: u32,
}

/// `p` pointer, `u` 32-bit number, `f` float.
fn kinds(letters: &str) -> Vec<Kind> {
    letters
        .chars()
        .map(|letter| match letter {
            'p' => Kind::Pointer,
            'u' => Kind::U32,
            'f' => Kind::F32,
            other => unreachable!("no kind {other}"),
        })
        .collect()
}

/// All kernels.
pub fn kernels() -> Vec<Kernel> {
    let mut all = Vec::new();
    let mut add =
        |name: String, file: &str, parameters: &str, threads: u32, most_registers: u32, most_shared: u32| {
            all.push(Kernel {
                name,
                file: file.into(),
                parameters: kinds(parameters),
                threads,
                most_registers,
                most_shared,
            });
        };
    for format in Format::ALL {
        let name = format.name();
        let file = format!("matmul_{name}.cu");
        // Two blocks of 256 threads an SM for n8, one for the others.
        add(format!("matmul_{name}_n8"), &file, "pppppuuuu", 256, 128, 4608);
        add(format!("matmul_{name}_n32"), &file, "pppppuuuu", 256, 255, 33792);
        add(format!("matmul_{name}_wide"), &file, "pppppuuuu", 256, 255, 0);
        // As for the products: two blocks an SM for n8, one for the others.
        let file = format!("head_{name}.cu");
        add(format!("head_{name}_n8"), &file, "ppppppuuu", 256, 128, 0);
        add(format!("head_{name}_n32"), &file, "ppppppuuu", 256, 255, 0);
        add(format!("head_{name}_n64"), &file, "ppppppuuu", 256, 255, 0);
        add(format!("embed_{name}"), "embed.cu", "ppppuu", 128, 64, 0);
        add(format!("unpack_{name}"), "unpack.cu", "ppuu", 256, 64, 0);
    }
    for head_dim in Heads::SIZES {
        for kv in KvType::ALL {
            let kind = format!("{}_{head_dim}", kv.name());
            let file = format!("attend_{kind}.cu");
            let shared = 64 * (head_dim + 4) * 4 + 64 * 20;
            add(format!("attend_decode_{kind}"), &file, "ppppppuuuuf", 128, 168, shared);
            add(format!("attend_prefill_{kind}"), &file, "pppppppuuuf", 128, 255, head_dim * 256);
        }
        add(format!("attend_merge_{head_dim}"), "attend_merge.cu", "pppppuu", 128, 64, 0);
    }
    for kv in KvType::ALL.map(KvType::name) {
        let signals = "attention_signals.cu";
        add(format!("rope_store_{kv}"), "rope_store.cu", "ppppppppppuuuuuf", 256, 64, 0);
        add(format!("attention_disagreement_{kv}"), signals, "pppppppuuuuuf", 64, 64, 16);
    }
    add("rms_norm".into(), "rms_norm.cu", "pppppuf", 256, 64, 32);
    add("swiglu_rows".into(), "swiglu.cu", "pppu", 256, 64, 0);
    add("attention_signals".into(), "attention_signals.cu", "ppppppuuuu", 32, 64, 0);
    add("signals_merge".into(), "signals.cu", "ppppppuu", 256, 64, 416);
    add("candidates".into(), "candidates.cu", "pppppppuu", 256, 64, 3104);
    add("draw".into(), "draw.cu", "ppppppppuu", 1024, 64, 4608);
    add("copy_blocks".into(), "copy_blocks.cu", "pppuuuuu", 128, 64, 0);
    add("wrappers".into(), "wrappers.cu", "pp", 32, 64, 512);
    all
}
