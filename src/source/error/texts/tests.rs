//! Texts as skopeo and registries write them, and the kinds that they should have.

use super::super::{ErrorKind::*, SourceError};
use super::*;

/// Said by skopeo 1.9.3; see `tests/source_errors.rs`, which makes it say them.
#[test]
fn what_skopeo_says_is_told_apart() {
    for (text, kind) in [
        (
            "pinging container registry 127.0.0.1:5000: invalid status code from registry 400 (Bad Request)",
            Other,
        ),
        (
            "pinging container registry 127.0.0.1:5000: invalid status code from registry 403 (Forbidden)",
            Unauthorized,
        ),
        (
            "pinging container registry 127.0.0.1:5000: invalid status code from registry 408 (Request \
             Timeout)",
            Transient,
        ),
        ("pinging container registry 127.0.0.1:5000: too many requests to registry", Transient),
        ("Requesting bearer token: invalid status code from registry 502 (Bad Gateway)", Transient),
        ("unable to retrieve auth token: invalid username/password: unauthorized: as scripted", Unauthorized),
        ("reading manifest v1 in 127.0.0.1:5000/app: unauthorized: authentication required", Unauthorized),
        ("reading manifest v1 in 127.0.0.1:5000/app: denied: as scripted", Unauthorized),
        ("reading manifest v1 in 127.0.0.1:5000/app: manifest unknown: as scripted", NotFound),
        ("reading manifest v1 in 127.0.0.1:5000/app: unknown: as scripted", Other),
        ("reading manifest v1 in 127.0.0.1:5000/app: toomanyrequests: as scripted", Transient),
        ("reading manifest v1 in 127.0.0.1:5000/app: unavailable: as scripted", Transient),
        (
            "reading manifest v1 in r/x: StatusCode: 403, <html> <head><title>Trouble</title></head> \
             <body...",
            Unauthorized,
        ),
        ("reading manifest v1 in r/x: StatusCode: 404, ", NotFound),
        ("reading manifest v1 in r/x: StatusCode: 408, <html>", Transient),
        ("reading manifest v1 in r/x: StatusCode: 416, ", Other),
        ("reading manifest v1 in r/x: StatusCode: 429, ", Transient),
        ("reading manifest v1 in r/x: received unexpected HTTP status: 500 Internal Server Error", Transient),
        ("Error fetching blob: invalid status code from registry 404 (Not Found)", NotFound),
        ("Error fetching blob: invalid status code from registry 504 (Gateway Timeout)", Transient),
        (
            "pinging container registry 127.0.0.1:1: Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: \
             connect: connection refused",
            Transient,
        ),
        ("read tcp 127.0.0.1:42196->127.0.0.1:33767: read: connection reset by peer", Transient),
        ("Get \"https://r/v2/\": dial tcp: lookup nowhere.invalid: no such host", Transient),
        (
            "Get \"https://r/v2/\": dial tcp: lookup r on 192.0.2.53:53: read udp \
             192.0.2.7:4711->192.0.2.53:53: i/o timeout",
            Transient,
        ),
        ("Get \"https://r/v2/\": net/http: TLS handshake timeout", Transient),
        ("Get \"https://r/v2/\": EOF", Transient),
        ("unexpected EOF", Transient),
        ("unexpected end of JSON input", Transient),
        (
            "Get \"http://r/v2/\": net/http: HTTP/1.x transport connection broken: malformed HTTP status \
             code \"mail.example\"",
            Transient,
        ),
        ("Get \"https://r/v2/\": x509: certificate signed by unknown authority", Other),
        ("Get \"https://r/v2/\": x509: certificate is valid for a.example, not unauthorized.example", Other),
        (
            "pinging container registry r: Get \"https://r/v2/\": http: server gave HTTP response to HTTPS \
             client",
            Other,
        ),
        ("corrupted blob, expecting sha256:00", Corrupt),
        ("Manifest does not match provided manifest digest sha256:00", Corrupt),
        ("expected 12 bytes in blob, got 13", Corrupt),
        ("expected 12 bytes in blob, got 11", Transient),
        ("can't talk to a V1 container registry", Transient),
        ("unsupported schema version 2", Other),
        ("open /nowhere/manifest.json: no such file or directory", NotFound),
        ("open /nowhere/manifest.json: permission denied", Local),
        ("write /var/tmp/x: no space left on device", Local),
    ] {
        assert_eq!(SourceError::from_skopeo(text).kind(), kind, "{text}");
    }
}

