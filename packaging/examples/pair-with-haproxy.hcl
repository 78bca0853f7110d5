# Member a of a pair with a witness, with an HAProxy in front that follows the role: TLS for the S3 endpoint, or
# whatever else it does today. b has the addresses the other way round, mode "replica", node_id "b" and
# priority 100. As /etc/holdfast/holdfast.hcl, mode 600, with `secret` and `root-secret` beside it.
#
# On both hosts, once: `systemctl disable --now haproxy`. Only Holdfast starts it, on the primary, before the address
# is there; so let it listen on all addresses:
#
#   frontend s3
#     bind :443 ssl crt /etc/haproxy/s3.pem       # and not 10.0.0.100:443, which is not here yet
#     default_backend store
#   backend store
#     server here 127.0.0.1:9000
#
# The kernel gate covers every port of 10.0.0.100, so a host that lost its lease answers nobody there, whatever
# HAProxy is doing. It is stopped after that.

replication {
  mode            = "primary"
  node_id         = "a"
  listen_addr     = "10.0.0.1:9001"
  peer_addrs      = ["10.0.0.2:9001"]
  witness_addrs   = ["10.0.0.3:9002"]
  secret_key_file = "secret"
  state_dir       = "/var/lib/holdfast"

  ha {
    enabled  = true
    priority = 50

    virtual_ip {
      address   = "10.0.0.100/24"
      interface = "eth0"
    }

    # Tells somebody: packaging/hooks/post-failover.sh.
    post_failover_script = "/etc/holdfast/post-failover.sh"
  }
}

service "proxy" {
  unit          = "haproxy.service"
  start_timeout = "5s"
  stop_timeout  = "5s"

  # A host whose HAProxy does not start leaves the role to the other one, if that is in sync.
  on_failure = "give_up"
}

store {
  data_dir             = "/var/lib/holdfast/store"
  listen               = "0.0.0.0:9000"
  root_access_key      = "admin"
  root_secret_key_file = "root-secret"
}

api {
  listen = "127.0.0.1:8080"
}
