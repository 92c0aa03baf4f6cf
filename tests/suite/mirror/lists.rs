//! Lists: what they choose, and what is wrong with them.

use std::fs;

use support::{registry::Kind, repo::cfs_dag, source::host};

use super::world::{World, layer, lines_of};

#[test]
fn a_plain_list_is_mirrored_under_the_names_that_it_gives() {
    let world = World::new();
    let [first, second] = world.images(["app:v1", "app:v2"]);
    let list = "# what we run\n\ndocker://HOST/app:v1\n  docker://HOST/app:v2  web:prod # ours\n";
    let finished = world.mirror_of(list).expect_success();
    assert_eq!(world.names(), ["app:v1", "web:prod"]);
    assert_eq!(world.digest("web:prod"), second.manifest.to_string());
    let new = lines_of(&finished, "new");
    assert_eq!(new.len(), 2, "{finished}");
    assert!(
        new[0].starts_with(&world.name("app:v1")) && new[0].contains(&first.manifest.to_string()),
        "{new:?}"
    );
    assert_eq!(finished.stderr, "", "nobody reads what cron sends when all is well");
    assert_eq!(world.mirror_of(list).expect_success().stdout, "unchanged 2 images\n");
}

#[test]
fn a_list_can_come_from_standard_input() {
    let world = World::new();
    world.images(["app:v1"]);
    let list = world.told("docker://HOST/app:v1\n");
    world.mirror("-".as_ref()).input(&list).expect_success();
    assert_eq!(world.names(), ["app:v1"]);
    let wrong = world.mirror("-".as_ref()).input("\nnobody\n").expect_failure(2);
    wrong.says(&["cfs-dag: standard input: line 2, column 1: nobody"]);
    world.mirror("-".as_ref()).expect_failure(2).says(&["standard input", "the list names no image"]);
}

#[test]
fn an_image_that_is_reached_twice_is_asked_for_once() {
    let world = World::new();
    let [image] = world.images(["app:v1"]);
    let list = "docker://HOST/app:v1\ndocker://HOST/app:v1\ndocker://HOST/app:v1 web\n";
    let finished = world.mirror_of(list).expect_success();
    assert_eq!(world.names(), ["app:v1", "web"]);
    assert_eq!(lines_of(&finished, "new").len(), 2, "{finished}");
    let counts = world.registry.counts();
    assert_eq!(counts.requests_to("app/manifests/v1"), 1);
    assert_eq!(counts.requests(Kind::Config), 1);
    assert_eq!(counts.requests(Kind::Layer), image.layers.len());
    // By two rules of YAML it is the same.
    let list = "HOST:\n  images: {app: [v1]}\n  images-by-tag-regex: {app: ^v}\n";
    let both = vec!["app:v1".to_owned()];
    let chosen: Vec<_> = world.chosen(list).into_iter().map(|(_, images)| images).collect();
    assert_eq!(chosen, [both.clone(), both]);
}