/// Of containers/image 5.24 to 5.36 and of registries in the wild.
#[test]
fn what_newer_skopeos_and_other_registries_say_is_told_apart() {
    for (text, kind) in [
        ("fetching blob: received unexpected HTTP status: 502 Bad Gateway", Transient),
        (
            "fetching blob: StatusCode: 403, \"<?xml version=\\\"1.0\\\"?><Error><Code>AccessDen...\"",
            Unauthorized,
        ),
        ("fetching blob: StatusCode: 429, \"slow\"", Transient),
        ("fetching blob: blob unknown to registry", NotFound),
        ("reading manifest v1 in r/x: manifest unknown", NotFound),
        ("reading manifest v1 in r/x: repository name not known to registry", NotFound),
        ("reading manifest v1 in r/x: requested access to the resource is denied", Unauthorized),
        ("reading manifest v1 in r/x: authentication required", Unauthorized),
        ("reading manifest v1 in r/x: too many requests", Transient),
        ("reading manifest v1 in r/x: service unavailable", Transient),
        ("requesting bearer token: received unexpected HTTP status: 503 Service Unavailable", Transient),
        ("error parsing HTTP 429 response body: invalid character 'T': \"Too many\"", Transient),
        (
            "(heuristic tuning data: last retry 0, current offset 429; 503.000 ms total, 404.000 ms since \
             progress): unexpected EOF",
            Transient,
        ),
        (
            "unexpected EOF (after reconnecting, server did not process a Range: header, status 200)",
            Transient,
        ),
        ("read: connection reset by peer (while reconnecting: Get \"https://r/x\": EOF)", Transient),
        ("stream error: stream ID 7; INTERNAL_ERROR; received from peer", Transient),
        (
            "http2: server sent GOAWAY and closed the connection; LastStreamID=1999, ErrCode=NO_ERROR",
            Transient,
        ),
        ("http2: client connection lost", Transient),
        ("local error: tls: bad record MAC", Transient),
        (
            "Get \"https://r/v2/\": context deadline exceeded (Client.Timeout exceeded while awaiting \
             headers)",
            Transient,
        ),
        ("Get \"https://r/v2/\": Forbidden", Unauthorized),
        ("Get \"https://r/v2/\": Bad Gateway", Transient),
        ("remote error: tls: handshake failure", Other),
        (
            "errors:\ndenied: requested access to the resource is denied\nunauthorized: authentication \
             required",
            Unauthorized,
        ),
        (
            "toomanyrequests: You have reached your unauthenticated pull rate limit. \
             https://r/increase-rate-limit",
            Transient,
        ),
        (
            "denied: Permission \"registry.download\" denied on resource \"x\" (or it may not exist)",
            Unauthorized,
        ),
        ("unknown: artifact library/unauthorized:v1 not found", NotFound),
        ("name unknown: Repository \"denied\" not found", NotFound),
        ("Source image rejected: Running image docker://r/x:latest is rejected by policy.", Other),
        ("Source image rejected: A signature was required, but no signature exists", Other),
        (
            "error getting credentials: exec: \"docker-credential-x\": executable file not found in $PATH",
            Local,
        ),
    ] {
        assert_eq!(SourceError::from_skopeo(text).kind(), kind, "{text}");
    }
}

