//! Whole lists: what they ask for, how they fail, and that no text is too much for them.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::source::Credentials;

/// The example of skopeo-sync(1).
const MANUAL: &str = include_str!("../../tests/support/skopeo-sync.yaml");

fn list(text: &str) -> List {
    List::parse(text).unwrap_or_else(|error| panic!("{error} in\n{text}"))
}

/// The rules as a dry run names them.
fn shown(text: &str) -> Vec<String> {
    list(text).rules.iter().map(Rule::to_string).collect()
}

/// What a list makes of registries in which every repository has these tags.
fn images(text: &str, tags: &str) -> Vec<String> {
    let tags: Vec<String> = tags.split_whitespace().map(str::to_owned).collect();
    let of = |rule: &Rule| match &rule.choice {
        Choice::Image(reference) => vec![reference.to_string()],
        Choice::Tags { repository, .. } => {
            rule.choose(&tags).iter().map(|tag| repository.tag(tag).to_string()).collect()
        }
    };
    list(text).rules.iter().flat_map(of).collect()
}

#[test]
fn the_example_of_the_manual_asks_for_the_images_that_it_describes() {
    let tags =
        "3.9 3.12.0 4.0.0 latest 1.13.1-alpine-perl 1.13.2-alpine-perl 1.13.3-alpine-perl 1.13.1-alpine";
    let all = tags.split_whitespace().map(|tag| format!("docker://registry.example.com/busybox:{tag}"));
    let digest = "0".repeat(32) + &"1".repeat(32);
    let pinned = format!("docker://registry.example.com/redis@sha256:{digest}");
    let others = [
        "docker://registry.example.com/redis:1.0",
        "docker://registry.example.com/redis:2.0",
        &pinned,
        "docker://registry.example.com/nginx:1.13.1-alpine-perl",
        "docker://registry.example.com/nginx:1.13.2-alpine-perl",
        "docker://registry.example.com/alpine:3.12.0",
        "docker://registry.example.com/alpine:4.0.0",
        "docker://quay.io/coreos/etcd:latest",
    ];
    let mut expected: Vec<String> = all.chain(others.map(str::to_owned)).collect();
    let mut asked = images(MANUAL, tags);
    expected.sort();
    asked.sort();
    assert_eq!(asked, expected);

    let rules = list(MANUAL).rules;
    let example = rules[0].registry.as_deref().unwrap();
    assert_eq!(
        *example,
        Registry {
            name: "registry.example.com".to_owned(),
            credentials: Some(Credentials {
                username: "john".to_owned(),
                password: "this is a secret".to_owned()
            }),
            tls_verify: Some(true),
            cert_dir: Some("/home/john/certs".into()),
        }
    );
    let quay = rules.last().unwrap().registry.as_deref().unwrap();
    assert_eq!((quay.name.as_str(), quay.tls_verify, &quay.credentials), ("quay.io", Some(false), &None));
    let lines: Vec<usize> = rules.iter().map(|rule| rule.line).collect();
    assert_eq!(lines, [3, 5, 6, 7, 9, 11, 21]);
}

#[test]
fn the_first_line_that_says_something_decides_what_a_list_is() {
    for text in [
        "\n# a: b\nquay.io:\n  images: {a: [x]}",
        "---\nq.io: {images: {a: }}",
        "{q.io: {images: {a: ~}}}",
        "%YAML 1.2\n---\nq.io: {images: {a: ~}}",
        "\"q.io\": {images: {a: ~}}",
        "'q.io': {images: {a: ~}}",
        "\u{feff}q.io: # x\n images: {a: []}",
    ] {
        assert!(list(text).rules[0].registry.is_some(), "{text}");
    }
    for text in [
        "docker://host:5000/x name",
        "docker://h/x # note: this",
        "# a: b\n\ndir:x",
        "\u{feff}dir:x",
        "oci:a:b:",
    ] {
        let plain = List::parse(text);
        assert!(
            plain.as_ref().is_ok_and(|list| list.rules[0].registry.is_none()) || text.ends_with(':'),
            "{plain:?}"
        );
    }
    // A colon at the end makes YAML of it, and YAML has registries.
    assert!(List::parse("oci:a:b:").unwrap_err().text.contains("not a registry"));
}