#[test]
fn what_is_wrong_with_a_list_is_told_with_its_place_and_nothing_is_made() {
    let world = World::new();
    world.images(["app:v1", "lib:v1"]);
    for (text, words) in [
        ("docker://HOST/app:v1\n alpine:3", "line 2, column 2: alpine:3: does not begin with a transport"),
        ("docker://HOST/app:v1 web prod", "\"prod\" is too much"),
        ("docker://HOST/app:v1 @web", "starts with @, which marks digests"),
        ("dir:x\r dir:y @web", "line 2, column 8: the name \"@web\" starts with @"),
        ("dir:x DIGEST", "line 1, column 7: the name \"DIGEST\" looks like a digest"),
        (
            "dir:x\n\n  docker://HOST/App:v1",
            "line 3, column 3: docker://HOST/App:v1: \"App\" is not in lower case",
        ),
        ("dir:x\ndocker://HOST/app:", "line 2, column 1: docker://HOST/app:: the tag is empty"),
        ("docker://HOST/app#1:v1", "line 1, column 1: docker://HOST/app#1:v1: '#' cannot be part"),
        ("dir:x docker://HOST/app:v1", "line 1, column 7: \"docker://HOST/app:v1\" is a second reference"),
        ("dir:x\u{2028}dir:y", "line 1, column 6: the character U+2028 does not end a line"),
        (
            "docker://me:secret@HOST/app:v1",
            "line 1, column 1: docker://***@HOST/app:v1: a reference holds no user",
        ),
        ("dir:x me:secret@HOST/app:v1", "line 1, column 7: \"***@HOST/app:v1\" is a second reference"),
        ("me:secret@HOST:\n  images: {app: [v1]}", "line 1, column 1: \"***@HOST\" is not a registry"),
        (
            "myhost:\n  images: {app: [v1]}",
            "line 1, column 1: \"myhost\" is not a registry: skopeo would ask Docker Hub",
        ),
        (
            "docker://http://HOST/app:v1",
            "leave out http://: write docker://HOST/app:v1, and --tls-verify=false",
        ),
        ("[::1]:5000:\n  images: {app: [v1]}", "line 1, column 1: a key must be a text: put it in quotes"),
        (
            "HOST:\n  images-by-tag-regex: {app: '^v[a&&b]'}",
            "line 2, column 30: \"^v[a&&b]\" means something else to Go",
        ),
        ("HOST:\n  images-by-tag-regex: {app: '^v[a&&b]'}", "&&, -- or ~~ in a class"),
        (
            "HOST:\n  images: {app: {exclude: '(?x) v'}}",
            "line 2, column 27: \"(?x) v\" means something else to Go",
        ),
        (
            "HOST:\n  images: {app: &a [v1, *a]}",
            "line 2, column 25: this alias is inside of what it stands for",
        ),
        ("docker://HOST/app:v1 web\ndocker://HOST/lib:v1 web", "line 2"),
        ("docker://HOST/app:v1 web\ndocker://HOST/lib:v1 web", "would have the name of line 1, web"),
        ("# nothing\n\n", "line 1, column 1: the list names no image"),
        ("HOST:\n  image: {app: [v1]}", "line 2, column 3: \"image\" is not known here (known are images,"),
        ("HOST:\n  images:\n    app: {tag: v1}", "line 3, column 11: \"tag\" is not known here"),
        ("HOST:\n  images: {app: v1}", "line 2, column 17: the tags of app must be a list"),
        ("HOST:\n  images: {app: []}\n  newest: none", "line 3, column 11: newest must be a number"),
        ("HOST:\n  images-by-tag-regex: {app: '('}", "line 2, column 30: \"(\" is not a regular expression"),
        ("HOST:\n  images-by-semver: {app: latest}", "line 2, column 27"),
        ("HOST:\n  images: [app", "line 3, column 1: this is not YAML"),
        ("HOST:\n  tls-verify: false", "line 1, column 1: the registry"),
        ("HOST:\n  images: {app: [v1]}\n  platform: arm", "line 3, column 13: \"arm\" is not a platform"),
    ] {
        let digest = format!("sha256:{}", "0".repeat(64));
        let finished = world.mirror_of(&text.replace("DIGEST", &digest)).expect_failure(2);
        assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
        assert!(!finished.stderr.contains("secret"), "{finished}");
        let words = words.replace("DIGEST", &digest);
        let place = format!("cfs-dag: {}: line ", world.path("list").display());
        finished.says(&[&place, &world.told(&words)]);
    }
    fs::write(world.path("bytes"), b"docker://\xff").unwrap();
    for (file, words) in [("bytes", "UTF-8"), ("nobody", "No such file"), (".", "directory")] {
        let list = world.path(file);
        world.mirror(&list).expect_failure(2).says(&[&format!("cfs-dag: {}: ", list.display()), words]);
    }
    assert!(!world.repo().exists());
    assert!(world.registry.requests().is_empty(), "{:?}", world.registry.requests());
}

#[test]
fn a_yaml_list_chooses_tags_as_it_says() {
    let world = World::new();
    world.images(["app:1.0", "app:1.1", "app:2.0", "app:2.1-rc.1", "app:edge"]);
    let [pinned] = world.images(["lib:v1"]);
    let digest = format!("[\"{}\"]", pinned.manifest);
    for (key, what, rule, tags) in [
        ("images", "[]", ", all tags", "edge 1.0 1.1 2.0 2.1-rc.1"),
        ("images", "", ", all tags", "edge 1.0 1.1 2.0 2.1-rc.1"),
        ("images", "{newest: 2}", ", all tags, newest 2", "2.0 2.1-rc.1"),
        ("images-by-tag-regex", r"'^1\.'", r" by tag ^1\.", "1.0 1.1"),
        ("images", "{exclude: -rc, newest: 2}", ", all tags, without -rc, newest 2", "1.1 2.0"),
        ("images-by-semver", "{semver: '>= 2-0', exclude: rc}", " by version >= 2-0, without rc", "2.0"),
        ("images-by-tag-regex", "{regex: '^2', exclude: rc}", " by tag ^2, without rc", "2.0"),
        (
            "images-by-tag-regex",
            r"{regex: '^\d\.[01]$', newest: 2}",
            r" by tag ^\d\.[01]$, newest 2",
            "1.1 2.0",
        ),
        ("images-by-semver", "'>= 1.1'", " by version >= 1.1", "1.1 2.0"),
        ("images-by-semver", "{semver: ^1, newest: 1}", " by version ^1, newest 1", "1.1"),
    ] {
        let list = format!("HOST:\n  {key}:\n    app: {what}\n");
        let images: Vec<String> = tags.split(' ').map(|tag| format!("app:{tag}")).collect();
        assert_eq!(world.chosen(&list), [(format!("app{rule}"), images)], "{list}");
    }
    // Named images are rules of their own, and nobody asks for the tags.
    world.registry.forget_requests();
    let list = format!("HOST:\n  images:\n    app: ['1.0', edge]\n    lib: {digest}\n");
    let pinned = format!("lib@{}", pinned.manifest);
    let named = ["app:1.0", "app:edge", &pinned].map(|name| (name.to_owned(), vec![name.to_owned()]));
    assert_eq!(world.chosen(&list), named);
    assert_eq!(world.registry.counts().requests(Kind::Tags), 0);
    assert!(!world.repo().exists());
}

