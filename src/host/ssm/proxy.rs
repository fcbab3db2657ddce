//! Which requests go through a proxy: those over TLS to other hosts. What is asked of this host and its link, such as the
//! credentials of a container, never does.

use aws_smithy_http_client::proxy::ProxyConfig;

use super::failure::Failure;

/// As curl(1) has them: the first that is set counts.
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// This host, and the services of the link: RFC 1122, RFC 3927, RFC 4291, and what EC2 has in IPv6.
const NEAR: &str = "localhost,127.0.0.0/8,::1,169.254.0.0/16,fe80::/10,fd00:ec2::/32";

/// The proxy that the environment names, by its variables.
pub fn proxy(variable: impl Fn(&str) -> Option<String>) -> Result<ProxyConfig, Failure> {
    let first = |names: &[&'static str]| {
        let set = |name: &&'static str| Some((*name, variable(name)?));
        let mut all = names.iter().filter_map(set);
        all.find(|(_, value)| !value.is_empty())
    };
    let Some((name, url)) = first(&PROXIES) else {
        return Ok(ProxyConfig::disabled());
    };
    // Without a scheme it is one that speaks plain HTTP, as everywhere.
    let url = if url.contains("://") {
        url
    } else {
        format!("http://{url}")
    };
    let proxy = ProxyConfig::https(url.as_str()).ok();
    let proxy = proxy
        .filter(|_| is_port_right(&url))
        .ok_or(Failure::BadProxy(name))?;
    let own = first(&EXCEPTIONS).map(|(_, hosts)| format!("{hosts},"));
    Ok(proxy.no_proxy(own.unwrap_or_default() + NEAR))
}

/// The SDK passes over a port that is none, and asks another one.
fn is_port_right(url: &str) -> bool {
    let authority = url.split(['/', '?', '#']).nth(2).unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let behind = host.rsplit(']').next().unwrap_or_default();
    behind
        .split_once(':')
        .is_none_or(|(_, port)| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<ProxyConfig, Failure> {
        proxy(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_first_proxy_that_is_set_counts() {
        assert!(of(&[]).unwrap().is_disabled());
        assert!(
            of(&[("HTTPS_PROXY", ""), ("HTTP_PROXY", "http://a:1")])
                .unwrap()
                .is_disabled()
        );
        for (variables, expected) in [
            (
                &[("HTTPS_PROXY", "http://a:1"), ("ALL_PROXY", "http://b:2")][..],
                "http://a:1/",
            ),
            (&[("https_proxy", "a:1")], "http://a:1/"),
            (
                &[("https_proxy", "http://[::1]:3128/x")],
                "http://[::1]:3128/",
            ),
            (&[("ALL_PROXY", "https://me:x@a:1")], "https://me:x@a:1/"),
        ] {
            let shown = format!("{:?}", of(variables).unwrap());
            assert!(shown.contains(expected), "{shown}");
            assert!(shown.contains("169.254.0.0/16"), "{shown}");
        }
        let own = of(&[("HTTPS_PROXY", "a:1"), ("no_proxy", ".internal")]).unwrap();
        assert!(
            format!("{own:?}").contains(".internal,localhost,"),
            "{own:?}"
        );
    }

    #[test]
    fn what_is_no_url_is_said_and_not_shown() {
        for url in [
            "http://",
            "http://a b",
            "ftp://a:1",
            "socks5://a:1",
            "http://me:secret@[",
            "\n",
            "a:x",
            "a:70000",
            "http://me:x@a:",
            ":",
        ] {
            let failure = of(&[("ALL_PROXY", url)]).unwrap_err();
            assert_eq!(failure, Failure::BadProxy("ALL_PROXY"), "{url}");
            assert!(!format!("{failure}").contains("secret"));
        }
    }
}
