//! Where the registry is, as a person writes it: `etcd://10.0.1.5:2379,10.1.1.5:2379/domicile`.

use std::str::FromStr;
use std::time::Duration;

/// The prefix of a registry whose address names none.
pub const DEFAULT_PREFIX: &str = "/domicile/";

const SCHEME: &str = "etcd://";
const DEFAULT_PORT: u16 = 2379;
const MOST_MEMBERS: usize = 16;
const LONGEST_PREFIX: usize = 200;

/// How to reach an etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// The members, as `host:port`. Asked in this order; put the nearest first.
    pub endpoints: Vec<String>,
    /// What stands in front of every key; begins and ends with `/`.
    pub prefix: String,
    /// How long one member may take to answer one call. A commit without an answer by then has an unknown outcome.
    pub call_timeout: Duration,
    /// How long before a question is asked of the next member as well; the first one's answer still counts. Must leave
    /// room for a quorum's round trip between regions.
    pub ask_next_after: Duration,
    /// How long a connection may take. Shorter than `call_timeout`, so that a commit that was never sent is known as
    /// such.
    pub connect_timeout: Duration,
    /// Bytes that a member's database may have, as the servers were told by `--quota-backend-bytes`. Counts where a server
    /// does not say it itself: none before etcd 3.6 does.
    pub quota: u64,
    /// Breaks the store on purpose, so that tests of safety can be seen to fail.
    #[doc(hidden)]
    pub sabotage: Sabotage,
}

/// How a test breaks the store. No configuration file and no argument leads here.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sabotage {
    /// Not at all.
    #[default]
    None,
    /// Reads are answered by a member from what it has, without asking the quorum.
    StaleReads,
    /// A commit that got no answer is sent again to the next member, as a careless client does.
    ResentCommits,
}

/// What is wrong with the address of a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address of a registry: {why}; write etcd://HOST:PORT[,HOST:PORT…][/PREFIX]")]
pub struct ConfigError {
    /// What was written, cut to a length that can be shown.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl EtcdConfig {
    /// These members under the default prefix, with the default limits: 1 s a call and before the next member is asked,
    /// 500 ms a connection, and etcd's own default quota.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            prefix: DEFAULT_PREFIX.to_owned(),
            call_timeout: Duration::from_secs(1),
            ask_next_after: Duration::from_secs(1),
            connect_timeout: Duration::from_millis(500),
            quota: domicile_store::room::USUAL_QUOTA,
            sabotage: Sabotage::None,
        }
    }
}

impl FromStr for EtcdConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        // Never shown with what stands before an `@`: people put passwords there.
        let shown = || {
            let shown = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
            shown.chars().take(200).collect::<String>()
        };
        let wrong = |why| ConfigError { text: shown(), why };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not begin with etcd://"))?;
        if rest.contains('@') {
            return Err(wrong("names and passwords do not belong into an address"));
        }
        let (members, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let mut endpoints = Vec::new();
        for member in members.split(',') {
            let endpoint = endpoint(member).map_err(wrong)?;
            if endpoints.contains(&endpoint) {
                return Err(wrong("it names a member twice"));
            }
            if endpoints.len() == MOST_MEMBERS {
                return Err(wrong("it names more than 16 members"));
            }
            endpoints.push(endpoint);
        }
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { DEFAULT_PREFIX.to_owned() } else { format!("/{prefix}/") };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
        if prefix.len() > LONGEST_PREFIX || !prefix.chars().all(fits) || prefix.contains("//") {
            return Err(wrong("the prefix has at most 200 letters, digits, `-`, `_`, `.` and single `/`"));
        }
        Ok(Self { prefix, ..Self::new(endpoints) })
    }
}

/// A member with its port.
fn endpoint(text: &str) -> Result<String, &'static str> {
    let (host, port) = match text.rsplit_once(':') {
        // `[::1]` has colons of its own.
        Some((host, port)) if !port.ends_with(']') => {
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            let port = if digits { port.parse::<u16>().ok() } else { None };
            (host, port.filter(|p| *p != 0).ok_or("a port is a number from 1 to 65535")?)
        }
        _ => (text, DEFAULT_PORT),
    };
    let named = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
    let bracketed = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok());
    if (named || bracketed) && host.len() <= 253 {
        Ok(format!("{host}:{port}"))
    } else {
        Err("a member is a host name or an IP address (IPv6 in brackets), with a port")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_prefix_are_read() {
        let config: EtcdConfig =
            "etcd://10.0.1.5:2379,etcd-2.internal:4001,[::1]:5,plain/clinics/".parse().unwrap();
        assert_eq!(config.endpoints, ["10.0.1.5:2379", "etcd-2.internal:4001", "[::1]:5", "plain:2379"]);
        assert_eq!(config.prefix, "/clinics/");
        assert!(config.connect_timeout < config.call_timeout);
    }

    #[test]
    fn without_a_prefix_there_is_the_default_one() {
        for text in ["etcd://a:1", "etcd://a:1/", "etcd://a:1//"] {
            assert_eq!(text.parse::<EtcdConfig>().unwrap().prefix, DEFAULT_PREFIX);
        }
        assert_eq!("etcd://[::1]".parse::<EtcdConfig>().unwrap().endpoints, ["[::1]:2379"]);
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for bad in [
            "",
            "http://a:1",
            "etcd://",
            "etcd:///domicile",
            "etcd://a:0",
            "etcd://a:65536",
            "etcd://a:+1",
            "etcd://a:x",
            "etcd://a:1,",
            "etcd://a:1,a:1",
            "etcd://a b:1",
            "etcd://::1:5",
            "etcd://a:1?x=y",
            "etcd://a:1/p?x",
            "etcd://a:1/p//q",
            "etcd://a:1/ü",
        ] {
            assert!(bad.parse::<EtcdConfig>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        let error = "etcd://root:hunter2@a:1".parse::<EtcdConfig>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        let error = "http://root:hunter2@a:1".parse::<EtcdConfig>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = format!("etcd://{text}").parse::<EtcdConfig>();
        }
    }
}