#[test]
fn a_list_without_images_is_an_error() {
    for text in ["", "\n\n", "# only a comment\n", "---\n", "{}", "---\n~"] {
        assert_eq!(
            List::parse(text).unwrap_err().to_string(),
            "line 1, column 1: the list names no image",
            "{text}"
        );
    }
}

#[test]
fn scalars_are_texts_as_they_are_written() {
    let text = "q.io:\n  images:\n    a: [1.0, 8, true, 0x10, 1e3, null-ish, !!str 2.10, 2024-01-01, \
                'null']\n    8: [010]\n";
    let tags = ["1.0", "8", "true", "0x10", "1e3", "null-ish", "2.10", "2024-01-01", "null"];
    let mut expected: Vec<String> = tags.iter().map(|tag| format!("docker://q.io/a:{tag}")).collect();
    expected.push("docker://q.io/8:010".to_owned());
    assert_eq!(shown(text), expected);
    let text = "q.io:\n  images: {a: }\n  credentials: {username: 007, password: true}\n  tls-verify: off\n";
    let about = list(text).rules[0].registry.clone().unwrap();
    let credentials = about.credentials.as_ref().unwrap();
    assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("007", "true"));
    assert_eq!(about.tls_verify, Some(false));
}

#[test]
fn what_is_left_empty_of_a_registry_is_not_said() {
    let text =
        "q.io:\n  images: {a: }\n  images-by-semver:\n  credentials: VALUE\n  tls-verify:\n  cert-dir: ~\n";
    for value in ["", "{}", "{username: '', password: ''}"] {
        let about = list(&text.replace("VALUE", value)).rules[0].registry.clone().unwrap();
        assert_eq!((&about.credentials, about.tls_verify, &about.cert_dir), (&None, None, &None), "{value}");
    }
}

#[test]
fn nothing_under_an_image_means_all_its_tags() {
    for value in ["", "~", "null", "[]", "{}", "{tags: []}", "{tags: }"] {
        assert_eq!(
            shown(&format!("q.io:\n  images:\n    a: {value}\n")),
            ["docker://q.io/a, all tags"],
            "{value}"
        );
    }
}

#[test]
fn what_is_said_of_an_image_wins_over_what_is_said_of_its_registry() {
    let text = "
q.io:
  images:
    named: [v1]
    few:
      newest: 1
    other: {tags: [v1], platform: linux/arm64, immutable-tags: false}
    all:
  images-by-tag-regex:
    a: {regex: '^v', immutable-tags: no}
    b: ^w
  newest: 3
  images-by-semver:
    c: {semver: '>= 1', newest: 2, platform: linux/arm/v7}
    d: ~1.2
  platform: linux/amd64
  immutable-tags: true
r.example:
  images: {e: }
";
    let rules = list(text).rules;
    let seen: Vec<_> = rules
        .iter()
        .map(|rule| {
            let platform = rule.platform.as_ref().map_or(String::new(), ToString::to_string);
            format!("{} {rule} | {platform} {}", rule.line, rule.immutable_tags)
        })
        .collect();
    assert_eq!(
        seen,
        [
            "4 docker://q.io/named:v1 | linux/amd64 true",
            "5 docker://q.io/few, all tags, newest 1 | linux/amd64 true",
            "7 docker://q.io/other:v1 | linux/arm64 false",
            "8 docker://q.io/all, all tags, newest 3 | linux/amd64 true",
            "10 docker://q.io/a by tag ^v, newest 3 | linux/amd64 false",
            "11 docker://q.io/b by tag ^w, newest 3 | linux/amd64 true",
            "14 docker://q.io/c by version >= 1, newest 2 | linux/arm/v7 true",
            "15 docker://q.io/d by version ~1.2, newest 3 | linux/amd64 true",
            "19 docker://r.example/e, all tags |  false",
        ]
    );
}

#[test]
fn a_regex_matches_anywhere_unless_it_says_otherwise() {
    let tags = "1.13 v1.13.2 2";
    assert_eq!(
        images("q.io: {images-by-tag-regex: {a: '1[.]13'}}", tags),
        ["docker://q.io/a:1.13", "docker://q.io/a:v1.13.2"]
    );
    assert_eq!(images(r"q.io: {images-by-tag-regex: {a: '^[\w.-]{0,128}$'}}", "2"), ["docker://q.io/a:2"]);
}

