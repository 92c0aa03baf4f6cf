//! Platforms in OCI's terms (`linux/arm64/v8`). Knows Go's names for machines; ignores images.

use std::{fmt, str::FromStr};

use containers_image_proxy::oci_spec::image as oci;

/// An operating system, a machine and, for some machines, a variant.
///
/// Source: OCI image-spec, image-index.md, "platform" and "Platform Variants".
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// As in Go's GOOS: `linux`.
    pub os: String,
    /// As in Go's GOARCH: `amd64`.
    pub architecture: String,
    /// `v8` of arm64, `v7` of arm; mostly absent.
    pub variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform (expected os/architecture or os/architecture/variant, as in linux/arm64)")]
pub struct ParsePlatformError(String);

impl Platform {
    /// This machine.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            // What every current distribution's 32-bit port needs at least.
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "powerpc64" => ("ppc64", None),
            "loongarch64" => ("loong64", None),
            same => (same, None),
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Whether both name the same machine: `linux/arm64` is `linux/arm64/v8`.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.os, &self.architecture, self.full_variant())
            == (&other.os, &other.architecture, other.full_variant())
    }

    /// How well an image for `offered` runs on this platform: the lower the better, `None` if it does not.
    ///
    /// An exact variant is best, then the lower ones of arm, then an image that names no variant. This is
    /// the order of containers/image, `internal/pkg/platform`.
    pub(super) fn rank(&self, offered: &Self) -> Option<usize> {
        if (&self.os, &self.architecture) != (&offered.os, &offered.architecture) {
            return None;
        }
        let wanted = self.full_variant();
        if offered.full_variant() == wanted {
            return Some(usize::from(offered.variant != self.variant));
        }
        const ARM: [&str; 4] = ["v8", "v7", "v6", "v5"];
        let place = |variant: Option<&str>| ARM.iter().position(|v| Some(*v) == variant);
        match (self.architecture.as_str(), place(wanted), place(offered.variant.as_deref())) {
            (_, _, _) if offered.variant.is_none() => Some(2 + ARM.len()),
            ("arm", Some(wanted), Some(offered)) if offered > wanted => Some(1 + offered),
            // `linux/arm` asked for without a variant: the highest there is.
            ("arm", None, Some(offered)) => Some(1 + offered),
            _ => None,
        }
    }

    fn full_variant(&self) -> Option<&str> {
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("arm64", None) => Some("v8"),
            ("amd64", Some("v1")) => None,
            (_, variant) => variant,
        }
    }
}

impl From<&oci::Platform> for Platform {
    fn from(platform: &oci::Platform) -> Self {
        Self {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone().filter(|v| !v.is_empty()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let sound = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        };
        if !(2..=3).contains(&parts.len())
            || !parts.iter().all(sound)
            || parts.iter().any(|p| p.starts_with('-'))
        {
            return Err(ParsePlatformError(text.to_owned()));
        }
        Ok(Self {
            os: parts[0].to_owned(),
            architecture: parts[1].to_owned(),
            variant: parts.get(2).map(|v| (*v).to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn text_and_value_agree() {
        for text in ["linux/amd64", "linux/arm64/v8", "windows/amd64"] {
            assert_eq!(platform(text).to_string(), text);
        }
        for bad in
            ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "Linux/amd64", "linux/--help", "linux/a b"]
        {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        let host = Platform::host();
        assert_eq!(platform(&host.to_string()), host);
    }

    #[test]
    fn the_best_offer_wins() {
        let best = |wanted: &str, offers: &[&str]| {
            let ranked =
                offers.iter().filter_map(|o| Some((platform(wanted).rank(&platform(o))?, o.to_string())));
            ranked.min().map(|(_, offer)| offer)
        };
        assert_eq!(
            best("linux/amd64", &["linux/arm64", "linux/amd64/v3", "linux/amd64"]).unwrap(),
            "linux/amd64"
        );
        assert_eq!(best("linux/arm64/v8", &["linux/arm64", "linux/arm/v7"]).unwrap(), "linux/arm64");
        assert_eq!(best("linux/arm64", &["linux/arm64/v8"]).unwrap(), "linux/arm64/v8");
        assert_eq!(
            best("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6", "linux/arm64"]).unwrap(),
            "linux/arm/v6"
        );
        assert_eq!(best("linux/arm/v6", &["linux/arm/v7", "linux/arm"]).unwrap(), "linux/arm");
        assert_eq!(best("linux/arm", &["linux/arm/v5", "linux/arm/v7"]).unwrap(), "linux/arm/v7");
        assert_eq!(best("linux/riscv64", &["linux/amd64", "unknown/unknown"]), None);
        assert_eq!(best("windows/amd64", &["linux/amd64"]), None);
    }
}