#[test]
fn a_registry_does_not_choose_how_many_images_there_are() {
    let world = World::new();
    world.images(["app:v1", "app:v2", "app:v3", "lib:v1", "lib:v2"]);
    fs::write(world.path("list"), world.told("HOST:\n  images:\n    app:\n    lib:\n")).unwrap();
    let finished = world.mirror(&world.path("list")).arg("--limit=tags=2").expect_failure(3);
    finished.says(&[
        &world.name("app, all tags: "),
        "more than 2 images chosen by their tags",
        "--limit tags=N",
    ]);
    assert_eq!(world.names(), ["lib:v1", "lib:v2"]);
    world.mirror(&world.path("list")).arg("--limit=tags=5").expect_success();
}

#[test]
fn what_holds_for_a_registry_holds_for_its_images_unless_they_say_otherwise() {
    let world = World::new();
    world.images(["app:v1", "app:v2", "app:v3", "lib:v1", "lib:v2", "lib:v3"]);
    let list = "HOST:\n  newest: 1\n  images:\n    app:\n    lib: {newest: 2}\n";
    let chosen: Vec<_> = world.chosen(list).into_iter().map(|(_, images)| images).collect();
    assert_eq!(chosen, [vec!["app:v3"], vec!["lib:v2", "lib:v3"]]);
}

#[test]
fn a_list_says_for_which_platform_and_whom_to_trust() {
    let (world, here) = (World::new(), host());
    let registry = &world.registry;
    let ours = registry.image("app", "ours", &here, &[&layer(1)]);
    let other = registry.image("app", "other", "s390x", &[&layer(2)]);
    registry.index("app", "v1", &[(&ours, &here), (&other, "s390x")]);
    let list = "HOST:\n  tls-verify: false\n  images:\n    app: {tags: [v1], platform: linux/s390x}\n";
    // Without --tls-verify=false on the command line.
    let mirror = |list: &str| {
        let flags = ["mirror", "--insecure", "--progress=none", "--retries=0"];
        cfs_dag(flags).arg(world.list(list)).repo(world.repo())
    };
    mirror(list).expect_success();
    assert_eq!(world.digest("app:v1"), other.manifest.to_string());
    mirror("HOST:\n  images: {app: [v1]}\n").expect_failure(1).says(&["app:v1", "HTTPS"]);
    let both = "HOST:\n  tls-verify: no\n  images: {app: [v1]}\n  images-by-tag-regex: {app: {regex: v, \
                platform: linux/s390x}}\n";
    mirror(both).expect_failure(2).says(&["would have the name of line 3"]);
}

#[test]
fn tags_that_come_in_pages_are_all_there() {
    let world = World::new();
    let tags: Vec<String> = (1..=7).map(|number| format!("app:v{number}")).collect();
    for tag in &tags {
        world.image(tag, 0);
    }
    world.registry.page_tags(3);
    let list = "HOST:\n  images:\n    app:\n  images-by-semver:\n    app: v7\n";
    let chosen = world.chosen(list);
    assert_eq!(chosen[0].1, tags);
    assert_eq!(chosen[1].1, ["app:v7"]);
    assert_eq!(world.registry.counts().requests(Kind::Tags), 3, "each page once, whoever wants it");
}