/// A list, and the place and the words of the error it must give.
const WRONG: &[(&str, (usize, usize), &str)] = &[
    // Keys.
    (
        "q.io:\n  images: {a: }\n  imagez: {}",
        (3, 3),
        "\"imagez\" is not known here (known are images, images-by-tag-regex,",
    ),
    (
        "q.io:\n  images: {a: {tag: [x]}}",
        (2, 16),
        "\"tag\" is not known here (known are tags, newest, exclude, platform,",
    ),
    ("q.io:\n  images-by-semver: {a: {regex: x}}", (2, 26), "known are semver, newest, exclude"),
    (
        "q.io:\n  images: {a: }\n  credentials: {username: u, pass: p}",
        (3, 30),
        "known are username, password",
    ),
    ("q.io:\n  images: {a: }\n  images: {b: }", (3, 3), "images is there twice: first in line 2"),
    ("q.io:\n  images:\n    a: []\n    \"a\": []", (4, 5), "a is there twice"),
    ("q.io:\n  images: {a: }\nq.io:\n  images: {a: }", (3, 1), "q.io is there twice"),
    ("q.io:\n  images: {a: }\n  ? [x]\n  : y", (3, 5), "a key must be a text"),
    // Types.
    ("q.io: 3", (1, 7), "what stands under q.io must be a mapping"),
    ("---\n- q.io", (2, 1), "begins with the name of a registry"),
    ("q.io:\n  images: [a]", (2, 11), "what stands under images must be a mapping"),
    ("q.io:\n  images: {a: v1}", (2, 15), "the tags of a must be a list"),
    ("q.io:\n  images:\n    a:\n    - [x]", (4, 7), "a tag must be a text"),
    ("q.io:\n  images:\n    a:\n    - ~", (4, 7), "a tag must be a text"),
    ("q.io:\n  images-by-tag-regex: {a: [x]}", (2, 28), "must be a text"),
    ("q.io:\n  images-by-tag-regex:\n    a:", (3, 5), "nothing stands under a"),
    ("q.io:\n  images-by-semver:\n    a: {newest: 3}", (3, 5), "needs a constraint"),
    ("q.io:\n  images-by-tag-regex:\n    a: {newest: 3}", (3, 5), "needs an expression"),
    ("q.io:\n  tls-verify: maybe\n  images: {a: }", (2, 15), "tls-verify must be true or false"),
    ("q.io:\n  cert-dir: [x]\n  images: {a: }", (2, 13), "cert-dir must be a text"),
    ("q.io:\n  credentials: john:secret\n  images: {a: }", (2, 16), "credentials must be a mapping"),
    ("q.io:\n  credentials: {username: john}\n  images: {a: }", (2, 3), "both username and password"),
    (
        "q.io:\n  credentials: {username: john, password: [secret]}\n  images: {a: }",
        (2, 43),
        "password must be a text",
    ),
    // Values.
    ("q.io:\n  images: {a: }\n  newest: 0", (3, 11), "newest must be a number of tags, 1 or more"),
    ("q.io:\n  images: {a: }\n  newest: few", (3, 11), "newest must be"),
    ("q.io:\n  images: {a: {tags: [x], newest: 2}}", (2, 27), "tags that are named"),
    ("q.io:\n  images: {a: }\n  platform: linux", (3, 13), "\"linux\" is not a platform"),
    ("q.io:\n  images: {a: [.x]}", (2, 16), "\".x\" is not a tag"),
    ("q.io:\n  images: {a: [\"\"]}", (2, 16), "\"\" is not a tag"),
    ("q.io:\n  images: {a: [\"sha256:00\"]}", (2, 16), "\"sha256:00\" is not a digest"),
    ("q.io:\n  images: {a: [\"sha512:00\"]}", (2, 16), "\"sha512\" is not supported"),
    ("q.io:\n  images: {\"a:1\": []}", (2, 12), "\"q.io/a:1\" holds a tag or a digest"),
    ("q.io:\n  images-by-semver: {Über: '1'}", (2, 22), "is not the name of an image"),
    ("docker://q.io:\n  images: {a: }", (1, 1), "\"docker://q.io\" is not a registry"),
    (
        "myhost:\n  images: {a: }",
        (1, 1),
        "skopeo would ask Docker Hub for docker.io/myhost/…: write docker.io/myhost",
    ),
    ("library/x:\n  images: {a: }", (1, 1), "write docker.io/library/x"),
    (
        "me:secret@q.io:\n  images: {a: }",
        (1, 1),
        "\"***@q.io\" is not a registry: a user and a password go under",
    ),
    ("me:secret@q.io:\nme:secret@q.io:\n", (2, 1), "***@q.io is there twice"),
    (
        "q.io:\n  images-by-tag-regex: {a: '[a&&b]'}",
        (2, 28),
        "means something else to Go, and so to skopeo: &&",
    ),
    ("q.io:\n  images: {a: {exclude: '(?x) b'}}", (2, 25), "at its character 3"),
    ("q.io:\n  images: {a: }\n  exclude: '('", (3, 12), "is not a regular expression"),
    ("q.io:\n  images: {a: }\n  exclude: [a]", (3, 12), "exclude must be a text"),
    ("q.io:\n  images: {a: {tags: [x1, x2], exclude: x}}", (2, 22), "exclude leaves none of the tags of a"),
    (
        "q.io:\n  images-by-tag-regex: {a: '(x'}",
        (2, 28),
        "\"(x\" is not a regular expression: unclosed group",
    ),
    ("q.io:\n  images-by-tag-regex: {a: '(\\w{99}){9}\\w{999}\\w{999}\\w{999}'}", (2, 28), "it is too large"),
    ("q.io:\n  images-by-semver: {a: '>= x.y'}", (2, 25), "\">= x.y\" is not a version constraint"),
    // Nothing to mirror.
    ("q.io:\n  tls-verify: true", (1, 1), "the registry q.io has no images"),
    ("# x\n\nq.io:\n  images: {}", (3, 1), "the registry q.io has no images"),
    ("q.io:", (1, 1), "the registry q.io has no images"),
    // YAML itself.
    ("q.io:\n  images: {a: &x [v1], b: *y}", (2, 27), "unknown anchor"),
    ("q.io:\n  images: {a: &x [v1, *x]}", (2, 23), "this alias is inside of what it stands for"),
    ("q.io:\n  images: &x {a: [v1]}\n  <<: *x\n  newest: few", (4, 11), "newest must be"),
    ("q.io:\n  <<: [a]\n  images: {a: }", (2, 8), "what << merges must be a mapping"),
    ("q.io:\n  <<:\n  images: {a: }", (2, 5), "what << merges must be a mapping"),
    ("x-a: &a {newest: few}\nq.io:\n  <<: *a\n  images: {a: }", (1, 18), "newest must be"),
    ("x-a: &a few\nq.io:\n  newest: *a\n  images: {a: }", (3, 11), "newest must be"),
    ("x-a: &a {b: {c: [d]}}\nq.io:\n  images: {a: [[[*a]]]}", (3, 18), "nested too deep"),
    ("[::1]:5000:\n  images: {a: }", (1, 1), "put it in quotes"),
    ("q.io:\n  images: {a: }\n---\nr.io:\n  images: {a: }", (3, 1), "a second document"),
    ("q.io:\n  images: {a: [!!binary eA==]}", (2, 16), "the tag of this value is not supported"),
    ("q.io:\n  images: {a: [x}", (2, 17), "this is not YAML"),
    ("q.io:\n  images: {a: [[[[[[[[[x]]]]]]]]]}", (2, 20), "nested too deep"),
];

