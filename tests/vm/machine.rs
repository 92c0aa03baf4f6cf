//! Booting a small machine that runs a scenario of these tests inside. Knows QEMU, what the machine is made
//! of and how its end is read; ignores what a scenario does.

use std::{
    env,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use super::{cpio::Cpio, marks::TAIL};
use support::repo::{Scratch, program, scratch};

/// No scenario takes longer, without virtualisation and on a machine that does other things.
const LONGEST: Duration = Duration::from_secs(600);
/// A machine with virtualisation is up long before.
const SOON: Duration = Duration::from_secs(20);
/// How many disks a machine can have: functions of as many devices as its bus has left.
pub const MOST_DISKS: usize = 8 * 24;

/// The word before the exit code.
pub const EXIT: &str = "VM-EXIT ";

/// The variable that names the scenario.
pub const SCENARIO: &str = "CFS_DAG_VM";

/// The scenario that only comes up and ends.
pub const NOTHING: &str = "nothing";

/// Where `.ci/vm-tools` has put everything.
fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let root = support::root();
        let tools = root.join("target/vm");
        let script = root.join(".ci/vm-tools");
        let status = Command::new(&script).arg(&tools).stdin(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "{} failed", script.display());
        tools
    })
}

/// A disk of a machine: an image file with an empty ext4, and behind it room for marks.
pub struct Disk {
    path: PathBuf,
    log: Option<PathBuf>,
    _scratch: Scratch,
}

impl Disk {
    /// With fs-verity, of so many MiB.
    pub fn new(mebibytes: u32) -> Self {
        Self::formatted(mebibytes, "4096", "verity")
    }

    /// Without fs-verity.
    pub fn plain(mebibytes: u32) -> Self {
        Self::formatted(mebibytes, "4096", "^verity")
    }

    /// With the feature, and with blocks that are too small for the fs-verity that composefs wants.
    pub fn with_small_blocks(mebibytes: u32) -> Self {
        Self::formatted(mebibytes, "1024", "verity")
    }

    fn formatted(mebibytes: u32, block_bytes: &str, features: &str) -> Self {
        let scratch = scratch();
        let path = scratch.path("disk.img");
        // Smaller blocks than pages are what small disks would get, and no fs-verity. Nothing is left for the
        // kernel to do in its own time, which would be other writes in every run.
        let made = Command::new("/sbin/mke2fs")
            .args(["-q", "-t", "ext4", "-b", block_bytes, "-O", features])
            .args(["-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(&path)
            .arg(format!("{mebibytes}M"))
            .output()
            .expect("mke2fs runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len((u64::from(mebibytes) << 20) + TAIL).unwrap();
        Self { path, log: None, _scratch: scratch }
    }

    /// The image file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A copy, to which machines write through a log of all their writes.
    pub fn logged(&self) -> Self {
        let mut copy = self.copied(copy_image);
        let log = copy._scratch.path("log");
        File::create(&log).unwrap();
        copy.log = Some(log);
        copy
    }

    /// A disk that `copy` makes of the path of this one and its own.
    pub fn copied(&self, copy: impl FnOnce(&Path, &Path)) -> Self {
        let scratch = scratch();
        let path = scratch.path("disk.img");
        copy(&self.path, &path);
        Self { path, log: None, _scratch: scratch }
    }

    /// The log, if it has one.
    pub fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        fs::metadata(&self.path).unwrap().len()
    }

    /// Asserts that the filesystem is in order.
    #[track_caller]
    pub fn assert_filesystem_clean(&self) {
        let checked =
            Command::new("/sbin/e2fsck").args(["-fn"]).arg(&self.path).output().expect("e2fsck runs");
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }

    /// How QEMU opens it. The host need not flush anything: only the guest can be cut off here.
    fn options(&self, number: usize) -> Vec<String> {
        let file = |key: &str, path: &Path| {
            format!("{key}.driver=file,{key}.filename={},{key}.cache.no-flush=on", path.display())
        };
        let node = match &self.log {
            None => format!("driver=raw,node-name=d{number},{}", file("file", &self.path)),
            Some(log) => {
                format!(
                    "driver=blklogwrites,node-name=d{number},{},{}",
                    file("file", &self.path),
                    file("log", log)
                )
            }
        };
        let (device, function) = (3 + number / 8, number % 8);
        let device = format!(
            "virtio-blk-pci,drive=d{number},addr={device:#x}.{function:#x},multifunction=on,discard=off,\
             write-zeroes=off"
        );
        vec!["-blockdev".into(), node, "-device".into(), device]
    }
}

/// Copies an image file, holes as holes.
pub fn copy_image(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["--sparse=always", "--"]).args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp failed");
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
        Self::boot_with(accelerator(), scenario, disks)
    }

