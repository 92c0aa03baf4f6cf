//! Mirrors from real registries that want to know their clients and have certificates of their own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use base64::Engine;
use containers_image_proxy::ImageProxyConfig;
use support::{
    image::{Image, Layout, layout},
    mirrors::names,
    oracle::{self, DEFAULT_KIND},
    registry_real::{Authority, Guarded, RealRegistry, User, guarded_registry, real_registry},
    repo::{Finished, Invocation, Scratch, cfs_dag, scratch},
    tar::*,
};

/// The user of skopeo's own manual page.
const JOHN: User = User {
    name: "john",
    password: "this is a secret",
    hash: "$2y$05$abcdefghijklmnopqrstuukyq0mQm8sk4uJBZbEA0WehR0cZU6avi",
};
const EVE: User = User {
    name: "eve",
    password: "a word for few",
    hash: "$2y$05$abcdefghijklmnopqrstuueKyiivw2Zd1HCqBY2BuCNx4qXou15yq",
};

/// A registry with TLS of its own, which knows one user and has `app:1` and `app:2`.
struct Private {
    authority: Authority,
    registry: RealRegistry,
}

impl Private {
    fn new(user: User) -> Self {
        let authority = Authority::made();
        let registry = guarded_registry(&Guarded { user: Some(user), authority: Some(&authority) });
        let private = Self { authority, registry };
        let layout = layout();
        for tag in ["1", "2"] {
            private.push(&layout, tag, &format!("app:{tag}"));
        }
        private
    }

    fn push(&self, layout: &Layout, seed: &str, name: &str) -> Image {
        let image = image(layout, seed);
        self.registry.push(&image.reference, name);
        image
    }

    fn host(&self) -> String {
        self.registry.host()
    }

    /// What a list says of it when `password` is what it believes.
    fn section(&self, user: User, password: &str, images: &str) -> String {
        format!(
            "{}:\n  tls-verify: true\n  cert-dir: {}\n  credentials:\n    username: {}\n    password: \
             {password}\n{images}",
            self.host(),
            self.authority.cert_dir().display(),
            user.name,
        )
    }
}

const BY_TAG: &str = "  images:\n    app: ['1']\n";
const BY_REGEX: &str = "  images-by-tag-regex:\n    app: ^[0-9]$\n";

/// An image of two layers, one of which all images share.
fn image(layout: &Layout, seed: &str) -> Image {
    let own = tar([file(format!("usr/{seed}"), noise(seed.len() as u64, 30_000)), file("name", seed)]);
    layout.image(&seed.replace([':', '/'], "-")).layer(tar([dir("usr")])).layer(own).write()
}

/// Where a mirror runs: a list, and beside it a folder with all that the mirror may write.
struct Site {
    scratch: Scratch,
}

impl Site {
    fn new(list: &str) -> Self {
        let scratch = scratch();
        fs::create_dir_all(scratch.path("out/tmp")).unwrap();
        fs::write(scratch.path("list.yaml"), list).unwrap();
        Self { scratch }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.scratch.path("out").join(name)
    }

    fn repo(&self) -> PathBuf {
        self.out("repo")
    }

    fn mirror(&self) -> Invocation {
        cfs_dag(["mirror", "--insecure", "--progress=plain", "--retry-delay=1ms"])
            .arg(self.scratch.path("list.yaml"))
            .repo(self.repo())
            .env("TMPDIR", self.out("tmp"))
            .env("HOME", self.out("tmp"))
            .env("XDG_RUNTIME_DIR", self.out("tmp"))
    }

    /// The names in the repository.
    fn names(&self) -> Vec<String> {
        names(&self.repo())
    }
}

fn reference(host: &str, name: &str) -> String {
    format!("docker://{host}/{name}")
}

#[test]
fn a_list_with_credentials_and_certificates_mirrors_what_upstream_pulls() {
    let private = Private::new(JOHN);
    let site = Site::new(&private.section(JOHN, JOHN.password, BY_REGEX));
    site.mirror().expect_success();
    let names = ["app:1", "app:2"].map(|name| reference(&private.host(), name));
    assert_eq!(site.names(), names);

    let theirs = site.scratch.path("theirs");
    oracle::create(&theirs, DEFAULT_KIND);
    let authfile = authfile(&site, &[(&private.host(), JOHN)]);
    for name in &names {
        let mut access = ImageProxyConfig::default();
        access.authfile = Some(authfile.clone());
        access.certificate_directory = Some(private.authority.cert_dir());
        let expected = oracle::upstream_pull_as(&theirs, name, name, access).unwrap();
        assert_eq!(oracle::stored(&site.repo(), name), expected, "{name}");
    }
    oracle::assert_clean(&site.repo());
    oracle::assert_gc_removes_nothing(&site.repo());
    private.registry.forget_requests();
    site.mirror().expect_success();
    assert!(private.registry.blobs_read().is_empty(), "nothing has changed");
}

