//! Booting a small machine that runs a scenario of these tests inside. Knows QEMU, what the machine is made of and how
//! its end is read; ignores what a scenario does.

use std::{
    env, fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use super::cpio::Cpio;
use crate::support::repo::{Scratch, scratch};

/// No scenario takes longer, without virtualisation and on a machine that does other things.
const LONGEST: Duration = Duration::from_secs(400);

/// The word before the exit code.
pub const EXIT: &str = "VM-EXIT ";

/// The variable that names the scenario.
pub const SCENARIO: &str = "CFS_DAG_VM";

/// Where `.ci/vm-tools` has put everything.
fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let tools = root.join("target/vm");
        let script = root.join(".ci/vm-tools");
        let status = Command::new(&script).arg(&tools).stdin(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "{} failed", script.display());
        tools
    })
}

/// A disk of a machine: an image file with an empty ext4 that can do fs-verity.
pub struct Disk {
    path: PathBuf,
    _scratch: Scratch,
}

impl Disk {
    /// Of so many MiB.
    pub fn new(mebibytes: u32) -> Self {
        let scratch = scratch();
        let path = scratch.path("disk.img");
        // Smaller blocks than pages are what small disks would get, and no fs-verity.
        let made = Command::new("/sbin/mke2fs")
            .args(["-q", "-t", "ext4", "-O", "verity", "-b", "4096"])
            .arg(&path)
            .arg(format!("{mebibytes}M"))
            .status();
        assert!(made.is_ok_and(|made| made.success()), "mke2fs failed");
        Self { path, _scratch: scratch }
    }
}

/// A machine that is running.
pub struct Machine {
    child: Child,
    console: PathBuf,
    began: Instant,
    _scratch: Scratch,
}

impl Machine {
    /// Boots a machine with these disks (`/dev/vda` and so on), which runs `scenario` and powers off.
    pub fn boot(scenario: &str, disks: &[&Disk]) -> Self {
        let (tools, scratch) = (tools(), scratch());
        let console = scratch.path("console");
        let library = tools.join("qemu/usr/lib/x86_64-linux-gnu");
        let share = |name: &str| tools.join("qemu/usr/share").join(name);
        let mut qemu = Command::new(tools.join("qemu/usr/bin/qemu-system-x86_64"));
        qemu.env("LD_LIBRARY_PATH", format!("{}:{}", library.display(), tools.join("qemu/lib/x86_64-linux-gnu").display()))
            .arg("-L")
            .arg(share("qemu"))
            .arg("-L")
            .arg(share("seabios"))
            .args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "768"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial"])
            .arg(format!("file:{}", console.display()))
            .arg("-kernel")
            .arg(tools.join("vmlinuz"))
            .arg("-initrd")
            .arg(initrd())
            .arg("-append")
            .arg(format!(
                "console=ttyS0 quiet panic=-1 oops=panic rdinit=/init {SCENARIO}={scenario} -- guest --exact --nocapture"
            ))
            .stdin(Stdio::null());
        for (number, disk) in disks.iter().enumerate() {
            let drive = format!("if=none,id=d{number},file={},format=raw,cache=unsafe", disk.path.display());
            qemu.arg("-drive").arg(drive).arg("-device").arg(format!("virtio-blk-pci,drive=d{number}"));
        }
        let child = qemu.spawn().unwrap_or_else(|error| panic!("{qemu:?}: {error}"));
        Self { child, console, began: Instant::now(), _scratch: scratch }
    }

    /// What its console has shown.
    pub fn console(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = fs::File::open(&self.console) {
            file.read_to_end(&mut bytes).unwrap();
        }
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Waits for its end and asserts that the scenario went well.
    #[track_caller]
    pub fn assert_good(mut self) -> String {
        while self.child.try_wait().unwrap().is_none() {
            assert!(self.began.elapsed() < LONGEST, "the machine does not end:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(20));
        }
        let console = self.console();
        let code = console.lines().find_map(|line| line.strip_prefix(EXIT));
        assert_eq!(code, Some("0"), "{console}");
        console
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The machine's first filesystem: this program and cfs-dag, where they are here, with what they need. The same for all
/// machines of a run.
fn initrd() -> &'static Path {
    static INITRD: OnceLock<(PathBuf, Scratch)> = OnceLock::new();
    let made = INITRD.get_or_init(|| {
        let scratch = scratch();
        let mut cpio = Cpio::default();
        for folder in ["dev", "proc", "sys", "tmp", "var/tmp", "disk", "mnt"] {
            cpio.folder(folder);
        }
        cpio.device("dev/console", 5, 1);
        let program = env::current_exe().unwrap();
        let cfs_dag = Path::new(env!("CARGO_BIN_EXE_cfs-dag"));
        for (path, from) in [("/init", &*program), (cfs_dag.to_str().unwrap(), cfs_dag)] {
            // Nine tenths of a program in development are for debuggers.
            let stripped = scratch.path("stripped");
            let strip = Command::new("strip").arg("-o").arg(&stripped).arg(from).status();
            assert!(strip.is_ok_and(|strip| strip.success()), "strip failed");
            cpio.copy(path, &stripped);
        }
        for library in libraries(&[&program, cfs_dag]) {
            cpio.copy(&library, &fs::canonicalize(&library).unwrap());
        }
        for module in fs::read_dir(tools().join("modules")).unwrap() {
            let module = module.unwrap();
            cpio.copy(&format!("modules/{}", module.file_name().to_str().unwrap()), &module.path());
        }
        let path = scratch.path("initrd");
        fs::write(&path, cpio.finish()).unwrap();
        (path, scratch)
    });
    &made.0
}

/// The shared libraries of programs, as the loader finds them.
fn libraries(programs: &[&Path]) -> Vec<String> {
    let listed = Command::new("ldd").args(programs).output().expect("ldd runs");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
    let lines = listed.lines().filter(|line| line.starts_with('\t'));
    let mut libraries: Vec<String> = lines.filter_map(path).collect();
    libraries.sort();
    libraries.dedup();
    libraries
}