#[test]
fn what_is_wrong_in_yaml_is_told_with_its_place() {
    for (text, place, part) in WRONG {
        let error = List::parse(text).expect_err(text);
        assert_eq!(
            ((error.line, error.column), true),
            (*place, error.text.contains(part)),
            "{error} in\n{text}"
        );
        assert!(!error.text.contains('\n') && !error.text.contains("secret"), "{error}");
    }
}

#[test]
fn aliases_and_merge_keys_mean_what_they_mean_in_yaml() {
    let text = "
x-defaults: &defaults
  tls-verify: false
  newest: 2
.more: &more {newest: 9, platform: linux/arm64, images: &images {web: &tags [v1, v2]}}
q.io:
  <<: [*defaults, *more]
  images-by-tag-regex: {lib: &old '^v', base: {regex: *old, exclude: *old}}
r.io:
  newest: 1
  images:
    <<: *images
    app: *tags
    \"<<\":
  <<: *defaults
";
    let error = List::parse(text).unwrap_err();
    assert!(error.text.contains("<<"), "a quoted one is a key as any other: {error}");
    let rules = list(&text.replace("    \"<<\":\n", "    all: {}\n")).rules;
    let tls = |rule: &Rule| rule.registry.as_ref().and_then(|registry| registry.tls_verify);
    let seen: Vec<_> = rules.iter().map(|rule| (rule.line, rule.to_string(), tls(rule))).collect();
    let expected = [
        (8, "docker://q.io/lib by tag ^v, newest 2"),
        (8, "docker://q.io/base by tag ^v, without ^v, newest 2"),
        (5, "docker://q.io/web:v1"),
        (5, "docker://q.io/web:v2"),
        (5, "docker://r.io/app:v1"),
        (5, "docker://r.io/app:v2"),
        (14, "docker://r.io/all, all tags, newest 1"),
        (5, "docker://r.io/web:v1"),
        (5, "docker://r.io/web:v2"),
    ];
    let expected: Vec<_> = expected.map(|(line, rule)| (line, rule.to_owned(), Some(false))).into();
    assert_eq!(seen, expected);
    assert_eq!(rules[0].platform.as_ref().unwrap().to_string(), "linux/arm64");
    assert_eq!(rules[4].platform, None);
}

