//! HTTP clients for what the agent asks others: plain HTTP, of exactly whom it was told to ask.

use reqwest::redirect::Policy;

/// A client that goes through no proxy and follows no redirect. It trusts no certificate, so that it can be made on a
/// host that has none: nothing here speaks TLS.
pub(crate) fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().redirect(Policy::none()).tls_certs_only(std::iter::empty())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    const AGAIN: &str = "HOLDFAST_TEST_WITHOUT_CERTIFICATES";

    #[test]
    fn a_client_can_be_made_on_a_host_without_certificates() {
        if std::env::var_os(AGAIN).is_some() {
            super::builder().build().expect("a client");
            return;
        }
        // Where certificates are looked for is said in the environment of a process.
        let nowhere = [(AGAIN, "1"), ("SSL_CERT_FILE", "/nowhere"), ("SSL_CERT_DIR", "/nowhere")];
        let name = "plain_http::tests::a_client_can_be_made_on_a_host_without_certificates";
        let own = std::env::current_exe().unwrap();
        let again = Command::new(own).args(["--exact", name]).envs(nowhere).output().unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
        assert!(String::from_utf8_lossy(&again.stdout).contains("1 passed"));
    }
}