/// A file of credentials as `skopeo login` writes it.
fn authfile(site: &Site, users: &[(&str, User)]) -> PathBuf {
    let entry = |(host, user): &(&str, User)| {
        (host.to_string(), serde_json::json!({ "auth": encoded(user.name, user.password) }))
    };
    let entries: serde_json::Map<_, _> = users.iter().map(entry).collect();
    let path = site.scratch.path("auth.json");
    fs::write(&path, serde_json::json!({ "auths": entries }).to_string()).unwrap();
    path
}

fn encoded(name: &str, password: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"))
}

#[test]
fn tags_are_listed_with_the_credentials_of_an_authfile() {
    let private = Private::new(JOHN);
    let list =
        format!("{}:\n  cert-dir: {}\n{BY_REGEX}", private.host(), private.authority.cert_dir().display());
    let site = Site::new(&list);
    let refused = site.mirror().expect_failure(1);
    refused.says(&[&private.host(), "--authfile"]);
    let authfile = authfile(&site, &[(&private.host(), JOHN)]);
    site.mirror().arg("--authfile").arg(authfile).expect_success();
    assert_eq!(site.names().len(), 2);
}

#[test]
fn two_registries_have_credentials_of_their_own_in_one_list() {
    let (one, two) = (Private::new(JOHN), Private::new(EVE));
    let site = Site::new(&format!(
        "{}{}",
        one.section(JOHN, JOHN.password, BY_TAG),
        two.section(EVE, EVE.password, BY_REGEX)
    ));
    site.mirror().expect_success();
    let mut expected = vec![
        reference(&one.host(), "app:1"),
        reference(&two.host(), "app:1"),
        reference(&two.host(), "app:2"),
    ];
    expected.sort();
    assert_eq!(site.names(), expected);
}

#[test]
fn a_wrong_password_is_told_of_its_registry_and_harms_no_other() {
    let (one, two) = (Private::new(JOHN), Private::new(EVE));
    for (images, what) in [(BY_TAG, "app:1"), (BY_REGEX, "app")] {
        let site = Site::new(&format!(
            "{}{}",
            one.section(JOHN, "not a secret", images),
            two.section(EVE, EVE.password, BY_TAG)
        ));
        let summary = site.out("summary.json");
        let finished = site.mirror().arg("--summary").arg(&summary).expect_failure(3);
        let finished = finished.says(&[&one.host(), what, "credentials"]);
        assert!(!finished.stderr.contains("not a secret"), "{finished}");
        assert!(!finished.stderr.contains("trying again"), "{finished}");
        assert_eq!(site.names(), [reference(&two.host(), "app:1")]);
        let summary: serde_json::Value = serde_json::from_slice(&fs::read(summary).unwrap()).unwrap();
        let failed = summary["images"].as_array().unwrap().iter().filter(|image| image["outcome"] != "ok");
        assert_eq!(failed.count(), 1, "{summary}");
    }
}

#[test]
fn a_registry_whose_authority_is_unknown_is_refused_with_what_to_do() {
    let private = Private::new(JOHN);
    let credentials = "  credentials: {username: john, password: this is a secret}\n";
    for images in [BY_TAG, BY_REGEX] {
        let site = Site::new(&format!("{}:\n{credentials}{images}", private.host()));
        let finished = site.mirror().expect_failure(1);
        let finished = finished.says(&[&private.host(), "x509", "cert-dir"]);
        assert!(!finished.stderr.contains("trying again"), "{finished}");
        assert!(!site.repo().exists(), "nothing was mirrored");
        // Who asks for it gets it all the same.
        let site = Site::new(&format!("{}:\n  tls-verify: false\n{credentials}{images}", private.host()));
        site.mirror().expect_success();
    }
}

/// A program in place of skopeo that writes down its arguments, its environment and what
/// files are open in it.
fn witness(site: &Site) -> (PathBuf, PathBuf) {
    let which = Command::new("sh").args(["-c", "command -v skopeo"]).output().unwrap();
    let skopeo = String::from_utf8(which.stdout).unwrap();
    let (bin, log) = (site.scratch.path("bin"), site.scratch.path("log"));
    fs::create_dir(&bin).unwrap();
    let text = format!(
        "#!/bin/sh\n{{ echo \"skopeo $*\"; env; ls -l /proc/$$/fd; }} >>{}\nexec {} \"$@\"\n",
        log.display(),
        skopeo.trim()
    );
    fs::write(bin.join("skopeo"), text).unwrap();
    fs::set_permissions(bin.join("skopeo"), fs::Permissions::from_mode(0o755)).unwrap();
    (bin, log)
}

