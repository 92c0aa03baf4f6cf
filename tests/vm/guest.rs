//! Inside the machine: making it usable, running a scenario, and the end. Knows mounts and
//! modules; ignores who booted it.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    panic,
    path::Path,
    time::Duration,
};

use rustix::{
    mount::{MountFlags, mount},
    system::{RebootCommand, finit_module, reboot},
};

use super::{
    cuts, faults,
    machine::{EXIT, NOTHING, SCENARIO},
    secure,
};

/// Runs the scenario that the kernel's command line names, and powers off; does nothing elsewhere.
pub fn run_if_asked() {
    let Ok(name) = env::var(SCENARIO) else { return };
    let ended = panic::catch_unwind(|| {
        set_up();
        let all = [secure::SCENARIOS, faults::SCENARIOS, cuts::SCENARIOS, &[(NOTHING, || ())]].concat();
        let scenario = all.iter().find(|(known, _)| *known == name);
        scenario.unwrap_or_else(|| panic!("no scenario {name:?}")).1();
    });
    println!("\n{EXIT}{}", i32::from(ended.is_err()));
    rustix::fs::sync();
    reboot(RebootCommand::PowerOff).unwrap();
}

fn set_up() {
    let none = MountFlags::empty();
    mount("proc", "/proc", "proc", none, c"").unwrap();
    mount("sysfs", "/sys", "sysfs", none, c"").unwrap();
    mount("devtmpfs", "/dev", "devtmpfs", none, c"").unwrap();
    mount("tmpfs", "/tmp", "tmpfs", none, c"").unwrap();
    let modules = fs::read_dir("/modules").unwrap().map(|entry| entry.unwrap().path());
    let modules: BTreeMap<_, _> = modules.map(|path| (path.clone(), path)).collect();
    for path in modules.into_values() {
        let file = File::open(&path).unwrap();
        finit_module(&file, c"", 0).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// Where the disk is mounted.
pub const DISK: &str = "/disk";

/// Mounts the disk `device` (`/dev/vda`).
pub fn mount_disk(device: impl AsRef<Path>) {
    let device = device.as_ref();
    // The kernel finds disks while it runs us.
    while !device.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::create_dir_all(DISK).unwrap();
    let mounted = mount(device, DISK, "ext4", MountFlags::empty(), c"commit=1");
    mounted.unwrap_or_else(|error| panic!("{}: {error}", device.display()));
}
