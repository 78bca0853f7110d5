# Member a of three that all hold the data; b is 10.0.0.2 (priority 100), c is 10.0.0.3 (priority 150),
# both with mode "replica". Any one of them may be lost. Every write waits for all that are in sync.
# As /etc/holdfast/holdfast.hcl, mode 600, with `secret`, `root-secret` and `token` beside it.

replication {
  mode            = "primary"
  node_id         = "a"
  listen_addr     = "10.0.0.1:9001"
  peer_addrs      = ["10.0.0.2:9001", "10.0.0.3:9001"]
  secret_key_file = "secret"
  state_dir       = "/var/lib/holdfast"

  ha {
    enabled  = true
    priority = 50

    # The role goes back to the most preferred member once that was in sync for half a minute, and at
    # most once in ten minutes.
    failback_mode   = "auto"
    failback_delay  = "30s"
    failback_window = "10m"

    virtual_ip {
      address   = "10.0.0.100/24"
      interface = "eth0"
    }
  }
}

store {
  data_dir             = "/var/lib/holdfast/store"
  listen               = "0.0.0.0:9000"
  root_access_key      = "admin"
  root_secret_key_file = "root-secret"
}

# Reachable for Prometheus and for load balancers (/primary, /standby, /read-only). Reading is open to
# whoever reaches the port; what changes something needs the token. Commands on this host then need
# HOLDFAST_API=http://10.0.0.1:8080 and, for changes, --token-file /etc/holdfast/token.
api {
  listen     = "10.0.0.1:8080"
  token_file = "token"
}
