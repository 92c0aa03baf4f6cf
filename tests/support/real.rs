//! Real images out of Debian packages, made by `tests/make-images.sh` and kept in `target/images`.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

/// The images, smallest first; `base` is the lowest layer of `python` and `web`.
pub const NAMES: [&str; 5] = ["base", "web", "python", "rebuilt", "small"];

/// `oci:PATH:NAME`, made first if it is not there yet (under a minute for all).
pub fn real_image(name: &str) -> String {
    format!("oci:{}:{name}", layout().display())
}

/// The uncompressed tars of an image's layers, lowest first.
pub fn tars_of(name: &str) -> Vec<Vec<u8>> {
    let index = json(&layout().join("index.json"));
    let is_named = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == name;
    let entry = index["manifests"].as_array().unwrap().iter().find(is_named).expect("an image of that name");
    let manifest = json(&blob(&entry["digest"]));
    manifest["layers"].as_array().unwrap().iter().map(unpacked).collect()
}

fn unpacked(layer: &Value) -> Vec<u8> {
    let file = File::open(blob(&layer["digest"])).unwrap();
    let mut tar = Vec::new();
    match layer["mediaType"].as_str().unwrap().ends_with("zstd") {
        true => zstd::stream::Decoder::new(file).unwrap().read_to_end(&mut tar),
        false => flate2::read::MultiGzDecoder::new(file).read_to_end(&mut tar),
    }
    .unwrap();
    tar
}

fn layout() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let root = super::root();
        let images = root.join("target/images");
        let made = Command::new(root.join("tests/make-images.sh"))
            .arg(&images)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(made.status.success(), "tests/make-images.sh: {}", String::from_utf8_lossy(&made.stderr));
        images.join("oci")
    })
}

fn blob(digest: &Value) -> PathBuf {
    layout().join("blobs").join(digest.as_str().unwrap().replace(':', "/"))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
