//! One error type for the libraries: a class a caller can branch on, a stable code a test can name,
//! and a message that says place, value, limit and remedy.
#![forbid(unsafe_code)]

/// What kind of failure this is; each class has one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The call itself was wrong (flags, options).
    Usage,
    /// A request or an input line was wrong.
    Data,
    /// A named input does not exist or cannot be opened.
    NoInput,
    /// A model file is damaged or contradicts itself.
    Model,
    /// A valid thing that this program does not support.
    Unsupported,
    /// A fault of our own.
    Internal,
    /// Reading or writing failed.
    Io,
    /// Failed for now; the same call may succeed later.
    Temp,
    /// A configuration or policy file is wrong.
    Config,
}

impl Class {
    /// The process exit code of this class, after sysexits.h.
    pub fn exit_code(self) -> u8 {
        match self {
            Class::Usage => 64,
            Class::Data | Class::Model => 65,
            Class::NoInput => 66,
            Class::Unsupported => 69,
            Class::Internal => 70,
            Class::Io => 74,
            Class::Temp => 75,
            Class::Config => 78,
        }
    }
}

/// A failure with its class, a stable code, and a message fit to show a user as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What a caller branches on.
    pub class: Class,
    /// A stable name of the exact failure, e.g. `HeaderTooLarge`.
    pub code: &'static str,
    /// File or request, place, value, limit and remedy in one sentence or two.
    pub message: String,
}

/// The result of everything in the libraries that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of `class` named `code`.
    pub fn new(class: Class, code: &'static str, message: impl Into<String>) -> Self {
        Self { class, code, message: message.into() }
    }

    /// A damaged or contradictory model file.
    pub fn model(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Class::Model, code, message)
    }

    /// A valid thing that is not supported.
    pub fn unsupported(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Class::Unsupported, code, message)
    }

    /// A wrong request.
    pub fn data(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Class::Data, code, message)
    }

    /// An operating-system failure while touching `path`: missing and forbidden files are
    /// [`Class::NoInput`], everything else is [`Class::Io`].
    pub fn io(path: &std::path::Path, doing: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
        let class = match error.kind() {
            NotFound | PermissionDenied | IsADirectory | NotADirectory => Class::NoInput,
            _ => Class::Io,
        };
        Self::new(class, "Os", format!("{}: cannot {doing}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::Class::{self, *};

    #[test]
    fn every_class_has_its_exit_code() {
        // A class without a line here does not compile.
        let table = |class: Class| match class {
            Usage => 64,
            Data => 65,
            NoInput => 66,
            Model => 65,
            Unsupported => 69,
            Internal => 70,
            Io => 74,
            Temp => 75,
            Config => 78,
        };
        for class in [Usage, Data, NoInput, Model, Unsupported, Internal, Io, Temp, Config] {
            assert_eq!(class.exit_code(), table(class), "{class:?}");
        }
    }
}