#[test]
fn names_say_nothing() {
    for name in
        ["unauthorized", "toomanyrequests", "manifest.unknown", "503", "too.many.requests", "forbidden-app"]
    {
        for text in [
            format!("reading manifest {name} in {name}.example/{name}/{name}: something new"),
            format!("Error reading manifest {name} in {name}.example:5000/{name}: something new"),
            format!("pinging container registry {name}: something new"),
            format!(
                "pinging container registry {name}.example:429: Get \"http://{name}.example/v2/\": \
                     something new"
            ),
            format!("Get \"http://r/v2/{name}/manifests/{name}\": dial tcp: lookup {name}: something new"),
            format!("initializing source docker://r/{name}:{name}: something new"),
            format!("{name}-app: something new"),
            "reading manifest sha256:42950340442950340442950340442950340442950340442950340442950340ab in \
             r/x: something new"
                .into(),
        ] {
            let error = SourceError::from_skopeo(&text);
            assert_eq!(error.kind(), Other, "{text}");
            assert!(!SourceError::new(Transient, text.as_str()).is_throttled(), "{text}");
        }
    }
    let missing =
        SourceError::from_skopeo("open /images/toomanyrequests unauthorized/x: no such file or directory");
    assert_eq!(missing.kind(), NotFound);
}

#[test]
fn a_registry_that_asks_for_less_is_known() {
    for (text, throttled) in [
        ("too many requests to registry", true),
        ("reading manifest v1 in r/x: toomanyrequests: as scripted", true),
        ("reading manifest v1 in r/x: StatusCode: 429, <html>", true),
        ("invalid status code from registry 503 (Service Unavailable)", true),
        ("reading manifest v1 in r/x: unavailable: as scripted", true),
        ("Get \"https://r/v2/\": Service Unavailable", true),
        ("invalid status code from registry 500 (Internal Server Error)", false),
        ("received unexpected HTTP status: 502 Bad Gateway", false),
        ("invalid status code from registry 403 (rate limit)", false),
        ("denied: rate limit", false),
        ("unexpected EOF", false),
    ] {
        let error = SourceError::from_skopeo(text);
        assert_eq!(error.is_throttled(), throttled, "{text}");
        assert!(error.is_retryable() || !throttled, "{text}");
        assert_eq!(error.clone().within("the config").is_throttled(), throttled, "{text}");
        // As when it is made anew of what was shown.
        assert_eq!(SourceError::new(error.kind(), error.to_string()).is_throttled(), throttled, "{text}");
    }
    let late = format!("<html>{} toomanyrequests", "x ".repeat(10_000));
    assert!(SourceError::from_skopeo(&late).is_throttled(), "not only of what is shown");
}

#[test]
fn missing_bytes_are_no_corruption() {
    let wrong = || SourceError::from_skopeo("corrupted blob, expecting sha256:00");
    assert_eq!(wrong().within("the blob ends after 10 of 20 bytes").kind(), Transient);
    assert_eq!(wrong().within("the blob ends after 20 of 20 bytes").kind(), Corrupt);
    assert_eq!(wrong().within("the config").kind(), Corrupt);
    let refused = SourceError::from_skopeo("denied: no").within("the blob ends after 10 of 20 bytes");
    assert_eq!(refused.kind(), Unauthorized);
}

#[test]
fn a_message_is_one_line_without_the_protocols_own_words() {
    let error = SourceError::from_skopeo(
        "failed to invoke method OpenImage: errors:\n\tdenied: no\n\tunauthorized: no\n",
    );
    assert_eq!(
        error.to_string(),
        "errors: denied: no unauthorized: no: log in with `skopeo login`, or name a file of credentials \
         with --authfile"
    );
    let page = format!("<html>{}", "x ".repeat(10_000));
    assert!(SourceError::from_skopeo(&page).to_string().chars().count() <= LONGEST + 1);
}

#[test]
fn a_remedy_is_named_where_one_is_known() {
    let plain = SourceError::from_skopeo("http: server gave HTTP response to HTTPS client");
    assert!(plain.to_string().ends_with("say --tls-verify=false"), "{plain}");
    let unknown_ca = SourceError::from_skopeo("x509: certificate signed by unknown authority");
    assert!(unknown_ca.to_string().contains("--cert-dir"), "{unknown_ca}");
}
