# Member b of a pair with a witness. a is 10.0.0.1, the witness is 10.0.0.3.
# As /etc/holdfast/holdfast.hcl, mode 600. Beside it, readable by root alone:
#   secret        the same on all members:  head -c 32 /dev/urandom | base64 > secret
#   root-secret   the same on a and b

replication {
  mode            = "replica"
  node_id         = "b"              # never changes
  listen_addr     = "10.0.0.2:9001"
  peer_addrs      = ["10.0.0.1:9001"]
  witness_addrs   = ["10.0.0.3:9002"]
  secret_key_file = "secret"
  state_dir       = "/var/lib/holdfast"

  ha {
    enabled  = true
    priority = 100

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

api {
  listen = "127.0.0.1:8080"
}

# What else follows the role; the runbook (docs/operations.md, "Hooks and services") has the order.
#
# service "proxy" {
#   unit = "haproxy.service"         # systemctl disable it: only Holdfast starts it
# }
#
# Files that follow the primary; the runbook ("Replicated files") has what the unit needs for it.
#
# sync_files "dhcp" {
#   paths       = ["/etc/dhcp/dhcpd.conf", "/var/lib/dhcp"]
#   exclude     = ["*~", "*.tmp"]
#   on_change   = "/etc/holdfast/dhcp-changed.sh"     # on a standby, after files were placed
#   on_takeover = "/etc/holdfast/dhcp-takeover.sh"    # before services start
# }
#
# and in the `ha` block:
#
#   post_failover_script = "/etc/holdfast/post-failover.sh"
