//! Whether a request's `Host` names a bucket.
//!
//! It does only as `bucket.domain` under a configured domain. Everything else, the virtual IP and
//! any other name of the host among it, is this endpoint itself with the bucket in the path.

use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};

/// The domains under which buckets have names.
#[derive(Debug, Clone)]
pub struct Hosts {
    domains: Vec<String>,
}

impl Hosts {
    /// Buckets are `bucket.domain` for each of `domains`.
    pub fn new(domains: Vec<String>) -> Hosts {
        let clean = |d: String| d.trim_matches('.').to_ascii_lowercase();
        Hosts { domains: domains.into_iter().map(clean).filter(|d| !d.is_empty()).collect() }
    }
}

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let itself = VirtualHost::new(host);
        if host.starts_with('[') {
            return Ok(itself);
        }
        let name = host.split_once(':').map_or(host, |(name, _)| name).trim_end_matches('.');
        if name.parse::<std::net::IpAddr>().is_ok() {
            return Ok(itself);
        }
        let name = name.to_ascii_lowercase();
        let bucket = self.domains.iter().find_map(|domain| {
            let bucket = name.strip_suffix(domain.as_str())?.strip_suffix('.')?;
            (!bucket.is_empty()).then(|| bucket.to_owned())
        });
        Ok(match bucket {
            Some(bucket) => itself.with_bucket(bucket),
            None => itself,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(host: &str) -> Option<String> {
        let hosts = Hosts::new(vec!["S3.example.org.".into()]);
        let parsed = hosts.parse_host_header(host).unwrap();
        parsed.bucket().map(str::to_owned)
    }

    #[test]
    fn an_address_is_never_a_bucket() {
        for host in ["10.0.0.100", "10.0.0.100:9000", "[fd00::1]:9000", "[fd00::1]", "localhost:9000", "db"] {
            assert_eq!(bucket(host), None, "{host}");
        }
    }

    #[test]
    fn a_name_under_the_domain_is_a_bucket() {
        assert_eq!(bucket("photos.s3.example.org:9000").as_deref(), Some("photos"));
        assert_eq!(bucket("a.b.S3.Example.Org").as_deref(), Some("a.b"));
        assert_eq!(bucket("s3.example.org"), None);
        assert_eq!(bucket(".s3.example.org"), None);
        assert_eq!(bucket("notmys3.example.org"), None);
    }
}
