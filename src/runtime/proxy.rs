//! The proxy of a request, from the variables that curl reads: `http_proxy`, `https_proxy` and
//! `all_proxy`, or in upper case, and `no_proxy`. Without I/O.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use crate::runtime::url::display_url;

/// The variables that are read, in the order of precedence of each pair.
pub const VARIABLES: [&str; 8] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// The schemes of a proxy's URL.
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// The values of [`VARIABLES`] that are set.
#[derive(Clone, Default)]
pub struct ProxyVariables(Vec<(&'static str, String)>);

impl fmt::Debug for ProxyVariables {
    /// Omits the values, which may contain passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

/// A proxy and the variable that names it.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its URL, which may contain a password.
    pub url: Url,
    /// The variable.
    pub variable: &'static str,
}

impl fmt::Display for Proxy {
    /// Writes the URL without credentials, and the variable.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = display_url(&self.url);
        write!(f, "{} ({})", url.trim_end_matches('/'), self.variable)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ProxyVariables {
    /// Takes the values that `get` returns for [`VARIABLES`]; an empty one counts as unset.
    pub fn of<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Self {
        let set = VARIABLES.into_iter().filter_map(|name| {
            let value = get(name)?.trim();
            (!value.is_empty()).then(|| (name, value.to_owned()))
        });
        Self(set.collect())
    }

    /// Returns the first of these variables that is set.
    fn first(&self, names: [&str; 2]) -> Option<(&'static str, &str)> {
        let mut names = names.into_iter();
        names.find_map(|name| {
            let found = self.0.iter().find(|(known, _)| *known == name);
            found.map(|(name, value)| (*name, value.as_str()))
        })
    }

    /// Returns the proxy for a request to `url`, if it needs one.
    ///
    /// # Errors
    /// Names the variable whose value is no proxy, and never shows the value.
    pub fn proxy_of(&self, url: &Url) -> Result<Option<Proxy>, String> {
        let of_scheme = match url.scheme() {
            "https" => self.first(["https_proxy", "HTTPS_PROXY"]),
            _ => self.first(["http_proxy", "HTTP_PROXY"]),
        };
        let set = of_scheme.or_else(|| self.first(["all_proxy", "ALL_PROXY"]));
        let Some((variable, value)) = set else {
            return Ok(None);
        };
        let exceptions = self.first(["no_proxy", "NO_PROXY"]);
        if exceptions.is_some_and(|(_, list)| is_exempt(url, list)) {
            return Ok(None);
        }
        // curl takes a proxy without a scheme for an HTTP proxy.
        let parsed = if value.contains("://") {
            Url::parse(value)
        } else {
            Url::parse(&format!("http://{value}"))
        };
        match parsed {
            Ok(url) if SCHEMES.contains(&url.scheme()) && url.has_host() => {
                Ok(Some(Proxy { url, variable }))
            }
            _ => Err(format!(
                "{variable} must be the URL of a proxy with the scheme {}",
                SCHEMES.join(", ").replace(", socks5h", " or socks5h")
            )),
        }
    }
}

/// Returns true if `list`, the value of `no_proxy`, has the host of `url`, as curl compares it: `*`, an
/// address, a network such as `10.0.0.0/8`, or a domain, whose subdomains it includes.
fn is_exempt(url: &Url, list: &str) -> bool {
    let entries = list.split([',', ' ', '\t']).filter(|it| !it.is_empty());
    let (name, address) = match url.host() {
        None => return false,
        Some(Host::Ipv4(address)) => (String::new(), Some(IpAddr::V4(address))),
        Some(Host::Ipv6(address)) => (String::new(), Some(IpAddr::V6(address))),
        Some(Host::Domain(name)) => match name.trim_end_matches('.').parse() {
            // Of a scheme that the `url` crate does not know.
            Ok(address) => (String::new(), Some(address)),
            Err(_) => (name.trim_end_matches('.').to_lowercase(), None),
        },
    };
    let mut entries = entries.map(str::to_lowercase);
    entries.any(|entry| match (entry.as_str(), address) {
        ("*", _) => true,
        (entry, Some(address)) => has_address(entry, address),
        (entry, None) => {
            let domain = entry.trim_start_matches('.').trim_end_matches('.');
            let before = name.strip_suffix(domain);
            before.is_some_and(|it| !domain.is_empty() && (it.is_empty() || it.ends_with('.')))
        }
    })
}

/// Returns true if `entry` is this address, or a network that contains it.
fn has_address(entry: &str, address: IpAddr) -> bool {
    let (network, prefix) = match entry.split_once('/') {
        Some((network, prefix)) => (network, prefix.parse().ok()),
        None => (entry, Some(u32::MAX)),
    };
    let network = network.trim_start_matches('[').trim_end_matches(']');
    let (Ok(network), Some(prefix)) = (network.parse(), prefix) else {
        return false;
    };
    // The bits of an address, at the upper end of 128.
    let bits = |address| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => u128::from(address),
    };
    let width = if address.is_ipv4() { 32 } else { 128 };
    let differing = (bits(network) ^ bits(address)).leading_zeros();
    address.is_ipv4() == IpAddr::is_ipv4(&network) && differing >= prefix.min(width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy_of(variables: &[(&'static str, &str)], url: &str) -> Result<Option<String>, String> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| *value)
        };
        let proxy = ProxyVariables::of(get).proxy_of(&url.parse().unwrap())?;
        Ok(proxy.map(|proxy| proxy.to_string()))
    }

    #[test]
    fn variable_of_the_scheme_precedes_the_common_one_and_lower_case_upper_case() {
        let all = [
            ("HTTP_PROXY", "a:1"),
            ("http_proxy", "b:1"),
            ("HTTPS_PROXY", "user:canary@c:1"),
            ("ALL_PROXY", "socks5://d:1"),
        ];
        let of = |set: &[(&'static str, &str)], url| proxy_of(set, url).unwrap().unwrap();
        assert_eq!(of(&all, "http://x"), "http://b:1 (http_proxy)");
        assert_eq!(of(&all[..1], "http://x"), "http://a:1 (HTTP_PROXY)");
        assert_eq!(of(&all, "https://x"), "http://c:1 (HTTPS_PROXY)");
        assert_eq!(of(&all[3..], "https://x"), "socks5://d:1 (ALL_PROXY)");
        assert_eq!(proxy_of(&all[..2], "https://x"), Ok(None));
        assert_eq!(proxy_of(&[("HTTP_PROXY", " ")], "http://x"), Ok(None));
    }

    #[test]
    fn exceptions_match_as_in_curl() {
        for (list, url, is_direct) in [
            ("*", "http://10.1.2.3/", true),
            ("*", "http://tokens.internal/", true),
            ("10.1.2.3", "http://10.1.2.3:8080/", true),
            ("10.1.2.30", "http://10.1.2.3/", false),
            ("a, 10.0.0.0/8", "http://10.1.2.3/", true),
            ("10.0.0.0/16", "http://10.1.2.3/", false),
            ("0.0.0.0/0", "http://10.1.2.3/", true),
            ("10.0.0.0/x", "http://10.0.0.0/", false),
            ("::/0", "http://10.1.2.3/", false),
            ("[fd00::1]", "http://[fd00::1]/", true),
            ("fd00::/8", "http://[fd12::1]:8080/", true),
            ("fe80::/10", "http://[fd12::1]/", false),
            ("internal", "http://tokens.internal/", true),
            (".internal", "http://tokens.internal/", true),
            (".internal", "http://internal/", true),
            ("INTERNAL.", "http://tokens.internal./", true),
            ("internal", "http://tokensinternal/", false),
            ("tokens.internal", "http://internal/", false),
            ("a b\tlocalhost", "http://localhost/", true),
            (",.,", "http://localhost/", false),
        ] {
            let proxy = proxy_of(&[("ALL_PROXY", "p:1"), ("NO_PROXY", list)], url);
            assert_eq!(proxy.unwrap().is_none(), is_direct, "{list} {url}");
        }
    }

    #[test]
    fn invalid_value_is_an_error_that_does_not_show_it() {
        for value in ["ftp://canary:1", "http://", "http://canary:port", "a b"] {
            let error = proxy_of(&[("HTTPS_PROXY", value)], "https://x").unwrap_err();
            assert!(error.starts_with("HTTPS_PROXY must be"), "{error}");
            assert!(!error.contains("canary"), "{error}");
            // The variable of the other scheme does not matter.
            assert_eq!(proxy_of(&[("HTTPS_PROXY", value)], "http://x"), Ok(None));
        }
    }
}
