//! Pages and pictures in a real browser. Knows how Chromium is driven; what is looked
//! for is in `tests/browser`.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use super::repo::{command, program};

/// Long enough for the largest page on a slow machine that has other work.
const TIME_LIMIT: Duration = Duration::from_secs(400);

/// Runs a scenario of `tests/browser/scenarios` on `files`. It fails as the scenario does, or with the name
/// of a tool that is missing.
pub fn check(scenario: &str, files: &[PathBuf]) {
    let chromium = tool(&["chromium", "chromium-browser"]);
    tool(&["node"]);
    let folder = super::root().join("tests/browser");
    install(&folder);
    let mut args = vec![folder.join("run.mjs").into_os_string(), OsString::from(scenario)];
    args.extend(files.iter().map(|file| file.clone().into_os_string()));
    command("node", args).env("CHROMIUM", &chromium).time_limit(TIME_LIMIT).expect_success();
}

/// The first of `names` that the search path has.
fn tool(names: &[&str]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = names.iter().find_map(|name| {
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    });
    found.unwrap_or_else(|| panic!("{} is missing: install it with .ci/install-tools", names[0]))
}

/// Installs what the scenarios import, unless that of this very lock file is there. Test binaries run at the
/// same time: one installs, the others wait for it.
fn install(folder: &Path) {
    tool(&["npm"]);
    let guard = File::create(Path::new(program()).with_file_name("browser.lock")).unwrap();
    guard.lock().unwrap();
    let wanted = fs::read(folder.join("package-lock.json")).unwrap();
    let installed = folder.join("node_modules/.cfs-dag-lock");
    if fs::read(&installed).is_ok_and(|lock| lock == wanted) {
        return;
    }
    command("npm", ["ci", "--ignore-scripts"]).in_folder(folder).time_limit(TIME_LIMIT).expect_success();
    fs::write(installed, wanted).unwrap();
}
