//! How registries are reached and whom to believe. Knows what skopeo can be told; ignores who
//! asks what of a registry.

use std::{
    fs::File,
    io::Write,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use base64::Engine;
use rustix::{fs::MemfdFlags, io::FdFlags, process::Signal};

use super::{Platform, Result, SourceError};

/// Bytes of a file of credentials or of a policy that no such file needs.
const MAX_FILE: u64 = 1 << 20;

/// How registries are talked to, and whom to believe.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Access {
    /// Credentials, as `skopeo login` writes them; by default containers-auth.json(5) says where they are.
    pub authfile: Option<PathBuf>,
    /// Credentials for the registry of this name, with its port if it has one; with them no file is read.
    pub credentials: Option<(String, Credentials)>,
    /// A directory of certificates and keys for the registry.
    pub cert_dir: Option<PathBuf>,
    /// Whether registries must prove who they are. `false` also allows plain HTTP.
    pub tls_verify: bool,
    /// The signature policy (containers-policy.json(5)) to enforce.
    pub policy: Option<PathBuf>,
    /// The program to run for skopeo.
    pub skopeo: PathBuf,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            authfile: None,
            credentials: None,
            cert_dir: None,
            tls_verify: true,
            policy: None,
            skopeo: "skopeo".into(),
        }
    }
}

impl Access {
    /// skopeo takes a file of credentials that is not there for an empty one, and reads one that has no end
    /// for ever: who named it should know.
    pub(super) fn check_paths(&self) -> Result<()> {
        let Self { authfile, cert_dir, policy, .. } = self;
        let named = [("--authfile", authfile), ("--cert-dir", cert_dir), ("--policy", policy)];
        for (option, path) in named.into_iter().filter_map(|(option, path)| Some((option, path.as_ref()?))) {
            let cannot = |why: &dyn std::fmt::Display| {
                SourceError::local(format!("{option} {}: {why}", path.display()))
            };
            let found = std::fs::metadata(path).map_err(|error| cannot(&error))?;
            if option == "--cert-dir" {
                if !found.is_dir() {
                    return Err(cannot(&"this is not a directory"));
                }
            } else if found.len() > MAX_FILE || !(found.is_file() || path == Path::new("/dev/null")) {
                return Err(cannot(&"this is not a file of 1 MiB at most"));
            }
        }
        Ok(())
    }

    /// The file of credentials that skopeo is to be told of, and what it has to inherit to find it.
    pub(super) fn authfile(&self) -> Result<(Option<PathBuf>, Option<OwnedFd>)> {
        let inherited = self.auth_file()?.map(OwnedFd::from);
        Ok((inherited.as_ref().map(path_of).or_else(|| self.authfile.clone()), inherited))
    }

    /// The credentials as skopeo reads them, in a file that has no name and that no disk ever sees.
    fn auth_file(&self) -> Result<Option<File>> {
        let Some((registry, credentials)) = &self.credentials else { return Ok(None) };
        let fault =
            |cause: std::io::Error| SourceError::local(format!("credentials cannot be passed on: {cause}"));
        let memory = rustix::fs::memfd_create("credentials", MemfdFlags::CLOEXEC);
        let mut file = File::from(memory.map_err(|errno| fault(errno.into()))?);
        file.write_all(credentials.document(registry).as_bytes()).map_err(fault)?;
        Ok(Some(file))
    }
}

/// A user's name and password at one registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl Credentials {
    /// Source: containers-auth.json(5).
    fn document(&self, registry: &str) -> String {
        let pair = format!("{}:{}", self.username, self.password);
        let auth = base64::engine::general_purpose::STANDARD.encode(pair);
        serde_json::json!({"auths": {registry: {"auth": auth}}}).to_string()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials for {:?}", self.username)
    }
}

/// What holds for one image of a run and need not hold for the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Site {
    /// The platform that the user asked for; `None` means this machine.
    pub platform: Option<Platform>,
    /// Access to the registry.
    pub access: Access,
}

/// Ties a skopeo to us: it dies with the thread that starts it, has a group of its own, so that a Ctrl-C at
/// the terminal reaches us alone and we end it in good order, and inherits `credentials`.
pub(super) fn tie(command: &mut Command, credentials: Option<OwnedFd>) {
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: these are two plain system
    // calls (prctl, fcntl) without allocation or locks.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            if let Some(credentials) = &credentials {
                rustix::io::fcntl_setfd(credentials, FdFlags::empty())?;
            }
            Ok(())
        });
    }
}

/// The path under which a process finds a descriptor that it inherits.
fn path_of(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn credentials() -> (String, Credentials) {
        ("r:5000".into(), Credentials { username: "john".into(), password: "this is a secret".into() })
    }

    #[test]
    fn credentials_become_what_skopeo_reads() {
        let access = Access { credentials: Some(credentials()), ..Access::default() };
        let mut file = access.auth_file().unwrap().unwrap();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, r#"{"auths":{"r:5000":{"auth":"am9objp0aGlzIGlzIGEgc2VjcmV0"}}}"#);
        assert!(Access::default().auth_file().unwrap().is_none());
    }

    #[test]
    fn a_password_is_shown_to_nobody() {
        let access = Access { credentials: Some(credentials()), ..Access::default() };
        let shown = format!("{access:?}");
        assert!(shown.contains("john") && !shown.contains("secret"), "{shown}");
    }
}