#[test]
fn a_rule_that_cannot_be_followed_fails_and_harms_no_other() {
    let world = World::new();
    world.images(["app:v1"]);
    world.registry.manifest("none", None, support::layout::OCI_MANIFEST, b"{}");
    let list = "HOST:\n  images: {app: [v1], none: [], gone: []}\n  images-by-tag-regex: {app: ^w}\n";
    let finished = world.mirror_of(list).arg("--format=json").expect_failure(3);
    assert_eq!(world.names(), ["app:v1"]);
    let outcomes = world.outcomes(&finished.json());
    let ended: Vec<_> = outcomes.iter().map(|(name, outcome, _)| (&**name, &**outcome)).collect();
    let failed = [("none, all tags", "failed"), ("gone, all tags", "failed"), ("app by tag ^w", "failed")];
    assert_eq!(ended, [&[("app:v1", "ok")], &failed[..]].concat());
    assert_eq!(finished.stderr.lines().count(), 3, "{finished}");
    let finished = finished.says(&[&world.name("app by tag ^w: "), "no tag that fits"]);
    finished.says(&[&world.name("gone, all tags: "), "listing tags: fetching tags list", "404"]);
}

#[test]
fn aliases_and_merge_keys_of_existing_lists_are_read() {
    let world = World::new();
    world.images(["app:v1", "app:v2", "app:v3", "lib:v1", "lib:v3"]);
    let list = "x-site: &site\n  newest: 1\n  exclude: '3$'\nHOST:\n  <<: *site\n  images:\n    app: \
                &all\n    lib: *all\n";
    let rules = ["app, all tags, without 3$, newest 1", "lib, all tags, without 3$, newest 1"];
    let images = ["app:v2", "lib:v1"];
    let expected: Vec<_> =
        rules.into_iter().zip(images).map(|(r, i)| (r.to_owned(), vec![i.to_owned()])).collect();
    assert_eq!(world.chosen(list), expected);
    world.mirror_of(list).expect_success();
    assert_eq!(world.names(), images);
}

#[test]
fn a_list_that_expands_without_bound_is_refused() {
    let world = World::new();
    let mut bomb = "x-0: &x0 [v1, v2, v3, v4, v5, v6, v7, v8, v9]\n".to_owned();
    for level in 1..9 {
        let aliases = vec![format!("*x{}", level - 1); 9].join(", ");
        bomb.push_str(&format!("x-{level}: &x{level} [{aliases}]\n"));
    }
    bomb.push_str("HOST:\n  images: {app: *x8}\n");
    let finished =
        world.mirror_of(&bomb).expect_failure(2).says(&["the aliases stand for more than 100000 values"]);
    assert!(finished.peak_memory < 200 << 20, "{} bytes", finished.peak_memory);
}

#[test]
fn a_tag_that_cannot_be_a_name_fails_alone() {
    let world = World::new();
    let (repository, tag) = ("r".repeat(110), "t".repeat(128));
    world.images(["app:v1"]);
    world.image(&format!("{repository}:v1"), 0);
    world.image(&format!("{repository}:{tag}"), 0);
    let long = world.name(&format!("{repository}:{tag}"));
    let words =
        [&*long, "is longer than 255 bytes when stored: choose another, or have the rule leave this tag out"];
    for (rule, others) in [
        (
            format!("images: {{app: [v1], {repository}: []}}"),
            vec!["app:v1".to_owned(), format!("{repository}:v1")],
        ),
        (
            format!("images: {{app: [v1]}}\n  images-by-tag-regex: {{{repository}: ^t}}"),
            vec!["app:v1".to_owned()],
        ),
    ] {
        let list = world.list(&format!("HOST:\n  {rule}\n"));
        let dry = world.mirror(&list).arg("--dry-run=json").expect_failure(3).says(&words);
        assert!(others.iter().all(|name| dry.stdout.contains(name)), "{dry}");
        let run = world.mirror(&list).arg("--format=json").expect_failure(3).says(&words);
        assert_eq!(run.stderr.lines().count(), 1, "{run}");
        let outcomes = world.outcomes(&run.json());
        let failed = outcomes.iter().filter(|(_, outcome, _)| outcome == "failed").map(|(name, ..)| name);
        assert_eq!(failed.collect::<Vec<_>>(), [&format!("{repository}:{tag}")]);
        assert_eq!(world.names(), others);
        fs::remove_dir_all(world.repo()).unwrap();
    }
    // A name that the list itself says is the list's mistake.
    let list = format!("docker://HOST/app:v1\n{long}\n");
    world.mirror_of(&list).expect_failure(2).says(&["line 2", "is longer than 255 bytes when stored"]);
    assert!(!world.repo().exists());
}