#[test]
fn tags_can_be_excluded_beside_every_way_to_choose_them() {
    let tags = "v1 v1-rc v2 v2-rc 3.0.0 3.0.0-rc";
    for (list, want) in [
        ("images: {a: {exclude: rc}}", "v1 v2 3.0.0"),
        ("images: {a: {tags: [], exclude: rc, newest: 2}}", "v2 3.0.0"),
        ("images: {a: {tags: [v1, v1-rc], exclude: rc}}", "v1"),
        ("images: {a: }\n  exclude: rc", "v1 v2 3.0.0"),
        ("images: {a: {exclude: '^v'}}\n  exclude: rc", "3.0.0-rc 3.0.0"),
        ("images: {a: [v1, v1-rc]}\n  exclude: rc", "v1 v1-rc"),
        ("images-by-tag-regex: {a: {regex: ^v, exclude: rc}}", "v1 v2"),
        ("images-by-tag-regex: {a: ^v}\n  exclude: '[^c]$'", "v1-rc v2-rc"),
        ("images-by-semver: {a: {semver: '>= 1-0', exclude: rc}}", "v1 v2 3.0.0"),
        ("images-by-semver: {a: '>= 1-0'}\n  exclude: rc", "v1 v2 3.0.0"),
    ] {
        let text = format!("q.io:\n  {list}\n");
        let want: Vec<String> = want.split(' ').map(|tag| format!("docker://q.io/a:{tag}")).collect();
        assert_eq!(images(&text, tags), want, "{text}");
    }
}

