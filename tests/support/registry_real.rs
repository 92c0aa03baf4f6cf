//! A real registry on loopback: Debian's `docker-registry`, filled by skopeo.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::image::skopeo;

/// A registry that runs on 127.0.0.1, over plain HTTP, until it is dropped.
pub struct RealRegistry {
    guard: Child,
    port: u16,
    dir: TempDir,
}

/// Starts a registry on a free port, and waits until it answers.
pub fn real_registry() -> RealRegistry {
    // Somebody may take the port between our look and the registry's: then another.
    (0..5).find_map(|_| RealRegistry::start()).expect("docker-registry does not start: is it installed?")
}

impl RealRegistry {
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: false}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\n",
            dir.path().join("data").display()
        );
        let config_path = dir.path().join("config.yml");
        fs::write(&config_path, config).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        // The shell holds our pipe: when this process dies, however it dies, `read` ends and the registry with it.
        let guard = Command::new("sh")
            .args(["-c", "docker-registry serve \"$0\" & read -r _; kill $!; wait"])
            .arg(&config_path)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let registry = Self { guard, port, dir };
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
        Ok(answer.contains(" 200 "))
    }

    /// Copies what `from` names (a whole index, if it is one) to `name` (`app:v1`) and returns `docker://…`.
    pub fn push(&self, from: &str, name: &str) -> String {
        let to = self.reference(name);
        skopeo(&[
            "copy",
            "-q",
            "--insecure-policy",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
            from,
            &to,
        ]);
        to
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
