//! A real registry on loopback: Debian's `docker-registry`, filled by skopeo; open to all, or with users and
//! certificates of its own.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::image::skopeo;

/// A registry that runs on 127.0.0.1 until it is dropped.
pub struct RealRegistry {
    guard: Child,
    port: u16,
    dir: TempDir,
    user: Option<User>,
}

/// Somebody whom a registry knows.
#[derive(Debug, Clone, Copy)]
pub struct User {
    pub name: &'static str,
    pub password: &'static str,
    /// The password as bcrypt has it: made once, with crypt(3).
    pub hash: &'static str,
}

/// What a registry wants of its clients.
#[derive(Default)]
pub struct Guarded<'a> {
    /// Basic authentication as this user.
    pub user: Option<User>,
    /// TLS, with a certificate of this authority.
    pub authority: Option<&'a Authority>,
}

/// A certificate authority that nobody knows.
pub struct Authority(TempDir);

impl Authority {
    /// A new one.
    pub fn made() -> Self {
        let dir = tempfile::tempdir().unwrap();
        openssl(
            dir.path(),
            &["-subj", "/CN=an authority of the tests", "-out", "ca.crt", "-keyout", "ca.key"],
        );
        fs::create_dir(dir.path().join("certs")).unwrap();
        fs::rename(dir.path().join("ca.crt"), dir.path().join("certs/ca.crt")).unwrap();
        Self(dir)
    }

    /// The directory with its own certificate alone, for `cert-dir`.
    pub fn cert_dir(&self) -> PathBuf {
        self.0.path().join("certs")
    }

    /// Puts a certificate for 127.0.0.1 and its key into `dir`, as `tls.crt` and `tls.key`.
    fn certify(&self, dir: &Path) {
        let (ca, key) = (self.cert_dir().join("ca.crt"), self.0.path().join("ca.key"));
        let by = ["-CA", ca.to_str().unwrap(), "-CAkey", key.to_str().unwrap()];
        let about = ["-subj", "/CN=a registry", "-addext", "subjectAltName=IP:127.0.0.1"];
        openssl(dir, &[&by[..], &about, &["-out", "tls.crt", "-keyout", "tls.key"]].concat());
    }
}

/// Makes a key and a certificate.
fn openssl(dir: &Path, args: &[&str]) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| panic!("openssl does not start: {error}"));
    assert!(made.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&made.stderr));
}

/// Starts a registry over plain HTTP on a free port, and waits until it answers.
pub fn real_registry() -> RealRegistry {
    guarded_registry(&Guarded::default())
}

/// The same with users and certificates.
pub fn guarded_registry(guarded: &Guarded) -> RealRegistry {
    // Somebody may take the port between our look and the registry's: then another.
    (0..5)
        .find_map(|_| RealRegistry::start(guarded))
        .expect("docker-registry does not start: is it installed?")
}

impl RealRegistry {
    fn start(guarded: &Guarded) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (mut tls, mut auth) = (String::new(), String::new());
        if let Some(authority) = guarded.authority {
            authority.certify(dir.path());
            tls = format!(", tls: {{certificate: {}, key: {}}}", path("tls.crt"), path("tls.key"));
        }
        if let Some(User { name, hash, .. }) = guarded.user {
            fs::write(dir.path().join("htpasswd"), format!("{name}:{hash}\n")).unwrap();
            auth = format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", path("htpasswd"));
        }
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             {auth}http: {{addr: \"127.0.0.1:{port}\"{tls}}}\n",
            path("data")
        );
        let config_path = dir.path().join("config.yml");
        fs::write(&config_path, config).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        // The shell holds our pipe: when this process dies, however it dies, `read` ends
        // and the registry with it.
        let guard = Command::new("sh")
            .args(["-c", "docker-registry serve \"$0\" & read -r _; kill $!; wait"])
            .arg(&config_path)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let registry = Self { guard, port, dir, user: guarded.user };
        registry.answers_within(Duration::from_secs(10)).then_some(registry)
    }

    fn answers_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.answers().unwrap_or(false) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("docker-registry: {}", self.log());
        false
    }

    fn answers(&self) -> std::io::Result<bool> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        connection.set_read_timeout(Some(Duration::from_secs(1)))?;
        connection.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        // One with TLS says to plain HTTP that it is wrong here; one with users does not know us.
        Ok([" 200 ", " 400 ", " 401 "].iter().any(|status| answer.contains(status)))
    }

    /// Copies what `from` names (a whole index, if it is one) to `name` (`app:v1`) and returns `docker://…`.
    pub fn push(&self, from: &str, name: &str) -> String {
        let to = self.reference(name);
        let mut args: Vec<&str> =
            "copy -q --insecure-policy --all --preserve-digests --dest-tls-verify=false".split(' ').collect();
        let creds = self.user.map(|user| format!("--dest-creds={}:{}", user.name, user.password));
        args.extend(creds.as_deref());
        args.extend([from, &to]);
        skopeo(&args);
        to
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `docker://127.0.0.1:PORT/NAME`.
    pub fn reference(&self, name: &str) -> String {
        format!("docker://127.0.0.1:{}/{name}", self.port)
    }

    /// Forgets what was asked until now.
    pub fn forget_requests(&self) {
        File::options().write(true).open(self.log_path()).unwrap().set_len(0).unwrap();
    }

    /// The digests of the blobs that were read since the last [`RealRegistry::forget_requests`], in order.
    pub fn blobs_read(&self) -> Vec<String> {
        let log = self.log();
        let reads = log.lines().filter(|line| line.contains("\"GET /v2/"));
        reads.filter_map(|line| line.split("/blobs/").nth(1)?.split(' ').next()).map(str::to_owned).collect()
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap()).replace('\0', "")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