#[test]
fn aliases_stand_for_a_bounded_number_of_values() {
    // Nine levels with nine aliases each: 9^9 values in 400 bytes.
    let mut bomb = "x-a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, before) in ('b'..='i').zip('a'..) {
        writeln!(bomb, "x-{name}: &{name} [{}]", vec![format!("*{before}"); 9].join(", ")).unwrap();
    }
    let error = List::parse(&bomb).unwrap_err();
    assert!(error.text.contains("aliases stand for more than 100000 values"), "{error}");
    // What each level adds is counted, so the sixth one is too much.
    assert_eq!(error.line, 6, "{error}");

    // As many as are allowed, and one more: a tag and its alias are two.
    let aliases = |count: usize| format!("x-a: &a v1\nq.io:\n  images:\n    a: [{}]\n", "*a,".repeat(count));
    assert_eq!(list(&aliases(tree::MAX_ALIASED / 2)).rules.len(), tree::MAX_ALIASED / 2);
    let error = List::parse(&aliases(tree::MAX_ALIASED / 2 + 1)).unwrap_err();
    assert!(error.text.contains("aliases stand for more"), "{error}");
    assert_eq!((error.line, error.column), (4, 9 + 3 * tree::MAX_ALIASED / 2));

    // Merged mappings count like others.
    let mut merged =
        "x-a: &a {a: , b: , c: , d: , e: , f: , g: , h: , i: , j: }\nq.io:\n  images:\n".to_owned();
    (0..10_000).for_each(|number| writeln!(merged, "    i{number}: {{<<: *a}}").unwrap());
    assert!(List::parse(&merged).unwrap_err().text.contains("aliases stand for more"));
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    for open in ["[", "{a: ", "- ", "? ", "{", "[{", "'a': ["] {
        let text = format!("---\n{}", open.repeat(100_000));
        assert!(List::parse(&text).is_err(), "{open}");
    }
}

/// How an image is written, and what it must be read as.
#[derive(Debug, Clone)]
struct Image {
    tags: Vec<String>,
    mapping: bool,
    settings: Settings,
}