    fn boot_with(accelerator: &str, scenario: &str, disks: &[&Disk]) -> Self {
        assert!(disks.len() <= MOST_DISKS);
        let (tools, scratch) = (tools(), scratch());
        let console = scratch.path("console");
        let library = tools.join("qemu/usr/lib/x86_64-linux-gnu");
        let share = |name: &str| tools.join("qemu/usr/share").join(name);
        let mut qemu = Command::new(tools.join("qemu/usr/bin/qemu-system-x86_64"));
        qemu.env(
            "LD_LIBRARY_PATH",
            format!("{}:{}", library.display(), tools.join("qemu/lib/x86_64-linux-gnu").display()),
        )
        .arg("-L")
        .arg(share("qemu"))
        .arg("-L")
        .arg(share("seabios"))
        .args(["-M", "q35", "-accel", accelerator, "-cpu", "max", "-smp", "1", "-m", "768"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial"])
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(tools.join("vmlinuz"))
        .arg("-initrd")
        .arg(initrd())
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet panic=-1 oops=panic rdinit=/init {SCENARIO}={scenario} -- guest \
                 --exact --nocapture"
        ))
        .stdin(Stdio::null());
        for (number, disk) in disks.iter().enumerate() {
            qemu.args(disk.options(number));
        }
        let child = qemu.spawn().unwrap_or_else(|error| panic!("{qemu:?}: {error}"));
        Self { child, console, began: Instant::now(), _scratch: scratch }
    }

    /// Ends it as a power cut would, once `due` says so. What it has written to its disks stays. False
    /// if it had ended by itself.
    pub fn cut_when(mut self, due: impl Fn() -> bool) -> bool {
        while !due() {
            if !self.is_running() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    #[track_caller]
    fn is_running(&mut self) -> bool {
        assert!(self.began.elapsed() < LONGEST, "the machine does not end:\n{}", self.console());
        self.child.try_wait().unwrap().is_none()
    }

    /// What its console has shown.
    pub fn console(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.console) {
            file.read_to_end(&mut bytes).unwrap();
        }
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Waits for its end and asserts that the scenario went well.
    #[track_caller]
    pub fn assert_good(self) -> String {
        let (code, console) = self.wait();
        assert_eq!(code, Some(0), "{console}");
        console
    }

    /// Waits for its end: the scenario's exit code, and what the console has shown.
    #[track_caller]
    pub fn wait(mut self) -> (Option<i32>, String) {
        while self.is_running() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let console = self.console();
        let code =
            console.lines().find_map(|line| line.strip_prefix(EXIT)).and_then(|code| code.parse().ok());
        (code, console)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hardware virtualisation where a machine really comes up with it, and emulation elsewhere: there are hosts
/// with a `/dev/kvm` that boots no kernel.
fn accelerator() -> &'static str {
    static CHOSEN: OnceLock<&str> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let modules = ["/sys/module/kvm_intel", "/sys/module/kvm_amd"];
        let offered = modules.iter().any(|module| Path::new(module).exists())
            && fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if !offered {
            return "tcg";
        }
        let mut machine = Machine::boot_with("kvm", NOTHING, &[]);
        while machine.is_running() && machine.began.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(20));
        }
        if machine.console().contains(&format!("{EXIT}0")) { "kvm" } else { "tcg" }
    })
}

/// The machine's first filesystem: this program and cfs-dag, where they are here, with what they need. The
/// same for all machines of a run.
fn initrd() -> &'static Path {
    static INITRD: OnceLock<(PathBuf, Scratch)> = OnceLock::new();
    let made = INITRD.get_or_init(|| {
        let scratch = scratch();
        let mut cpio = Cpio::default();
        for folder in ["dev", "proc", "sys", "tmp", "var/tmp", "disk", "mnt"] {
            cpio.folder(folder);
        }
        cpio.device("dev/console", 5, 1);
        let this = env::current_exe().unwrap();
        let cfs_dag = Path::new(program());
        let strace = Path::new("/usr/bin/strace");
        let programs = [("/init", &*this), ("/cfs-dag", cfs_dag), ("/usr/bin/strace", strace)];
        for (path, from) in programs {
            // Nine tenths of a program in development are for debuggers.
            let stripped = scratch.path("stripped");
            let strip = Command::new("strip").arg("-o").arg(&stripped).arg(from).status();
            assert!(strip.is_ok_and(|strip| strip.success()), "strip failed");
            cpio.copy(path, &stripped);
        }
        for library in libraries(&programs.map(|(_, from)| from)) {
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
