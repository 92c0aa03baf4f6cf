//! A tar as Python's tarfile reads it.

use std::{path::Path, process::Command};

/// The lines of the entries of each tar.
pub fn read(tars: &[&Path]) -> Vec<Vec<String>> {
    let output = Command::new("python3")
        .args(["-I", "-c", include_str!("../read_tars.py")])
        .args(tars)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .expect(".ci/install-tools brings python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut read: Vec<Vec<String>> = Vec::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        match line.strip_prefix("tar ") {
            Some(_) => read.push(Vec::new()),
            None => read.last_mut().unwrap().push(line.to_owned()),
        }
    }
    assert_eq!(read.len(), tars.len());
    read
}