type Section = Vec<(String, Image)>;
type Settings = (Option<usize>, Option<&'static str>, Option<bool>);

fn settings() -> impl Strategy<Value = Settings> {
    let platform = proptest::option::of(proptest::sample::select(vec!["linux/amd64", "linux/arm/v7"]));
    (proptest::option::of(1usize..9), platform, proptest::option::of(any::<bool>()))
}

fn section() -> impl Strategy<Value = Section> {
    let tags = proptest::collection::vec("[a-z0-9_][A-Za-z0-9._-]{0,6}", 0..4);
    let image = (tags, any::<bool>(), settings()).prop_map(|(tags, mapping, settings)| Image {
        tags,
        mapping,
        settings,
    });
    proptest::collection::btree_map("[a-z]{1,3}(/[a-z0-9]{1,3})?", image, 0..4)
        .prop_map(|images| images.into_iter().collect::<Section>())
        .prop_shuffle()
}

/// A text as YAML: quoted one way or the other.
fn quoted(text: &str, double: bool) -> String {
    match double {
        true => serde_json::to_string(text).unwrap(),
        false => format!("'{}'", text.replace('\'', "''")),
    }
}

/// Writes the settings that `said` holds, one a line.
fn write_settings(yaml: &mut String, indent: &str, (newest, platform, immutable): Settings) {
    newest.iter().for_each(|newest| writeln!(yaml, "{indent}newest: {newest}").unwrap());
    platform.iter().for_each(|platform| writeln!(yaml, "{indent}platform: {platform}").unwrap());
    immutable.iter().for_each(|immutable| writeln!(yaml, "{indent}immutable-tags: {immutable}").unwrap());
}

const SECTIONS: [(&str, &str, &[&str]); 3] = [
    ("images", "tags", &[]),
    ("images-by-tag-regex", "regex", &["^v", "", "a|b'\"", "[.] # ~"]),
    ("images-by-semver", "semver", &["*", ">= 1, < 2 || 3", "~1", "1 - 2"]),
];

/// Writes one section and says which rules it is.
fn write_section(
    yaml: &mut String,
    host: &str,
    outer: Settings,
    kind: usize,
    section: &Section,
) -> Vec<String> {
    let (name, key, patterns) = SECTIONS[kind];
    let mut rules = Vec::new();
    writeln!(yaml, "  {name}:").unwrap();
    for (number, (path, image)) in section.iter().enumerate() {
        let named = kind == 0 && !image.tags.is_empty();
        let mut own = if image.mapping { image.settings } else { (None, None, None) };
        if named {
            own.0 = None;
        }
        let pattern = patterns.get(number % patterns.len().max(1)).copied().unwrap_or_default();
        let quote = |text: &str| quoted(text, number % 2 == 0);
        let value = match kind {
            0 => format!("[{}]", image.tags.iter().map(|tag| quote(tag)).collect::<Vec<_>>().join(", ")),
            _ => quote(pattern),
        };
        match image.mapping {
            true => writeln!(yaml, "    {path}:\n      {key}: {value}").unwrap(),
            false => writeln!(yaml, "    {path}: {value}").unwrap(),
        }
        write_settings(yaml, "      ", own);
        let newest = own.0.or(outer.0).map_or(String::new(), |newest| format!(", newest {newest}"));
        let said = format!(" {:?} {}", own.1.or(outer.1), own.2.or(outer.2).unwrap_or(false));
        let repository = format!("docker://{host}/{path}");
        match kind {
            0 if named => rules.extend(image.tags.iter().map(|tag| format!("{repository}:{tag}{said}"))),
            0 => rules.push(format!("{repository}, all tags{newest}{said}")),
            1 => rules.push(format!("{repository} by tag {pattern}{newest}{said}")),
            _ => rules.push(format!("{repository} by version {pattern}{newest}{said}")),
        }
    }
    rules
}

proptest! {
    /// Any registries written as YAML read back as the very rules, in their order.
    #[test]
    fn rules_written_as_yaml_read_back(
        registries in proptest::collection::btree_map(
            "[a-z]{1,4}[.]io(:[0-9]{2,4})?",
            (proptest::collection::vec(section(), 3), settings(), any::<bool>(), ("\\PC{1,8}", "\\PC{0,8}"),
                0usize..3),
            1..4,
        ),
    ) {
        let mut yaml = String::new();
        let mut expected = Vec::new();
        let mut abouts = Vec::new();
        for (host, (sections, outer, before, (username, password), first)) in &registries {
            if sections.iter().all(Vec::is_empty) {
                continue;
            }
            writeln!(yaml, "{}:", quoted(host, *before)).unwrap();
            writeln!(yaml, "  credentials: {{username: {}, password: \
                            {}}}", quoted(username, true), quoted(password, true)).unwrap();
            if *before {
                write_settings(&mut yaml, "  ", *outer);
            }
            for kind in (0..3).map(|kind| (kind + first) % 3) {
                let rules = write_section(&mut yaml, host, *outer, kind, &sections[kind]);
                abouts.extend(vec![(host.clone(), username.clone(), password.clone()); rules.len()]);
                expected.extend(rules);
            }
            if !before {
                write_settings(&mut yaml, "  ", *outer);
            }
        }
        prop_assume!(!expected.is_empty());
        let rules = List::parse(&yaml)
            .map_err(|error| TestCaseError::fail(format!("{error}\n{yaml}")))?.rules;
        let seen: Vec<String> = rules
            .iter()
            .map(|r| format!("{r} {:?} {}", r.platform.as_ref().map(ToString::to_string), r.immutable_tags))
            .collect();
        prop_assert_eq!(seen, expected, "{}", yaml);
        for (rule, (host, username, password)) in rules.iter().zip(abouts) {
            let about = rule.registry.as_deref().unwrap();
            prop_assert_eq!(&about.name, &host);
            prop_assert_eq!(about.credentials.as_ref().unwrap(), &Credentials { username, password });
        }
    }

    /// Whatever the text, it is read or refused with a place inside it.
    #[test]
    fn no_text_panics(
        text in proptest::collection::vec(
            prop_oneof![
                "\\PC{0,6}",
                proptest::sample::select(vec![
                    "\n", "  ", "\t", ": ", "- ", "? ", "[", "]", "{", "}", ",", "&a ", "*a ", "!!str ",
                    "!<", "|\n", ">-\n",
                    "'", "\"", "\\", "#", "---\n", "...\n", "%YAML 1.2\n", "%TAG ! x\n", "q.io:\n", "images",
                    "newest", "~", "\r\n", "\u{feff}", "\0",
                    "images-by-semver: {a: ", "images-by-tag-regex: {a: ", "docker://a b\n",
                ]).prop_map(str::to_owned),
            ],
            0..30,
        ),
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        for text in [text.concat(), String::from_utf8_lossy(&bytes).into_owned()] {
            if let Err(error) = List::parse(&text) {
                prop_assert!(error.line >= 1 && error.column >= 1 && error.line <= text.split(['\n',
                    '\r']).count() + 1, "{}", error);
                prop_assert!(!error.text.contains('\n'), "{}", error);
            }
        }
    }
}