/// The files below `folder` in which one of `words` stands.
fn files_with(folder: &Path, words: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), words));
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            let has = |word: &String| bytes.windows(word.len()).any(|window| window == word.as_bytes());
            found.extend(words.iter().any(has).then(|| entry.path()));
        }
    }
    found
}

#[test]
fn credentials_are_seen_in_no_arguments_on_no_disk_and_in_no_output() {
    let (one, two) = (Private::new(JOHN), Private::new(EVE));
    let secrets: Vec<String> = [JOHN, EVE]
        .iter()
        .flat_map(|user| [user.password.to_owned(), encoded(user.name, user.password)])
        .collect();
    let wrong = "nobodys password".to_owned();
    let secrets = [secrets, vec![encoded("eve", &wrong), wrong.clone()]].concat();
    let unspoken = |finished: Finished| {
        let said = format!("{}{}", finished.stdout, finished.stderr);
        assert!(secrets.iter().all(|secret| !said.contains(secret)), "{finished}");
    };
    for (password, code) in [(EVE.password, 0), (wrong.as_str(), 3)] {
        let site = Site::new(&format!(
            "{}{}",
            one.section(JOHN, JOHN.password, BY_REGEX),
            two.section(EVE, password, &[BY_REGEX, "  images:\n    other: []\n    app: ['2']\n"].concat())
        ));
        two.push(&layout(), "other", "other:v1");
        let (bin, log) = witness(&site);
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let told = |mirror: Invocation| {
            mirror.env("PATH", &path).env("RUST_LOG", "trace").arg("--verbose").run().assert_code(code)
        };
        unspoken(told(site.mirror().arg("--dry-run=json")));
        let files = ["lock", "summary", "digestfile"];
        let named = files
            .iter()
            .fold(site.mirror(), |mirror, name| mirror.arg(format!("--{name}={}", site.out(name).display())));
        unspoken(told(named));
        let log = fs::read_to_string(log).unwrap();
        assert!(secrets.iter().all(|secret| !log.contains(secret)), "{log}");
        assert!(
            log.contains("skopeo --debug list-tags") && log.contains("experimental-image-proxy"),
            "{log}"
        );
        // They have no name anywhere, and not even a place on a disk.
        let given = log.lines().filter(|line| line.starts_with("skopeo ")).count();
        assert_eq!(log.matches("--authfile /proc/self/fd/").count(), given, "{log}");
        assert_eq!(log.matches("memfd:credentials").count(), given, "{log}");
        assert_eq!(files_with(&site.scratch.path("out"), &secrets), Vec::<PathBuf>::new());
    }
}

#[test]
fn the_example_of_skopeos_manual_is_mirrored() {
    let (layout, open, private) = (layout(), real_registry(), Private::new(JOHN));
    let mut expected = Vec::new();
    let mut have = |name: &str, wanted: bool| {
        let image = private.push(&layout, name, name);
        expected.extend(wanted.then(|| reference(&private.host(), name)));
        image
    };
    for name in ["busybox:1.36", "busybox:latest", "redis:1.0", "redis:2.0"] {
        have(name, true);
    }
    have("redis:3.0", false);
    have("nginx:1.13.1-alpine-perl", true);
    have("nginx:1.13.2-alpine-perl", true);
    have("nginx:1.13.3-alpine-perl", false);
    have("nginx:1.13.1-alpine-perl2", false);
    have("alpine:3.11.9", false);
    have("alpine:3.12.0", true);
    have("alpine:3.19.1", true);
    have("alpine:edge", false);
    let pinned = have("redis:untold", false);
    expected.push(reference(&private.host(), &format!("redis@{}", pinned.manifest)));
    open.push(&image(&layout, "etcd").reference, "coreos/etcd:latest");
    open.push(&image(&layout, "etcd-old").reference, "coreos/etcd:v3");
    expected.push(reference(&open.host(), "coreos/etcd:latest"));

    // As it stands in skopeo-sync(1), but for who is asked, where the certificates are, and one digest.
    let list = include_str!("../../support/skopeo-sync.yaml")
        .replace("registry.example.com", &private.host())
        .replace("quay.io", &open.host())
        .replace("/home/john/certs", private.authority.cert_dir().to_str().unwrap())
        .replace("sha256:0000000000000000000000000000000011111111111111111111111111111111", &pinned.manifest);
    let site = Site::new(&list);
    site.mirror().expect_success();
    expected.sort();
    assert_eq!(site.names(), expected);
    for name in &expected {
        assert!(!oracle::stored(&site.repo(), name).layer_streams.is_empty());
    }
    oracle::assert_clean(&site.repo());
}
